"""What is here: the settings, the data directory, the port."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from pathlib import Path

import aiohttp

from llmchatbot import SERVICE, config
from llmchatbot.config import Settings
from llmchatbot.doctor.rows import Row, fetched, shown

_LITTLE_SPACE = 1 << 30


async def examine_settings(settings: Settings) -> list[Row]:
    rows = []
    for field in config.fields():
        value = getattr(getattr(settings, field.section), field.attribute)
        if value != field.default:
            rows.append(Row("ok", field.env.name, "(set, not shown)" if field.env.secret else shown(str(value))))
    if not settings.auth.jwt_secret:
        rows.append(Row("ok", "JWT_SECRET", "made once and kept in DATA_DIR"))
    if not settings.production and settings.server.host not in {"127.0.0.1", "::1", "localhost"}:
        rows.append(
            Row(
                "warn", "ENVIRONMENT", f"development, but reachable at {settings.server.host}", "ENVIRONMENT=production"
            )
        )
    return rows


async def examine_data_dir(settings: Settings) -> list[Row]:
    return await asyncio.to_thread(_examine_folder, settings.server.data_dir.expanduser().absolute())


def _examine_folder(folder: Path) -> list[Row]:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return [
            Row(
                "fail",
                "Data directory",
                f"{folder} cannot be written",
                "DATA_DIR=<a folder of yours>, or start as its owner",
            )
        ]
    free = shutil.disk_usage(nearest).free
    detail = f"{folder} ({'exists' if nearest == folder else 'made at the first start'}, {free >> 20} MB free)"
    if free < _LITTLE_SPACE:
        return [Row("warn", "Data directory", detail, "make room, or DATA_DIR=<a folder on a larger disk>")]
    return [Row("ok", "Data directory", detail)]


async def examine_port(settings: Settings) -> list[Row]:
    host, port = settings.server.host, settings.server.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [await _taken_port_row(settings)]
        if error.errno == errno.EACCES:
            return [Row("fail", "Port", f"{port} is for root only", "SERVER_PORT=8080")]
        return [Row("fail", "Port", f"cannot listen on {host}: {error.strerror}", "SERVER_HOST=127.0.0.1")]
    return [Row("ok", "Port", f"{host}:{port} is free")]


async def _taken_port_row(settings: Settings) -> Row:
    """By this program itself, most likely: people ask the doctor while it runs."""
    host, port = settings.server.host, settings.server.port
    try:
        _, body = await fetched(f"{settings.server.local_url}/health")
    except (aiohttp.ClientError, TimeoutError, ValueError):
        body = b""
    if SERVICE.encode() in body:
        return Row("ok", "Port", f"{host}:{port} is served by this program, which runs already")
    advice = f"SERVER_PORT=<another>, or: ss -ltnp sport = :{port}"
    return Row("fail", "Port", f"{port} is taken by another program", advice)
