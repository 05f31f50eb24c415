"""The unfinished file of a download: locked, bound to its source, and renamed only when it is whole and right.

Beside `model.gguf` stand, while it is unfinished, `model.gguf.part` and `model.gguf.part.json` (what the bytes belong
to), and when it is finished `model.gguf.sha256`, in the form that `sha256sum -c` reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Self

import msgspec

from llmchatbot.errors import StartupError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPARE = 64 << 20  # bytes left free on the disk


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes come from. `etag` is the storage server's; a resume names it, so that no two files are mixed."""

    url: str
    size: int  # bytes; 0: not said
    etag: str = ""


class PartFile:
    """Raises StartupError, and OSError of the disk."""

    def __init__(self, target: Path) -> None:
        self._target, self._path = target, _beside(target, ".part")
        self._marker = _beside(self._path, ".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise StartupError(f"Another download into {self._path} is running.") from error
        self.size = self._path.stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def source(self) -> Source:
        try:
            return msgspec.json.decode(self._marker.read_bytes(), type=Source)
        except (OSError, msgspec.DecodeError):
            return Source(url="", size=-1)

    def belongs_to(self, source: Source) -> None:
        """Bind it to `source`; bytes of another one are dropped. An etag of "" leaves the one that is known."""
        known = self.source
        if (known.url, known.size) != (source.url, source.size):
            self.clear()
        elif not source.etag:
            return
        self._marker.write_bytes(msgspec.json.encode(source))

    def require_space(self, whole: int) -> None:
        """`whole`: bytes of the finished file."""
        free, missing = shutil.disk_usage(self._path.parent).free, max(0, whole - self.size)
        if missing + _SPARE > free:
            raise StartupError(
                f"The disk of {self._path.parent} has {free:,} bytes left, and {missing:,} are still to come."
            )

    def append(self, block: bytes) -> None:
        self._file.write(block)
        self.size += len(block)

    def clear(self) -> None:
        """Start from nothing."""
        self._file.truncate(0)
        self.size = 0

    def finish(self, sha256: str) -> str:
        """Check what is there (`sha256` "": not known) and give it its name; its sum. A wrong file is deleted."""
        self._file.flush()
        found = sum_of_file(self._path)
        with self._path.open("rb") as written:
            is_model = written.read(4) == b"GGUF"
        if not is_model or found != (sha256 or found):
            self._path.unlink()
            self._marker.unlink(missing_ok=True)
            if not is_model:
                raise StartupError("What the server sent is not a GGUF model. It has been deleted.")
            raise StartupError(f"The file is damaged: its SHA-256 is {found} instead of {sha256}. It has been deleted.")
        os.fsync(self._file.fileno())
        _beside(self._target, ".sha256").write_text(f"{found}  {self._target.name}\n", encoding="utf-8")
        self._path.replace(self._target)
        self._marker.unlink(missing_ok=True)
        return found


def sum_of_file(path: Path) -> str:
    """SHA-256 in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sum(target: Path) -> str:
    """What stands in the `.sha256` beside a finished file; "" when there is nothing of use."""
    try:
        return sum_in(_beside(target, ".sha256").read_text(encoding="utf-8").split(" ")[0])
    except (OSError, UnicodeDecodeError):
        return ""


def sum_in(text: str) -> str:
    """The SHA-256 that an ETag or a word is; "" when it is none."""
    word = text.removeprefix("W/").strip('"').strip().lower()
    return word if _SHA256.fullmatch(word) else ""


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
