"""The command `llmchatbot llm-service`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from llmchatbot.config import Duration, load
from llmchatbot.errors import StartupError
from llmchatbot.llm_service.engine import EngineSettings
from llmchatbot.llm_service.machine import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `llm-service`."""
    parser.description = "Serve a GGUF model over the NDJSON contract and OpenAI's protocol, in a process of its own."
    parser.add_argument("--model", type=Path, help="the .gguf file (default: LOCAL_MODEL)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on; 0: a free one (default: 5000)")
    parser.add_argument(
        "--slots", type=_number(0, 256), default=0, help="answers at the same time (default: 4 or what fits)"
    )
    parser.add_argument(
        "--context", type=_number(128, 1 << 22), default=8192, help="tokens of one conversation (default: 8192)"
    )
    parser.add_argument("--threads", type=_number(0, 1024), default=0, help="threads; 0: one less than the cores")
    parser.add_argument(
        "--batch",
        type=_number(8, 4096),
        default=64,
        help="prompt tokens read at once; small: a stop frees the slot sooner; with a GPU take 512 (default: 64)",
    )
    parser.add_argument("--waiting", type=_number(0, 10_000), default=64, help="requests that may wait (default: 64)")
    parser.add_argument("--drain", type=Duration.parse, default=Duration(30), help="time after SIGTERM (default: 30s)")
    parser.add_argument("--api-key-file", type=Path, help="file with the key (default: LLM_SERVICE_KEY)")
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM. Raises StartupError for what the operator must mend."""
    from llmchatbot.llm_service import service  # noqa: PLC0415 # other commands should not load a web server

    settings = load()
    logging.basicConfig(
        level=settings.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    model = args.model or (Path(settings.model.local_model).expanduser() if settings.model.local_model else None)
    if model is None:
        raise StartupError("Name the model: llmchatbot llm-service --model FILE.gguf (or set LOCAL_MODEL).")
    service.run(
        service.ServiceSettings(
            model=model,
            host=args.host,
            port=args.port,
            listen_fd=args.listen_fd,
            key=_key_of(args.api_key_file) if args.api_key_file else settings.model.service_key,
            engine=EngineSettings(
                slots=args.slots,
                context=args.context,
                threads=args.threads or max(1, usable_cores() - 1),
                batch=args.batch,
            ),
            waiting=args.waiting,
            drain=args.drain,
        )
    )
    return 0


def _key_of(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"The key file {path} cannot be read: {error}.") from error
    if not key or not key.isprintable() or " " in key:
        raise StartupError(f"The key file {path} must hold one key without spaces, e.g. from: openssl rand -hex 32")
    return key


def _number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number between two bounds."""

    def parse(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number between {low} and {high}")
        return int(text)

    return parse
