"""Processes that may use a part of a core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import confinement
from benchmarks.processes import BenchmarkError

# sched(7); the module `os` has no name for it.
SCHED_DEADLINE = 6


@pytest.fixture
def sleeper() -> Iterator[int]:
    # Python itself: what stands in front of it on the path may be a script.
    program = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [Path(sys.executable).resolve(), "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(2)
        yield process.pid
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux, as root")
def test_a_confined_process_gets_its_slice_and_no_more(sleeper: int) -> None:
    try:
        confinement.confine(sleeper, 0.2)
    except BenchmarkError as error:
        pytest.skip(str(error))
    assert os.sched_getscheduler(sleeper) & ~os.SCHED_RESET_ON_FORK == SCHED_DEADLINE


def test_where_it_cannot_be_had_the_scene_is_left_out_with_a_reason(
    sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchmarkError, match="util-linux"):
        confinement.confine(sleeper, 0.2)
