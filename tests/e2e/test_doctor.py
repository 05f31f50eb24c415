"""`llmchatbot doctor`: every row is caused for real, and each failure says what to type."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tiny_model import make_model

from llmchatbot.config import (
    AuthSettings,
    DatabaseSettings,
    ModelSettings,
    RedisSettings,
    ServerSettings,
    Settings,
)
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.doctor import command as doctor
from llmchatbot.doctor import services
from llmchatbot.doctor.rows import Row
from llmchatbot.errors import ModelError
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from tests.conftest import PostgresServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def healthy(tmp_path: Path, database_settings: DatabaseSettings) -> Settings:
    return Settings(server=ServerSettings(port=free_port(), data_dir=tmp_path), database=database_settings)


async def nobody(gateway: ModelGateway) -> dict[str, ModelError | None]:
    """Where a test has no business with the world outside."""
    return {}


def of(rows: list[Row], subject: str) -> Row:
    [row] = [row for row in rows if row.subject == subject]
    return row


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[int]:
    """A server that answers every request with `reply`; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def health_of(service: str) -> bytes:
    body = b'{"status":"healthy","service":"%b","version":"1"}' % service.encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def test_all_is_well(healthy: Settings) -> None:
    said: list[str] = []
    assert await doctor.run(healthy, write=said.append) == 0
    assert "0 failures" in said[0]
    rows = await doctor.examine(healthy)
    assert of(rows, "Schema").detail.endswith("as this program expects")


async def test_secrets_are_never_shown(healthy: Settings) -> None:
    secret = "s3cret-" * 6
    settings = msgspec.structs.replace(
        healthy, auth=AuthSettings(jwt_secret=secret), model=ModelSettings(openai_key=secret)
    )
    table = doctor.render(await doctor.examine(settings, {}, ask=nobody))
    assert "s3cret" not in table
    assert "JWT_SECRET" in table
    assert "OPENAI_API_KEY" in table


async def test_a_taken_port_fails(healthy: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", healthy.server.port))
        other.listen()
        said: list[str] = []
        assert await doctor.run(healthy, write=said.append) == 1
    assert "is taken by another program" in said[0]
    assert "SERVER_PORT=" in said[0]


async def test_a_port_that_this_program_has_is_no_fault(healthy: Settings) -> None:
    async with answering(health_of("llmchatbot-backend")) as port:
        server = msgspec.structs.replace(healthy.server, port=port)
        row = of(await doctor.examine(msgspec.structs.replace(healthy, server=server)), "Port")
    assert (row.status, row.detail) == ("ok", f"127.0.0.1:{port} is served by this program, which runs already")


async def test_a_port_that_another_web_server_has_fails(healthy: Settings) -> None:
    async with answering(health_of("something-else")) as port:
        server = msgspec.structs.replace(healthy.server, port=port)
        row = of(await doctor.examine(msgspec.structs.replace(healthy, server=server)), "Port")
    assert (row.status, row.detail) == ("fail", f"{port} is taken by another program")


async def test_a_data_directory_that_cannot_be_written_fails(healthy: Settings) -> None:
    settings = msgspec.structs.replace(
        healthy, server=msgspec.structs.replace(healthy.server, data_dir=Path("/dev/null/inside"))
    )
    row = of(await doctor.examine(settings), "Data directory")
    assert (row.status, "DATA_DIR=" in row.advice) == ("fail", True)


async def test_a_missing_database_is_fine_where_the_role_may_create_it_and_fails_where_not(
    healthy: Settings, postgres: PostgresServer
) -> None:
    missing = msgspec.structs.replace(healthy.database, name="not there")
    row = of(await doctor.examine(msgspec.structs.replace(healthy, database=missing)), "Database")
    assert (row.status, row.detail) == ("ok", '"not there" is created at the first start')

    await postgres.administrate("CREATE ROLE small LOGIN")
    try:
        small = msgspec.structs.replace(missing, user="small")
        row = of(await doctor.examine(msgspec.structs.replace(healthy, database=small)), "Database")
        assert (row.status, 'CREATE DATABASE "not there"' in row.advice) == ("fail", True)

        small = msgspec.structs.replace(healthy.database, user="small")
        rows = await doctor.examine(msgspec.structs.replace(healthy, database=small))
        assert "REASSIGN OWNED BY" in of(rows, "Schema").advice
        assert of(rows, "Role").advice == f'ALTER DATABASE "{healthy.database.name}" OWNER TO "small";'
    finally:
        await postgres.administrate("DROP ROLE small")


async def test_an_unreachable_database_fails_with_the_sentence_of_the_start(healthy: Settings) -> None:
    nowhere = DatabaseSettings(host="127.0.0.1", port=free_port())
    row = of(await doctor.examine(msgspec.structs.replace(healthy, database=nowhere)), "PostgreSQL")
    assert row.status == "fail"
    assert "nothing listens there" in row.detail


async def test_the_embedded_server_is_examined_before_it_was_made_while_it_runs_and_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    settings = Settings(server=ServerSettings(port=free_port(), data_dir=folder))
    subject = "PostgreSQL (embedded)"
    row = of(await doctor.examine(settings), subject)
    assert (row.status, "made and started at the first start" in row.detail) == ("ok", True)
    assert not folder.exists(), "the doctor changes nothing"

    server = EmbeddedPostgres(folder, extra_settings={"fsync": "off"})
    await server.start()
    rows = await doctor.examine(settings)
    assert of(rows, "Database").status == "ok"
    await server.stop()
    assert "started with the program" in of(await doctor.examine(settings), subject).detail

    nothing = msgspec.structs.replace(settings, database=DatabaseSettings(bin_dir="/nowhere"))
    row = of(await doctor.examine(nothing), subject)
    assert (row.status, "PG_BIN" in row.advice) == ("fail", True)


async def test_redis_is_examined_when_configured(healthy: Settings) -> None:
    assert of(await doctor.examine(healthy), "Redis").status == "ok"
    nowhere = msgspec.structs.replace(healthy, redis=RedisSettings(host="127.0.0.1", port=free_port()))
    row = of(await doctor.examine(nowhere), "Redis")
    assert (row.status, "REDIS_HOST" in row.advice) == ("fail", True)
    async with answering(b"-NOAUTH Authentication required.\r\n") as port:
        locked = msgspec.structs.replace(healthy, redis=RedisSettings(host="127.0.0.1", port=port))
        row = of(await doctor.examine(locked), "Redis")
        assert (row.status, "REDIS_PASSWORD" in row.advice) == ("fail", True)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n{"status":"healthy","model_loaded":  true }\n', "ok"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"model_loaded": false}', "warn"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "ok"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "warn"),
        (b"SSH-2.0-OpenSSH\r\n", "fail"),
    ],
)
async def test_the_model_service_is_asked_for_its_health(healthy: Settings, reply: bytes, status: str) -> None:
    async with answering(reply) as port:
        model = ModelSettings(service_url=f"http://127.0.0.1:{port}")
        assert of(await doctor.examine(msgspec.structs.replace(healthy, model=model)), "Model service").status == status


