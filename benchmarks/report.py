"""One table: ratios first, then medians with their spread; the same rows as Markdown, JSON and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import lists
from benchmarks.quantiles import median
from benchmarks.records import Report
from benchmarks.scenes import ALL
from benchmarks.subjects import RELAYS
from benchmarks.summary import Row, rows_of
from benchmarks.svg import Bar, bars

STREAM_HEADS = (
    "scene · contender",
    "vs Go",
    "vs FastAPI",
    "CPU µs/token",
    "PG µs",
    "delivered",
    "delay p50/p99 ms",
    "first token p50/p99 ms",
    "slow/fast",
    "MB",
)
REQUEST_HEADS = (
    "scene · contender",
    "vs Go",
    "vs FastAPI",
    "CPU µs/request",
    "PG µs",
    "requests/s",
    "p50/p99 ms",
    "MB",
)


def _ratio(row: Row, *peers: str) -> str:
    for peer in peers:
        if row.subject == peer:
            return "1"
        if row.ratios.get(peer):
            return f"{row.ratios[peer]:.2f}"
    return "-"


def _cost(row: Row) -> str:
    if not row.cpu_us:
        return "-"
    digits = 0 if row.cpu_us >= 100 else 1
    return f"{row.cpu_us:.{digits}f} ({row.cpu_low:.{digits}f} to {row.cpu_high:.{digits}f})"


def _pair(first: float, second: float) -> str:
    return f"{first:.3g} / {second:.3g}" if second else "-"


def _flags(row: Row) -> str:
    problems = [f"{row.incomplete} incomplete"] if row.incomplete else []
    problems += [f"{row.errors} errors"] if row.errors else []
    return f" [{', '.join(problems)}]" if problems else ""


def stream_cells(row: Row) -> tuple[str, ...]:
    return (
        f"  {RELAYS[row.subject].label}{_flags(row)}",
        _ratio(row, "go_relay"),
        _ratio(row, "fastapi_relay"),
        _cost(row),
        f"{row.database_us:.1f}" if row.database_us else "-",
        f"{row.share:.0%}" if row.share else "-",
        _pair(row.delay_p50, row.delay_p99),
        _pair(row.first_token_p50, row.first_token_p99),
        f"{row.fairness:.2f}" if row.fairness else "-",
        f"{row.pss:.0f}",
    )


def request_cells(row: Row) -> tuple[str, ...]:
    return (
        f"  {lists.LABELS.get(row.subject, row.subject)}{_flags(row)}",
        _ratio(row, "go_list"),
        _ratio(row, "fastapi_list"),
        _cost(row),
        f"{row.database_us:.0f}",
        f"{row.per_second:.0f}",
        _pair(row.latency_p50, row.latency_p99),
        f"{row.pss:.0f}",
    )


def _grouped(rows: Sequence[Row], titles: dict[str, str]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.scene, []).append(row)
    return [(titles.get(scene, scene), members) for scene, members in groups.items()]


def tables(report: Report) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Heads and rows of each table; a row of one cell is a heading within it."""
    rows = rows_of(report.samples)
    titles = {name: scene.title for name, scene in ALL.items()} | {"list-100k-chats": "20 of 100,000 chats"}
    streams = [row for row in rows if row.scene in ALL]
    requests = [row for row in rows if row.scene not in ALL and row.latency_p99]
    found: list[tuple[tuple[str, ...], list[tuple[str, ...]]]] = []
    for heads, members, cells in ((STREAM_HEADS, streams, stream_cells), (REQUEST_HEADS, requests, request_cells)):
        lines: list[tuple[str, ...]] = []
        for title, group in _grouped(members, titles):
            lines.append((title,))
            lines += [cells(row) for row in group]
        if lines:
            found.append((heads, lines))
    single = [row for row in rows if row.scene not in ALL and "seconds" in row.extra]
    if single:
        lines = [(f"  {row.scene}", f"{row.extra['seconds']:.2f}") for row in single]
        found.append((("start", "seconds"), lines))
    return found


def disturbances(report: Report) -> list[str]:
    """What makes the figures doubtful: somebody else's work on the machine."""
    busy = [sample.extra["foreign_cores"] for sample in report.samples if "foreign_cores" in sample.extra]
    worst = max(busy, default=0.0)
    if worst < 0.15:
        return []
    return [f"other programs used up to {worst:.1f} cores meanwhile (median {median(busy):.1f}); repeat it when quiet"]


