"""The arithmetic behind the table: what is counted, divided, compared and drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks import accounting, report, scenes, seed, svg
from benchmarks.client.plan import Outcome, Spread
from benchmarks.quantiles import median, quantile, spread_of
from benchmarks.records import Report, Sample
from benchmarks.runner import steps_of
from benchmarks.summary import rows_of


def sample(subject: str, round_: int, cpu_us: float, *, scene: str = "relay-400x50", units: int = 1000) -> Sample:
    return Sample(
        scene=scene,
        subject=subject,
        round=round_,
        seconds=1.0,
        units=units,
        expected=1000,
        cpu_us=cpu_us,
        outcome=Outcome(delay=Spread(p50=1.0, p99=2.0, count=units)),
    )


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0), ([7], 0.99, 7), ([1, 2, 3, 4], 0.5, 2), ([1, 2, 3, 4], 0.99, 4), (range(1, 101), 0.95, 95)],
)
def test_a_quantile_is_a_value_that_was_measured(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


def test_the_median_of_an_even_number_lies_between() -> None:
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([]) == 0.0


def test_a_spread_counts_all_and_scales() -> None:
    assert spread_of([3000, 1000, 2000], scale=0.001) == Spread(p50=2.0, p95=3.0, p99=3.0, worst=3.0, count=3)


def test_ratios_are_taken_within_a_round_so_a_slow_moment_harms_both() -> None:
    rows = rows_of(
        [sample("go_relay", 0, 30.0), sample("ours", 0, 24.0), sample("go_relay", 1, 60.0), sample("ours", 1, 48.0)]
    )
    (ours,) = [row for row in rows if row.subject == "ours"]
    assert ours.ratios == {"go_relay": 0.8}
    assert (ours.cpu_low, ours.cpu_high) == (24.0, 48.0)


def test_a_peer_that_could_not_run_gives_no_ratio() -> None:
    (row,) = rows_of([sample("ours", 0, 24.0)])
    assert row.ratios == {}
    assert "-" in report.stream_cells(row)


def test_contenders_rotate_so_that_none_always_goes_first() -> None:
    scene = scenes.StreamScene(name="x", title="x", streams=1, rate=1, subjects=("go_relay", "ours"), rounds=2)
    assert [step.subject.name for step in steps_of([scene])] == ["go_relay", "ours", "ours", "go_relay"]
    assert [step.subject.name for step in steps_of([scene], ["ours"])] == ["ours", "ours"]


def test_a_process_name_with_spaces_and_parentheses_is_read() -> None:
    line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 30 20 20 0 1 0 5 6 7"
    process = accounting.parse_stat(line)
    assert (process.pid, process.parent, process.name) == (42, 7, "a) b (c)")
    assert process.cpu == pytest.approx(350 / os.sysconf("SC_CLK_TCK"))


def test_a_tree_holds_the_children_and_their_cost() -> None:
    work = "import sys; sum(range(3_000_000)); sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        assert process.pid in {each.pid for each in accounting.tree(os.getpid())}
        cost = accounting.cost_of(process.pid, memory=True)
        process.communicate()
    assert cost.cpu > 0
    assert cost.database_cpu == 0
    assert cost.rss >= cost.pss > 0


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (0.3, 0.32), (7, 8), (21, 24), (100, 100), (101, 120), (2700, 3200)]
)
def test_an_axis_ends_at_a_round_number(value: float, expected: float) -> None:
    assert svg.nice_ceiling(value) == pytest.approx(expected)


def test_a_chart_is_well_formed_whatever_the_labels_say() -> None:
    chart = svg.bars('a < b & "c"', "µs", [svg.Bar(label="<&>", value=3, low=2, high=4, more=1, mine=True)])
    root = ET.fromstring(chart)
    assert root.attrib["aria-label"] == 'a < b & "c"'
    assert "<&>" in "".join(root.itertext())


def test_a_report_writes_json_markdown_and_plots(tmp_path: Path) -> None:
    result = Report(
        form="quick",
        began="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        machine={"cores": "2"},
        versions={"python": "3.11"},
        samples=[sample("go_relay", 0, 30.0), sample("ours", 0, 24.0)],
        notes=["FastAPI + httpx did not start"],
    )
    report.write(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"quick.json", "quick.md", "cpu-per-token.svg", "delay.svg"}
    text = report.as_text(result)
    assert "0.80" in text
    assert "FastAPI + httpx did not start" in text
    assert "| 0.80 |" in (tmp_path / "quick.md").read_text(encoding="utf-8")


def test_seeded_rows_are_the_same_in_every_run() -> None:
    first, second = (seed.MessageRows(4) for _ in range(2))
    for rows in (first, second):
        rows.add_chat(seed.new_id(1), 200, rare=True)
    assert first.messages == second.messages
    assert sum(seed.RARE_WORD in row[6] for row in first.messages) == 2
