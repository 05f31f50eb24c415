"""Look into a GGUF file before the engine does, so that a missing, broken or too large one ends in a clear sentence.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import msgspec

from llmchatbot.errors import StartupError

PULL_HINT = "Download one with 'llmchatbot models pull qwen2.5-1.5b', or name yours with --model or LOCAL_MODEL."

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KEPT_ARRAY = 4096
"""Longer arrays (vocabulary, merges) are skipped: only their length is kept."""

_BYTES = {
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82}
    | {23: 136, 29: 56, 34: 54, 35: 66},
}
BLOCK_SIZES = {kind: (block, size) for block, sizes in _BYTES.items() for kind, size in sizes.items()}
"""ggml type → (weights in a block, bytes of a block). A type that is not here is only checked for its offset."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the header says."""

    path: Path
    size: int  # bytes, all parts
    architecture: str
    title: str
    trained_context: int  # tokens; 0: not said
    vocabulary: int
    cache_bytes_per_token: int  # keys and values, 16 bits each

    @property
    def name(self) -> str:
        """The name it answers to: the file's, without what is of the file only."""
        return _PART.sub("", self.path.name).removesuffix(".gguf")


class _BrokenError(Exception):
    """The header contradicts itself or ends too early."""


def inspect(path: Path) -> ModelFile:
    """Raises StartupError, which says what is wrong with the file and what to do."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise StartupError(f"{path} is no file. {PULL_HINT}")
        with path.open("rb") as file:
            _require_gguf(path, file.read(64))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(path, size, data)
    except FileNotFoundError as error:
        raise StartupError(f"There is no model file {path}. {PULL_HINT}") from error
    except OSError as error:
        raise StartupError(f"The model file {path} cannot be read: {error.strerror or error}.") from error
    except (_BrokenError, struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise StartupError(
            f"The model file {path} is broken: its header cannot be read. Delete it and download it again."
        ) from error


def _require_gguf(path: Path, head: bytes) -> None:
    if head.startswith(_MAGIC):
        return
    hint = "A model for this service is a .gguf file."
    if not head:
        hint = "It is empty: download it again."
    elif head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        hint = "It is a web page: the download link led to one. Download it again."
    elif head.startswith(b"version https://git-lfs"):
        hint = "It is a Git LFS pointer: run 'git lfs pull', or download the file itself."
    raise StartupError(f"{path} is not a GGUF model. {hint}")


class _Reader:
    """Reads little-endian values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 4

    def scalar(self, kind: str) -> Any:
        (value,) = struct.unpack_from("<" + kind, self._data, self.position)
        self.position += struct.calcsize("<" + kind)
        return value

    def skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._data):
            raise _BrokenError

    def text(self) -> str:
        start = self.position + 8
        self.skip(8 + self.scalar_at(self.position))
        return self._data[start : self.position].decode("utf-8", "replace")

    def scalar_at(self, position: int) -> int:
        return int(struct.unpack_from("<Q", self._data, position)[0])

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise _BrokenError
        return self.scalar(_SCALARS[kind])

    def _array(self) -> Any:
        kind, length = self.scalar("I"), self.scalar("Q")
        if length > len(self._data):
            raise _BrokenError
        if kind in _SCALARS and length <= _KEPT_ARRAY:
            return [self.scalar(_SCALARS[kind]) for _ in range(length)]
        if kind in _SCALARS:
            self.skip(length * struct.calcsize("<" + _SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(length):
                self.skip(8 + self.scalar_at(self.position))
        else:
            raise _BrokenError
        return range(length)


def _read(path: Path, size: int, data: mmap.mmap) -> ModelFile:
    reader = _Reader(data)
    version = reader.scalar("I")
    if version not in {2, 3}:
        raise StartupError(f"{path} is a GGUF file of version {version}; this service reads versions 2 and 3.")
    tensors, pairs = reader.scalar("Q"), reader.scalar("Q")
    if max(tensors, pairs) > size:
        raise _BrokenError
    about = {}
    for _ in range(pairs):
        key = reader.text()
        about[key] = reader.value(reader.scalar("I"))
    _require_whole(path, size, reader, tensors, int(about.get("general.alignment", 32)))
    architecture = str(about.get("general.architecture", ""))
    return ModelFile(
        path=path,
        size=_size_of_all_parts(path, size),
        architecture=architecture,
        title=str(about.get("general.name", "")),
        trained_context=int(about.get(f"{architecture}.context_length", 0)),
        vocabulary=len(about.get("tokenizer.ggml.tokens", ())),
        cache_bytes_per_token=_cache_bytes(about, architecture),
    )


def _require_whole(path: Path, size: int, reader: _Reader, tensors: int, alignment: int) -> None:
    end = 0
    for _ in range(tensors):
        reader.text()
        weights = math.prod(reader.scalar("Q") for _ in range(reader.scalar("I")))
        kind, offset = reader.scalar("I"), reader.scalar("Q")
        block, block_bytes = BLOCK_SIZES.get(kind, (1, 0))
        end = max(end, offset + weights // block * block_bytes)
    start = math.ceil(reader.position / alignment) * alignment
    if start + end > size:
        raise StartupError(
            f"The model file {path} is cut off: {size:,} bytes of {start + end:,} are there. Download it again."
        )


def _cache_bytes(about: dict[str, Any], architecture: str) -> int:
    def number(key: str, default: int) -> int:
        value = about.get(f"{architecture}.{key}", default)
        return int(max(value, default=default) if isinstance(value, list) else value)

    layers, width, heads = number("block_count", 0), number("embedding_length", 0), number("attention.head_count", 1)
    head = width // max(1, heads)
    pair = number("attention.key_length", head) + number("attention.value_length", head)
    shared = about.get(f"{architecture}.attention.head_count_kv", heads)
    rows = sum(shared) if isinstance(shared, list) else int(shared) * layers
    return 2 * pair * rows


def _size_of_all_parts(path: Path, size: int) -> int:
    match = _PART.search(path.name)
    if match is None:
        return size
    total, stem = int(match[2]), path.name[: match.start()]
    parts = [path.with_name(f"{stem}-{number:05d}-of-{total:05d}.gguf") for number in range(1, total + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise StartupError(f"The model {stem} comes in {total} files, and these are missing: {', '.join(missing)}.")
    return sum(part.stat().st_size for part in parts)
