"""The secret that is made once: whole, private, the same for all who start at once, and never an empty one."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmchatbot.config import AuthSettings, ServerSettings, Settings
from llmchatbot.errors import StartupError
from llmchatbot.launcher import load_or_make_secret


def settings_for(folder: Path) -> Settings:
    return Settings(server=ServerSettings(data_dir=folder))


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    made = load_or_make_secret(settings_for(folder)).auth.jwt_secret
    assert len(made) == 64
    assert load_or_make_secret(settings_for(folder)).auth.jwt_secret == made
    assert stat.S_IMODE((folder / "jwt_secret").stat().st_mode) == 0o600
    assert [file.name for file in folder.iterdir()] == ["jwt_secret"]


def test_a_secret_that_was_set_is_kept_nowhere(tmp_path: Path) -> None:
    settings = Settings(server=ServerSettings(data_dir=tmp_path / "new"), auth=AuthSettings(jwt_secret="s" * 32))
    assert load_or_make_secret(settings) == settings
    assert not (tmp_path / "new").exists()


def test_all_who_start_at_once_get_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        made = set(executor.map(lambda _: load_or_make_secret(settings_for(tmp_path)).auth.jwt_secret, range(32)))
    assert len(made) == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff\xfe" * 3], ids=["empty", "line", "short", "binary"])
def test_a_damaged_secret_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """An empty file, e.g. after the power went, was taken: tokens were signed with nothing, by anybody who likes."""
    (tmp_path / "jwt_secret").write_bytes(content)
    with pytest.raises(StartupError, match=r"rm .*jwt_secret"):
        load_or_make_secret(settings_for(tmp_path))


def test_a_folder_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="DATA_DIR"):
        load_or_make_secret(settings_for(tmp_path / "file" / "inside"))
