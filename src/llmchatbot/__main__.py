"""The command line: serve · doctor · migrate · models · llm-service · bench · drill."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence

from llmchatbot import __version__, config
from llmchatbot.errors import DatabaseUnavailable, StartupError

# Each command imports what it needs when it is called: `llmchatbot --help` should not load a web server.
# ruff: noqa: PLC0415


# Commands with modules of their own: `add_arguments(parser)` and `run(arguments) -> int`.
_APART = {
    "models": ("llmchatbot.models_command", "list, test and download models"),
    "llm-service": ("llmchatbot.llm_service.command", "serve a local model file, in a process of its own"),
    "bench": ("llmchatbot.bench", "how a running deployment streams, seen from outside"),
    "drill": ("llmchatbot.drill", "break what the product promises to survive, and check"),
}


def _serve(arguments: argparse.Namespace) -> int:
    from llmchatbot import launcher, observability

    settings = _settings(arguments)
    observability.configure_logging(settings)
    return launcher.run(settings, _say)


def _worker(arguments: argparse.Namespace) -> int:
    from llmchatbot import launcher, observability

    settings = config.load()
    observability.configure_logging(settings)
    launcher.serve_as_worker(settings)
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from llmchatbot.database.address import Address
    from llmchatbot.database.creation import prepare

    settings = config.load()
    if settings.database.embedded:
        raise StartupError("The embedded database migrates itself at start. Set DB_HOST to migrate another one.")
    asyncio.run(prepare(Address.of(settings.database)))
    _say("The database is there and its schema is up to date.")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from llmchatbot.doctor import command

    return asyncio.run(command.run(config.load()))


def _settings(arguments: argparse.Namespace) -> config.Settings:
    """What is said on the command line wins over the environment."""
    import os

    said = {
        name: str(value)
        for name, value in (
            ("SERVER_WORKERS", arguments.workers),
            ("SERVER_HOST", arguments.host),
            ("SERVER_PORT", arguments.port),
        )
        if value is not None
    }
    os.environ.update(said)
    return config.load()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 # a person at a terminal


def _parser(asked: str) -> argparse.ArgumentParser:
    """`asked`: the command that will run; the others are only listed."""
    parser = argparse.ArgumentParser(prog="llmchatbot", description="A chat backend whose answers are never lost.")
    parser.add_argument("--version", action="version", version=f"llmchatbot {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Callable[[argparse.Namespace], int], help_: str | None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_) if help_ else commands.add_parser(name)
        command.set_defaults(run=run)
        return command

    serve = add("serve", _serve, "start the backend, with its own PostgreSQL unless DB_HOST is set")
    serve.add_argument("--workers", type=int, help="processes that share the port")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    add("worker", _worker, None)
    add("migrate", _migrate, "create and migrate the database of DB_HOST")
    add("doctor", _doctor, "check settings and connections")
    for name, (module_name, help_) in _APART.items():
        command = commands.add_parser(name, help=help_)
        if name == asked:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            if command.get_default("run") is None:
                command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; errors at start-up are one message, not a trace."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words[0] if words else "").parse_args(words)
    try:
        code: int = arguments.run(arguments)
    except (StartupError, DatabaseUnavailable) as error:
        print(f"\nllmchatbot cannot start.\n{error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
