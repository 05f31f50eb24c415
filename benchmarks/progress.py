"""A progress bar of one line; plain lines where nobody watches a terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts steps of known weight (seconds, roughly) and guesses the rest from what they really took."""

    def __init__(self, total: float, *, out: TextIO = sys.stderr) -> None:
        self._total = max(total, 0.001)
        self._done = 0.0
        self._out = out
        self._began = time.monotonic()
        self._live = out.isatty()

    def show(self, text: str) -> None:
        """Say what is being done now."""
        share = min(1.0, self._done / self._total)
        elapsed = time.monotonic() - self._began
        left = elapsed / share - elapsed if share > 0.02 else self._total - elapsed
        bar = ("█" * round(share * 24)).ljust(24, "░")
        line = f"{bar} {share:4.0%}  {max(0, left):4.0f} s left  {text}"
        if self._live:
            self._out.write(f"\r\x1b[2K{line[:118]}")
        else:
            self._out.write(line + "\n")
        self._out.flush()

    def advance(self, weight: float) -> None:
        self._done += weight

    def close(self) -> None:
        if self._live:
            self._out.write("\r\x1b[2K")
        self._out.write(f"done in {time.monotonic() - self._began:.0f} s\n")
        self._out.flush()
