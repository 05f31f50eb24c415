"""Small, plain SVG charts: horizontal bars with their spread. Readable in light and dark without a script."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

import msgspec

_WIDTH = 760
_LEFT = 250
_RIGHT = 110
_ROW = 34
_TOP = 64

_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .note, .tick { font-size: 11px; fill: #656d76; }
  .value { font-variant-numeric: tabular-nums; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .bar { fill: #9aa7b5; } .bar.mine { fill: #1a7f5a; } .bar.database { fill: #7cc4a5; }
  .spread { stroke: #1f2328; stroke-width: 1.2; opacity: .65; }
  .page { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .note, .tick { fill: #9198a1; } .grid { stroke: #3d444d; } .page { fill: #0d1117; }
    .bar { fill: #656d76; } .bar.mine { fill: #2ea27a; } .bar.database { fill: #1f6f54; } .spread { stroke: #e6edf3; }
  }
"""


_ROUND = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10)


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a chart. `low` and `high` are the extremes over all rounds; `more` is stacked behind `value`."""

    label: str
    value: float
    low: float = 0.0
    high: float = 0.0
    more: float = 0.0
    text: str = ""
    mine: bool = False


def nice_ceiling(value: float) -> float:
    """The smallest round number that is not below `value` and whose quarters are short; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in _ROUND if power * step >= value)


def bars(title: str, unit: str, rows: Sequence[Bar], *, note: str = "") -> str:
    """A whole SVG document."""
    top = nice_ceiling(max([max(bar.value + bar.more, bar.high) for bar in rows], default=1.0))
    scale = (_WIDTH - _LEFT - _RIGHT) / top
    bottom = _TOP + _ROW * len(rows)
    height = bottom + 34
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(title)}>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text class="note" x="16" y="44">{escape(note)}</text>',
    ]
    for step in range(5):
        x = _LEFT + scale * top * step / 4
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{top * step / 4:g}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - 16}" y="{bottom + 18}" text-anchor="end">{escape(unit)}</text>')
    for index, bar in enumerate(rows):
        parts += _bar(bar, _TOP + index * _ROW, scale)
    return "\n".join([*parts, "</svg>\n"])


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    middle = y + _ROW / 2
    width = bar.value * scale
    kind = "bar mine" if bar.mine else "bar"
    parts = [
        f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{_LEFT}" y="{y + 6}" width="{width:.1f}" height="{_ROW - 12}" rx="2"/>',
    ]
    if bar.more:
        parts.append(
            f'<rect class="bar database" x="{_LEFT + width:.1f}" y="{y + 6}" width="{bar.more * scale:.1f}"'
            f' height="{_ROW - 12}" rx="2"/>'
        )
    if bar.high > bar.low:
        low, high = _LEFT + bar.low * scale, _LEFT + bar.high * scale
        parts.append(f'<line class="spread" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>')
    end = _LEFT + max(width + bar.more * scale, bar.high * scale)
    text = bar.text or f"{bar.value:g}"
    parts.append(f'<text class="value" x="{end + 8:.1f}" y="{middle + 4:.1f}">{escape(text)}</text>')
    return parts
