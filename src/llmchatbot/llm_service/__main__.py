"""`python -m llmchatbot.llm_service`: the service alone, as the supervised child is started."""

from __future__ import annotations

import argparse
import sys

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.command import add_arguments, run


def main() -> int:
    """0 after a drain, 2 when something must be mended first (the reason stands on stderr)."""
    parser = argparse.ArgumentParser(prog="llmchatbot llm-service")
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