def as_text(report: Report) -> str:
    """For a terminal."""
    parts = []
    for heads, lines in tables(report):
        full = [heads, *(line for line in lines if len(line) > 1)]
        widths = [max(len(line[column]) for line in full) for column in range(len(heads))]
        for line in (heads, *lines):
            if len(line) == 1:
                parts.append(line[0])
            else:
                first = line[0].ljust(widths[0])
                parts.append(
                    "  ".join([first, *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
                )
        parts.append("")
    parts += [f"note: {note}" for note in (*report.notes, *disturbances(report))]
    return "\n".join(parts)


def as_markdown(report: Report) -> str:
    """For `docs/benchmarks/`."""
    machine = ", ".join(f"{value} {name}" if name == "cores" else value for name, value in report.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    parts = [
        f"# Benchmark, {report.form} form",
        f"{report.began}, {report.seconds:.0f} s, on {machine}. {versions}.",
        "Ratios are medians of the ratios within one round; costs are medians with their extremes in brackets.",
    ]
    for heads, lines in tables(report):
        table = ["| " + " | ".join(heads) + " |", "|" + " --- |" + " ---: |" * (len(heads) - 1)]
        for line in lines:
            cells = [cell.strip() for cell in line] if len(line) > 1 else [f"**{line[0]}**", *[""] * (len(heads) - 1)]
            table.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(table))
    parts += [f"> {note.splitlines()[0]}" for note in (*report.notes, *disturbances(report))]
    return "\n\n".join(parts) + "\n"


def plots(report: Report) -> dict[str, str]:
    """File names and their SVG."""
    rows = rows_of(report.samples)
    found: dict[str, str] = {}
    headline = [row for row in rows if row.scene == "relay-400x50" and row.cpu_us]
    if headline:
        found["cpu-per-token.svg"] = bars(
            "Processor time per token, 400 answers at 50 tokens/s",
            "µs",
            [_cost_bar(row, RELAYS[row.subject].label) for row in headline],
            note="all processes of each contender; lighter: PostgreSQL; line: extremes over the rounds",
        )
        found["delay.svg"] = bars(
            "Delay of a token, 99 of 100 are faster, 400 answers at 50 tokens/s",
            "ms",
            [Bar(label=RELAYS[row.subject].label, value=row.delay_p99, mine=row.subject == "ours") for row in headline],
            note="from the source's socket to the reader's",
        )
    listing = [row for row in rows if row.scene == "list-100k-chats"]
    if listing:
        found["cpu-per-list.svg"] = bars(
            "Processor time per list of 20 from 100,000 chats",
            "µs",
            [_cost_bar(row, lists.LABELS[row.subject].split(",")[0]) for row in listing],
            note="ours with authentication, the others without; lighter: PostgreSQL; line: extremes",
        )
    growth = [row for row in rows if row.scene.startswith(("list-", "page-", "search-")) and row.scene[-1] == "0"]
    if growth:
        found["growth.svg"] = bars(
            "Reads of one person while the database grows, 99 of 100 are faster",
            "ms",
            [Bar(label=_growth_label(row.scene), value=row.latency_p99, mine=True) for row in growth],
        )
    return found


def _growth_label(scene: str) -> str:
    what, _, size = scene.partition("-")
    return f"{what}, {int(size):,} messages"


def _cost_bar(row: Row, label: str) -> Bar:
    return Bar(
        label=label,
        value=row.cpu_us,
        low=row.cpu_low,
        high=row.cpu_high,
        more=row.database_us,
        mine=row.subject == "ours",
        text=f"{row.cpu_us:.0f}" + (f" + {row.database_us:.0f}" if row.database_us else ""),
    )


def write(report: Report, folder: Path) -> None:
    """`<form>.json`, `<form>.md` and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    pretty = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (folder / f"{report.form}.json").write_bytes(pretty + b"\n")
    (folder / f"{report.form}.md").write_text(as_markdown(report), encoding="utf-8")
    for name, text in plots(report).items():
        (folder / name).write_text(text, encoding="utf-8")
