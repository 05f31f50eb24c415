"""`llmchatbot drill`: breaks what the product promises to survive, then checks that nothing was lost."""

from __future__ import annotations

import argparse

from llmchatbot.drill.arguments import add_arguments

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 0 when every promise was kept. Raises StartupError, KeyboardInterrupt."""
    # Nodes and proxies are loaded when somebody drills, not when somebody serves.
    from llmchatbot.drill import command  # noqa: PLC0415

    return command.run(arguments)
