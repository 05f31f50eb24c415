"""The command line of the drill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmchatbot.__main__ import main
from llmchatbot.drill.plans import PLANS


def test_list_names_every_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [plan.name for plan in PLANS]


def test_unknown_plan_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "--plan", "nonsense"]) == 1
    assert "redis-flaky" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_everything_that_it_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    marker = f"drill-test-{os.getpid()}-{number}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path), "MARKER": marker}
    with (tmp_path / "log").open("wb") as log:
        drill = subprocess.Popen(
            [sys.executable, "-m", "llmchatbot", "drill", "--plan", "zombie"],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A background job of a shell begins with Ctrl-C ignored, and hands that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 # no threads yet
        )
    try:
        deadline = time.monotonic() + 60
        while len(started := working_in(tmp_path)) < 5 and time.monotonic() < deadline:
            assert drill.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert len(started) >= 5, "the drill, its database and its nodes"
        drill.send_signal(number)
        assert drill.wait(30) == 130
        while working_in(tmp_path) and time.monotonic() < deadline + 30:
            time.sleep(0.1)
        assert not working_in(tmp_path)
    finally:
        if drill.poll() is None:
            drill.kill()
            drill.wait()
        for left in working_in(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


def working_in(folder: Path) -> list[int]:
    """Processes whose arguments or environment name the folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in known:
                found.append(int(process.name))
    return found
