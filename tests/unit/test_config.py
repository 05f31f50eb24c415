"""Settings: read as they are documented, refused all at once and by the name of their variable."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from llmchatbot import config
from llmchatbot.config import LONGEST_ACCESS_TOKEN, Duration, Settings
from llmchatbot.errors import StartupError
from llmchatbot.security import AccessClaims, TokenKeys, read_access_token, sign_access_token


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900), ("168h", 604_800), ("1h30m", 5400), ("20ms", 0.02), ("1.5s", 1.5), ("90d", 7_776_000), (" 45 ", 45)],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert config.load({"SESSION_ABSOLUTE_EXPIRY": text}).auth.absolute_expiry == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["15 minutes", "m15", "-15m", "15m,", "1e3", "٣m", "inf", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="looks like 15m"):
        Duration.parse(text)
    with pytest.raises(StartupError, match="JWT_ACCESS_TOKEN_EXPIRY"):
        config.load({"JWT_ACCESS_TOKEN_EXPIRY": text})


def test_the_names_and_defaults_of_the_first_backend_hold() -> None:
    """An environment made for it needs no change."""
    settings = config.load({})
    assert (settings.server.port, settings.database.port) == (8080, 5432)
    assert (settings.database.user, settings.database.name) == ("chat_app_user", "chat_db")
    assert settings.database.max_connections == 25
    assert settings.auth.access_token_expiry == Duration(900)
    assert settings.auth.refresh_token_expiry == Duration(168 * 3600)
    assert settings.model.service_timeout == Duration(300)
    known = {field.env.name for field in config.fields()}
    assert known >= {
        *("SERVER_HOST", "SERVER_PORT", "SERVER_READ_TIMEOUT", "SERVER_IDLE_TIMEOUT", "ENVIRONMENT"),
        *("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME", "DB_SSLMODE", "DB_MAX_OPEN_CONNS"),
        *("JWT_SECRET", "JWT_ACCESS_TOKEN_EXPIRY", "JWT_REFRESH_TOKEN_EXPIRY"),
        *("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB", "LLM_SERVICE_URL", "LLM_SERVICE_TIMEOUT"),
    }


def test_all_that_is_wrong_is_told_at_once_by_its_variable() -> None:
    wrong = {"SERVER_PORT": "http", "LLM_TITLES": "maybe", "LEASE": "soon", "SERVER_WORKERS": "-1"}
    with pytest.raises(StartupError) as refused:
        config.load(wrong)
    assert all(name in str(refused.value) for name in wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVER_PORT", "70000"),
        ("ENVIRONMENT", "staging"),
        ("DB_MAX_OPEN_CONNS", "1"),
        ("DB_SSLMODE", "on"),
        ("JWT_SECRET", "short"),
        ("LLM_SERVICE_URL", "localhost:5000"),
        ("LLM_SERVICE_PROTOCOL", "grpc"),
        ("LEASE", "4s"),
        ("STREAM_ROUND", "2s"),
        # Each would have started and then served nobody.
        ("LOGIN_ATTEMPTS", "0"),
        ("MESSAGES_PER_MINUTE", "0"),
        ("MAX_ACTIVE_GENERATIONS", "0"),
        ("DB_STATEMENT_TIMEOUT", "0"),
        ("JWT_ACCESS_TOKEN_EXPIRY", "0s"),
        ("JWT_ACCESS_TOKEN_EXPIRY", "20ms"),
        ("JWT_ACCESS_TOKEN_EXPIRY", "30d"),
        ("LLM_MAX_CONCURRENT", "0"),
        ("SERVER_REQUEST_TIMEOUT", "0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        config.load({name: value})


@pytest.mark.parametrize("name", ["REDIS_DB", "REFRESH_GRACE", "SERVER_DRAIN_TIMEOUT", "STREAM_RETENTION"])
def test_where_zero_means_something_it_is_taken(name: str) -> None:
    config.load({name: "0"})


def test_the_longest_life_of_an_access_token_that_can_be_set_is_one_that_is_believed() -> None:
    """A longer one was signed at each log-in and refused at each request."""
    keys, now = TokenKeys.of("s" * 32), datetime(2026, 1, 1, tzinfo=UTC)
    lifetime = config.load({"JWT_ACCESS_TOKEN_EXPIRY": str(LONGEST_ACCESS_TOKEN)}).auth.access_token_expiry
    issued_at = int(now.timestamp())
    claims = AccessClaims(
        user_id=uuid4(),
        session_id=uuid4(),
        token_id=uuid4(),
        issued_at=issued_at,
        expires_at=issued_at + int(lifetime),
    )
    assert read_access_token(keys, sign_access_token(keys, claims), now) == claims


def test_production_invents_no_secret() -> None:
    with pytest.raises(StartupError, match="JWT_SECRET: required in production"):
        config.load({"ENVIRONMENT": "production"})
    assert config.load({"ENVIRONMENT": "production", "JWT_SECRET": "x" * 32}).production


def test_a_secret_may_stand_in_a_file_and_other_settings_may_not(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * 40 + "\n", encoding="utf-8")
    assert config.load({"JWT_SECRET_FILE": str(file)}).auth.jwt_secret == "x" * 40
    assert config.load({"DB_NAME_FILE": str(file)}).database.name == Settings().database.name
    with pytest.raises(StartupError, match="JWT_SECRET"):
        config.load({"JWT_SECRET_FILE": str(tmp_path / "missing")})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("DB_NAME=from_file\nDB_USER='of the file'\n", encoding="utf-8")
    settings = config.load(config.read_environment(file, {"DB_NAME": "said"}))
    assert (settings.database.name, settings.database.user) == ("said", "of the file")


def test_a_home_folder_is_the_same_for_all_that_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` is read by no shell: the secret was kept in a folder called "~", the database at home."""
    monkeypatch.setenv("HOME", "/somebody")
    assert config.load({"DATA_DIR": "~/data"}).server.data_dir == Path("/somebody/data")
