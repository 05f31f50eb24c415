"""Real nginx and HAProxy with the configurations of `deploy/`, on free ports, in front of nodes.

What differs between installations stands on lines that end in "# CHANGE"; `adapted` replaces values on those lines
alone, so everything else is tested as it ships.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from nodes import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_MARK = "# CHANGE"
_HOST = "localhost"


def adapted(text: str, values: Mapping[str, str]) -> str:
    """`text` with `values` put in on marked lines. Raises AssertionError when a line or a value is left over."""
    unused = set(values)
    lines = []
    for line in text.splitlines():
        if line.rstrip().endswith(_MARK):
            found = [old for old in values if old in line]
            assert found, f"nobody says what to put here: {line.strip()}"
            unused.difference_update(found)
            for old in found:
                line = line.replace(old, values[old])  # noqa: PLW2901
        lines.append(line)
    assert not unused, f"nowhere to put: {unused}"
    return "\n".join(lines) + "\n"


def why_not(kind: str) -> str:
    """What is missing for a proxy of this kind; empty if nothing."""
    for program in (kind, "openssl"):
        if shutil.which(program, path=_path()) is None:
            return f"needs {program}: apt-get install {program}"
    return ""


def _path() -> str:
    # Where Debian puts servers, and not everybody's PATH leads.
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


class Proxy:
    """One proxy in front of nodes that listen on `ports` of this machine. `timeout` in whole seconds."""

    def __init__(self, kind: str, folder: Path, ports: Sequence[int], *, timeout: int = 60) -> None:
        self.kind = kind
        self.folder = folder / kind
        self.port = free_port()
        self.plain_port = free_port()
        self.base = f"https://{_HOST}:{self.port}"
        self._ports = ports
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self.folder.mkdir()
        self._make_certificate()
        command = self._nginx() if self.kind == "nginx" else self._haproxy()
        with (self.folder / "access.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={"PATH": _path(), "HOME": str(self.folder)},
                start_new_session=True,
            )
        await self._wait_listening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def logs(self) -> str:
        """Everything that it has written about anything."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "cert.pem"))

    def session(self, *, local_address: str | None = None) -> aiohttp.ClientSession:
        """A client that knows the certificate; each request has a connection of its own, as different people have."""
        connector = aiohttp.TCPConnector(
            ssl=self.trust(),
            force_close=True,
            limit=0,
            family=socket.AF_INET,
            local_addr=(local_address, 0) if local_address else None,
        )
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))

    def _make_certificate(self) -> None:
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ["-subj", f"/CN={_HOST}", "-addext", f"subjectAltName=DNS:{_HOST}"]
        subprocess.run(
            ["openssl", "req", "-x509", *kind, *names, "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=self.folder,
            check=True,
            capture_output=True,
        )
        both = (self.folder / "cert.pem").read_text() + (self.folder / "key.pem").read_text()
        (self.folder / "both.pem").write_text(both)

    def _nginx(self) -> list[str]:
        first, second = self._ports
        values = {
            "127.0.0.1:8081": f"127.0.0.1:{first}",
            "127.0.0.1:8082": f"127.0.0.1:{second}",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "server_name chat.example.org": f"server_name {_HOST}",
            "/var/log/nginx/llmchatbot.log": str(self.folder / "requests.log"),
            "/etc/ssl/certs/chat.example.org.pem": str(self.folder / "cert.pem"),
            "/etc/ssl/private/chat.example.org.key": str(self.folder / "key.pem"),
            "timeout 60s": f"timeout {self._timeout}s",
        }
        site = self.folder / "llmchatbot.conf"
        site.write_text(adapted((DEPLOY / "nginx.conf").read_text(), values))
        places = "".join(
            f"    {place}_temp_path {self.folder / place};\n"
            for place in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = self.folder / "main.conf"
        user = "user root;\n" if os.geteuid() == 0 else ""
        # What a distribution's nginx.conf says around a site; the level of its error log is nginx's default.
        main.write_text(
            f"{user}daemon off;\npid {self.folder / 'pid'};\nerror_log {self.folder / 'error.log'} error;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{\n{places}    include {site};\n}}\n"
        )
        return ["nginx", "-e", str(self.folder / "error.log"), "-p", str(self.folder), "-c", str(main)]

    def _haproxy(self) -> list[str]:
        first, second = self._ports
        values = {
            "127.0.0.1:8081": f"127.0.0.1:{first}",
            "127.0.0.1:8082": f"127.0.0.1:{second}",
            "bind :80 ": f"bind 127.0.0.1:{self.plain_port} ",
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/chat.example.org.pem": str(self.folder / "both.pem"),
            "log /dev/log local0": "log stdout format raw local0",
            "    user haproxy": "#",
            "    group haproxy": "#",
            "maxconn 20000": "maxconn 1000",
            "60s": f"{self._timeout}s",
        }
        config = self.folder / "haproxy.cfg"
        config.write_text(adapted((DEPLOY / "haproxy.cfg").read_text(), values))
        return ["haproxy", "-db", "-f", str(config)]

    async def _wait_listening(self) -> None:
        deadline = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"{self.kind} ended with {self._process.returncode}:\n{self.logs()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise AssertionError(f"{self.kind} does not listen:\n{self.logs()}")
