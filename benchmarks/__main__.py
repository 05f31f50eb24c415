"""`python -m benchmarks`: measure the product beside its peers and print one table."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from benchmarks import report, runner, scenes
from benchmarks.client.__main__ import raise_file_limit
from benchmarks.processes import ROOT
from benchmarks.records import Report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="the two figures that matter, about three minutes (default)")
    form.add_argument("--full", action="store_true", help="every scene, about 15 minutes")
    parser.add_argument("--scene", action="append", default=[], help="only this scene; may be given again")
    parser.add_argument("--only", action="append", default=[], help="only this contender; may be given again")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each scene")
    parser.add_argument("--window", type=float, default=0.0, help="seconds that are counted in each measurement")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of JSON and plots")
    parser.add_argument("--no-files", action="store_true", help="print the table and write nothing")
    return parser


def _list_scenes(arguments: argparse.Namespace) -> list[scenes.ListScene]:
    if not arguments.full and not arguments.scene:
        return [scenes.LIST_QUICK]
    offered = [scenes.LIST_FULL, scenes.GROWTH]
    return [scene for scene in offered if not arguments.scene or scene.name in arguments.scene]


def main() -> int:
    arguments = _parser().parse_args()
    names = arguments.scene
    if names:
        stream_scenes = [scenes.ALL[name] for name in names if name in scenes.ALL]
    else:
        stream_scenes = list(scenes.FULL if arguments.full else scenes.QUICK)
    list_scenes = _list_scenes(arguments)
    changes = {name: value for name in ("rounds", "window") if (value := getattr(arguments, name))}
    stream_scenes = [msgspec.structs.replace(scene, **changes) for scene in stream_scenes]
    list_scenes = [msgspec.structs.replace(scene, **changes) for scene in list_scenes]
    raise_file_limit()
    form = "full" if arguments.full else "part" if names or arguments.only else "quick"
    result = uvloop.run(_measured(form, stream_scenes, list_scenes, arguments.only))
    sys.stdout.write(report.as_text(result) + "\n")
    if not arguments.no_files and form != "part":
        report.write(result, arguments.output)
        sys.stdout.write(f"written to {arguments.output}\n")
    return 0


async def _measured(
    form: str, stream_scenes: list[scenes.StreamScene], list_scenes: list[scenes.ListScene], only: list[str]
) -> Report:
    task = asyncio.create_task(runner.run(form, stream_scenes, list_scenes, only=only))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that the children are stopped
    return await task


if __name__ == "__main__":
    sys.exit(main())
