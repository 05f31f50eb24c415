"""Memory and cores are those of the container, not of the machine around it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec
import pytest

from llmchatbot.config import ModelSettings, ServerSettings, Settings
from llmchatbot.errors import StartupError
from llmchatbot.llm_service import discovery
from llmchatbot.llm_service.discovery import find_local_model
from llmchatbot.llm_service.machine import available_memory, require_instructions, usable_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_is_what_the_system_has_available(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    5000000 kB\n"})
    assert available_memory(root) == 5_000_000 * 1024


def test_memory_is_no_more_than_the_container_may_use(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 5000000 kB",
            "proc/self/cgroup": "0::/app/llm\n",
            "sys/fs/cgroup/app/llm/memory.max": "1000000000\n",
            "sys/fs/cgroup/app/llm/memory.current": "700000000\n",
            "sys/fs/cgroup/app/llm/memory.stat": "anon 300000000\ninactive_file 400000000\n",
        },
    )
    assert available_memory(root) == 700_000_000


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_a_container_without_a_limit_has_what_the_system_has(tmp_path: Path, limit: str) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 1000 kB",
            "sys/fs/cgroup/memory.max": limit,
            "sys/fs/cgroup/memory.current": "5",
        },
    )
    assert available_memory(root) == 1_024_000


def test_without_proc_half_of_the_memory_is_taken_as_free(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 1 << 20)])
def test_cores_follow_the_quota_of_the_container(tmp_path: Path, quota: str, most: int) -> None:
    root = write(tmp_path, {"sys/fs/cgroup/cpu.max": quota})
    assert usable_cores(root) == min(most, usable_cores(tmp_path / "nothing"))


def test_a_processor_without_avx2_is_told_before_the_engine_dies_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(StartupError, match="AVX2"):
        require_instructions(write(tmp_path, {"proc/cpuinfo": "flags : sse avx fma\n"}))
    require_instructions(write(tmp_path, {"proc/cpuinfo": "flags : sse avx avx2 fma\n"}))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    require_instructions(write(tmp_path, {"proc/cpuinfo": "Features : fp asimd\n"}))


def settings_of(data_dir: Path, *, local_model: str = "") -> Settings:
    return Settings(server=ServerSettings(data_dir=data_dir), model=ModelSettings(local_model=local_model))


def test_make_run_finds_the_newest_model_in_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "installed", lambda: True)
    assert find_local_model(settings_of(tmp_path)) is None
    folder = tmp_path / "models"
    folder.mkdir()
    names = [
        "old.gguf",
        "new-00001-of-00002.gguf",
        "new-00002-of-00002.gguf",
        "mmproj-new.gguf",
        "x.gguf.part",
        "a.txt",
    ]
    for age, name in enumerate(names):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (1000 + age, 1000 + age))
    assert find_local_model(settings_of(tmp_path)) == folder / "new-00001-of-00002.gguf"


def test_a_named_model_is_used_and_without_the_extra_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "installed", lambda: False)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(b"")
    assert find_local_model(settings_of(tmp_path)) is None
    assert find_local_model(settings_of(tmp_path, local_model="/there/b.gguf")) == Path("/there/b.gguf")


def test_a_file_that_was_only_found_steps_back_before_what_was_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is named does not: two settings mean two models."""
    monkeypatch.setattr(discovery, "installed", lambda: True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "found.gguf").write_bytes(b"")
    for other in (
        ModelSettings(openai_key="k"),
        ModelSettings(openrouter_key="k"),
        ModelSettings(models_file="models.toml"),
    ):
        settings = msgspec.structs.replace(settings_of(tmp_path), model=other)
        assert find_local_model(settings) is None
        named = msgspec.structs.replace(other, local_model="named.gguf")
        assert find_local_model(msgspec.structs.replace(settings, model=named)) == Path("named.gguf")
    elsewhere = ModelSettings(service_url="http://127.0.0.1:5000", local_model="named.gguf")
    assert find_local_model(msgspec.structs.replace(settings_of(tmp_path), model=elsewhere)) is None
