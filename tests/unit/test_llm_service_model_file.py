"""A model file that is missing, broken or too large ends in a sentence, not in a crash of the engine."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_model import make_model

from llmchatbot.errors import StartupError
from llmchatbot.llm_service import engine
from llmchatbot.llm_service.engine import EngineSettings, fitted, memory_needed, require_memory
from llmchatbot.llm_service.model_file import BLOCK_SIZES, ModelFile, inspect

GIGABYTE = 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "reciter.gguf")


def write_header(path: Path, values: dict[str, int | list[int]]) -> Path:
    """A GGUF file without a tensor, of the architecture `test`."""
    writer = gguf.GGUFWriter(path, "test")
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"test.{key}", value)
        else:
            writer.add_uint32(f"test.{key}", value)
    writer.add_tensor("x", np.zeros(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_tells_what_the_service_must_know(model: Path) -> None:
    found = inspect(model)
    assert found == ModelFile(
        path=model,
        size=model.stat().st_size,
        architecture="llama",
        title="tiny reciter",
        trained_context=32768,
        vocabulary=960,
        cache_bytes_per_token=2 * 4 * 2 * (64 + 64),
    )
    assert found.name == "reciter"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"block_count": 3, "embedding_length": 512, "attention.head_count": 8}, 2 * 3 * 8 * 128),
        (
            {"block_count": 2, "embedding_length": 512, "attention.head_count": 8, "attention.head_count_kv": [4, 0]},
            2 * 4 * 128,
        ),
        (
            {"block_count": 2, "embedding_length": 512, "attention.head_count": [8, 8], "attention.key_length": 32},
            2 * 2 * 8 * (32 + 64),
        ),
        ({}, 0),
    ],
)
def test_the_cache_of_a_token_follows_the_heads_of_each_layer(
    tmp_path: Path, values: dict[str, int | list[int]], expected: int
) -> None:
    assert inspect(write_header(tmp_path / "m.gguf", values)).cache_bytes_per_token == expected


def test_sizes_of_all_quantisations_agree_with_the_reference() -> None:
    reference = {kind.value: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes for kind, sizes in BLOCK_SIZES.items() if reference[kind] != sizes} == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "It is empty"),
        (b"\n<!DOCTYPE html><html>Sign in", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 something else", "is not a GGUF model"),
        (b"GGUF", "header cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"\xff" * 64, "header cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "header cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(StartupError, match=words):
        inspect(path)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="models pull"):
        inspect(tmp_path / "none.gguf")
    with pytest.raises(StartupError, match="is no file"):
        inspect(tmp_path)


def test_a_file_cut_anywhere_is_refused_with_a_sentence(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    cuts = [*random.Random(1).sample(range(1, len(whole)), 60), *range(1, 400, 7), len(whole) - 1]
    for cut in cuts:
        (tmp_path / "cut.gguf").write_bytes(whole[:cut])
        with pytest.raises(StartupError):
            inspect(tmp_path / "cut.gguf")


def test_a_header_with_any_byte_damaged_never_crashes_the_reader(model: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    whole = bytearray(model.read_bytes()[:40_000])
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(4, 2_000)] = chance.randrange(256)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with pytest.raises(StartupError):  # at least it is cut off
            inspect(tmp_path / "damaged.gguf")


def test_a_model_in_parts_needs_all_of_them(model: Path, tmp_path: Path) -> None:
    first = tmp_path / "big-00001-of-00002.gguf"
    first.write_bytes(model.read_bytes())
    with pytest.raises(StartupError, match=r"big-00002-of-00002\.gguf"):
        inspect(first)
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(b"x" * 1000)
    assert inspect(first).size == first.stat().st_size + 1000
    assert inspect(first).name == "big"


def test_memory_counts_the_file_and_the_conversations(model: Path) -> None:
    found = inspect(model)
    small, large = (memory_needed(found, EngineSettings(slots=slots, context=4096)) for slots in (1, 64))
    assert large - small > 63 * 4096 * found.cache_bytes_per_token
    wanted = EngineSettings(slots=4, context=4096)
    require_memory(found, wanted, GIGABYTE)
    require_memory(found, wanted, None)
    with pytest.raises(StartupError, match=r"about 0\.2 GB .* 4 conversations of 4096 tokens.* 50\.0 MB are free"):
        require_memory(found, wanted, 50_000_000)


@pytest.mark.parametrize(("context", "expected"), [(4096, 4096), (100_000, 32768)])
def test_no_more_context_than_the_model_was_trained_for(model: Path, context: int, expected: int) -> None:
    assert fitted(inspect(model), EngineSettings(context=context), None).context == expected


@pytest.mark.parametrize(
    ("available", "expected"), [(None, 4), (GIGABYTE, 4), (190_000_000, 2), (150_000_000, 1), (1, 1)]
)
def test_slots_that_nobody_named_are_as_many_as_fit(model: Path, available: int | None, expected: int) -> None:
    found = inspect(model)
    assert fitted(found, EngineSettings(), available).slots == expected
    assert fitted(found, EngineSettings(slots=4), available).slots == 4


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "installed", lambda: False)
    with pytest.raises(StartupError, match="make local"):
        engine.require_installed()
