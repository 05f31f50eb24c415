"""The command `llmchatbot models pull NAME|URL`: size first, then a question, then a download that can be resumed."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path

from llmchatbot.config import load
from llmchatbot.errors import StartupError
from llmchatbot.llm_service.catalogue import CatalogueModel, catalogue, find_model
from llmchatbot.llm_service.engine import gigabytes
from llmchatbot.llm_service.part_file import recorded_sum, sum_of_file

_BAR = 30
_STEP = 0.2  # seconds between two drawings of the bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `models pull`."""
    parser.description = "Download a model into DATA_DIR/models, where `make run` finds it."
    parser.add_argument("model", nargs="?", help="a name of the catalogue, or the https:// address of a .gguf file")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--into", type=Path, help="folder (default: DATA_DIR/models)")
    parser.add_argument("--sha256", type=_sum, help="sum that the file at a URL must have")


def run(args: argparse.Namespace) -> int:
    """0 when the model is there, 1 when the person said no. Raises StartupError for everything else."""
    if not args.model:
        _say(_listing())
        return 0
    settings = load()
    model = find_model(args.model, sha256=args.sha256 or "")
    target = (args.into or settings.server.data_dir / "models") / model.file_name
    if target.exists():
        _say(_already_there(model, target))
        return 0
    return asyncio.run(_pull(model, target, ask=not args.yes, trust_env=settings.model.use_environment_proxies))


async def _pull(model: CatalogueModel, target: Path, *, ask: bool, trust_env: bool) -> int:
    import aiohttp  # noqa: PLC0415 # the command line should not load an HTTP client for its help

    from llmchatbot.llm_service.download import Downloader  # noqa: PLC0415

    async with aiohttp.ClientSession(trust_env=trust_env) as session:
        downloader = Downloader(session)
        remote = await downloader.look(model.url, sha256=model.sha256, size=model.size)
        _say(f"{model.title or model.name}{f' ({model.licence})' if model.licence else ''}")
        _say(f"  from  {model.url}\n  to    {target}")
        _say(f"  size  {gigabytes(remote.size) if remote.size else 'not said by the server'}")
        _say(f"  sum   {_about_sum(model, remote.sha256)}")
        if ask and not await asyncio.to_thread(_agreed):
            return 1
        bar = Bar()
        found = await downloader.fetch(remote, target, bar.show)
        bar.end()
    _say(f"The model is there: {target}\n  sha256 {found}, kept in {target.name}.sha256")
    return 0


def _about_sum(model: CatalogueModel, known: str) -> str:
    if model.sha256:
        return f"{model.sha256} (known beforehand)"
    if known:
        return f"{known} (named by the server)"
    return "not known beforehand: the sum of what arrives is recorded, which finds later damage only"


def _already_there(model: CatalogueModel, target: Path) -> str:
    expected = model.sha256 or recorded_sum(target)
    if not expected:
        return f"{target} is there already; no sum of it is recorded."
    if sum_of_file(target) != expected:
        raise StartupError(f"{target} is damaged: its SHA-256 is not {expected}. Delete it, then pull again.")
    return f"{target} is there already, and its sum is right."


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise StartupError("Nobody is here to be asked: say --yes to download it.")
    return input("Download it? [y/N] ").strip().lower() in {"y", "yes"}


def _listing() -> str:
    rows = [f"  {model.name:14} {gigabytes(model.size):>7}  {model.title} ({model.licence})" for model in catalogue()]
    return "\n".join(["Models: llmchatbot models pull NAME", *rows, "or: llmchatbot models pull https://….gguf"])


class Bar:
    """A progress bar on stderr; without a terminal a line at each tenth, so that logs stay short."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._first: int | None = None
        self._drawn = 0.0
        self._tenth = -1

    def show(self, have: int, total: int) -> None:
        """`have` and `total` in bytes; `total` 0: not known."""
        now = time.monotonic()
        if self._first is None:
            self._first = have
        if self._terminal and (now - self._drawn >= _STEP or have == total):
            self._drawn = now
            sys.stderr.write("\r" + self._line(have, total, now) + "\x1b[K")
            sys.stderr.flush()
        elif not self._terminal and total and have * 10 // total > self._tenth:
            self._tenth = have * 10 // total
            sys.stderr.write(self._line(have, total, now) + "\n")

    def _line(self, have: int, total: int, now: float) -> str:
        speed = (have - (self._first or 0)) / max(0.001, now - self._began)
        text = f"{gigabytes(have)} at {speed / 1e6:.1f} MB/s"
        if not total:
            return text
        filled = have * _BAR // total
        left = (total - have) / speed if speed else 0
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {have * 100 // total:3d} % {text}, {left:.0f} s left"

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._terminal:
            sys.stderr.write("\n")


def _sum(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("a SHA-256 is 64 hexadecimal digits")
    return text.lower()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
