"""`llmchatbot models`: the models that are set up, one of them tried, and local ones downloaded."""

from __future__ import annotations

import argparse
import asyncio
import sys

from llmchatbot import config
from llmchatbot.errors import UnknownModel
from llmchatbot.llm.gateway import ModelGateway, ModelInfo
from llmchatbot.llm.trial import Trial, try_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`list` (the default), `test NAME` and `pull NAME|URL`."""
    from llmchatbot.llm_service import pull  # noqa: PLC0415 # its catalogue is read for this command alone

    actions = parser.add_subparsers(metavar="action")
    actions.add_parser("list", help="the models that are set up").set_defaults(run=run)
    test = actions.add_parser("test", help="ask one and show first-token time and tokens a second")
    test.add_argument("name", nargs="?", default="", help="public name; default: the default model")
    test.set_defaults(run=run_test)
    pull_parser = actions.add_parser("pull", help="download a local model; without a name: the catalogue")
    pull.add_arguments(pull_parser)
    pull_parser.set_defaults(run=pull.run)


def run(arguments: argparse.Namespace) -> int:
    """Asks nobody: what stands in the settings. Raises StartupError."""
    gateway = _gateway()
    rows = [_row(model, default=model.name == gateway.default_model()) for model in gateway.describe()]
    _say(_table(("", "model", "protocol", "context", "output", "can", "$/M in", "$/M out"), rows))
    return 0


def run_test(arguments: argparse.Namespace) -> int:
    """0 when the answer was whole. Raises StartupError."""
    try:
        trial = asyncio.run(_try(arguments.name))
    except UnknownModel as error:
        _say(error.detail)
        return 1
    for notice in trial.notices:
        _say(f"notice: {notice}")
    if trial.error:
        _say(f"{trial.model}: {trial.error}")
        return 1
    rate = f"{trial.tokens_per_second:.1f}" if trial.tokens_per_second is not None else "?"
    first = f"{trial.first_token * 1000:.0f} ms" if trial.first_token is not None else "?"
    _say(f"{trial.text}\n\n{trial.model}: first token after {first}, {trial.output_tokens} tokens, {rate} tokens/s")
    return 0


async def _try(name: str) -> Trial:
    gateway = _gateway()
    try:
        return await try_model(gateway, gateway.resolve(name).name)
    finally:
        await gateway.aclose()


def _gateway() -> ModelGateway:
    environment = config.read_environment()
    return ModelGateway.from_settings(config.load(environment).model, environment)


def _row(model: ModelInfo, *, default: bool) -> tuple[str, ...]:
    abilities = {
        "prefix": model.continues_prefix,
        "reasoning": model.reasoning,
        "vision": model.vision,
        "tools": model.tools,
    }
    return (
        "*" if default else "",
        model.name,
        model.protocol,
        f"{model.context_window:,}",
        f"{model.max_output_tokens:,}",
        " ".join(name for name, has in abilities.items() if has) or "-",
        "-" if model.input_price is None else f"{model.input_price:g}",
        "-" if model.output_price is None else f"{model.output_price:g}",
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