async def test_a_model_service_that_is_not_there_fails_and_none_at_all_is_a_warning(healthy: Settings) -> None:
    model = ModelSettings(service_url=f"http://127.0.0.1:{free_port()}")
    assert of(await doctor.examine(msgspec.structs.replace(healthy, model=model)), "Model service").status == "fail"
    assert of(await doctor.examine(healthy), "Models").status == "warn"


async def test_a_model_is_asked_with_its_key(healthy: Settings) -> None:
    """A wrong key is found here and not by the first person who sends a message."""
    async with ScriptedServer(key="right") as server:
        for key, status in (("right", "ok"), ("wrong", "fail")):
            model = ModelSettings(service_url=server.url, service_protocol="openai", service_model="m", service_key=key)
            row = of(await doctor.examine(msgspec.structs.replace(healthy, model=model)), "Model m")
            assert row.status == status, row
        assert "LLM_SERVICE_KEY was refused" in row.detail
        assert row.advice == "llmchatbot models test m"


async def test_models_that_the_start_would_refuse_fail(healthy: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "models.toml"
    broken.write_text("broken = [", encoding="utf-8")
    for model, name in (
        (ModelSettings(models_file=str(broken)), "MODELS_FILE"),
        (ModelSettings(models_file=str(tmp_path / "missing.toml")), "MODELS_FILE"),
        (ModelSettings(default_model="gpt-0"), "DEFAULT_MODEL"),
    ):
        row = of(await doctor.examine(msgspec.structs.replace(healthy, model=model)), "Models")
        assert row.status == "fail"
        assert name in row.detail + row.advice


async def test_each_model_of_a_file_is_examined_and_the_default_is_named(healthy: Settings, tmp_path: Path) -> None:
    async with ScriptedServer(key="right") as server:
        file = tmp_path / "models.toml"
        file.write_text(
            'default = "good"\n'
            + "".join(
                f'[models.{name}]\nprotocol = "openai"\nurl = "{server.url}"\nkey_env = "{name.upper()}_KEY"\n'
                for name in ("good", "bad", "keyless")
            ),
            encoding="utf-8",
        )
        settings = msgspec.structs.replace(healthy, model=ModelSettings(models_file=str(file)))
        rows = await doctor.examine(settings, {"GOOD_KEY": "right", "BAD_KEY": "left"})
    assert of(rows, "Model good").status == "ok"
    assert "BAD_KEY was refused" in of(rows, "Model bad").detail
    assert "KEYLESS_KEY" in of(rows, "Model keyless").detail
    assert of(rows, "Models").detail == "of those set up, good answers a chat that names none"


async def test_the_local_model_that_a_start_would_load_is_looked_at(
    healthy: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "require_installed", lambda: None)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    for path, words in ((broken, "not a GGUF"), (tmp_path / "missing.gguf", "no model file")):
        model = ModelSettings(local_model=str(path))
        row = of(await doctor.examine(msgspec.structs.replace(healthy, model=model)), "Local model")
        assert (row.status, words in row.detail) == ("fail", True), row
    whole = make_model(tmp_path / "whole.gguf")
    model = ModelSettings(local_model=str(whole))
    rows = await doctor.examine(msgspec.structs.replace(healthy, model=model))
    assert of(rows, "Local model").status == "ok"
    assert "built-in guide" not in doctor.render(rows)
