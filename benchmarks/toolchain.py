"""What the peers need and a fresh clone does not have: a virtual environment, and two Go programs where Go is there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import CACHE, ROOT, BenchmarkError

HERE = Path(__file__).resolve().parent
VENV = ROOT / ".cache" / "bench-venv"
DEBIAN_GO_CODE = Path("/usr/share/gocode")
GO_HINT = "apt-get install golang-go golang-github-gin-gonic-gin-dev golang-github-jackc-pgx-v4-dev"


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _run(argv: list[str | Path], *, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    done = subprocess.run(list(map(str, argv)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(map(str, argv))} failed:\n{done.stderr[-2000:]}")


def peer_python() -> Path:
    """The interpreter of the peers' environment, made on first use from the hashed `requirements.txt`."""
    requirements = HERE / "requirements.txt"
    python = VENV / "bin" / "python"
    mark = VENV / ".installed"
    if python.exists() and mark.exists() and mark.read_text() == _digest(requirements):
        return python
    if uv := shutil.which("uv"):
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV])
        _run([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", requirements])
    else:
        _run([sys.executable, "-m", "venv", "--clear", VENV])
        _run([python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", requirements])
    mark.write_text(_digest(requirements))
    return python


def go_program(name: str) -> Path | None:
    """Build `peers/<name>/main.go` with Debian's Go and Debian's packages, offline; None when that cannot be done."""
    source = HERE / "peers" / name / "main.go"
    binary = CACHE / f"{name}-{_digest(source)}"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(DEBIAN_GO_CODE),
        "GOCACHE": str(ROOT / ".cache" / "go-build"),
        "GOFLAGS": "",
        "GOPROXY": "off",
    }
    try:
        _run([go, "build", "-trimpath", "-o", binary, "."], env=env, cwd=source.parent)
    except BenchmarkError:
        return None
    return binary


def versions() -> dict[str, str]:
    """What was compared, for the record."""
    found = {"python": sys.version.split()[0]}
    if go := shutil.which("go"):
        found["go"] = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout.split()[2]
    listing = subprocess.run(
        [VENV / "bin" / "python", "-c", _LIST_VERSIONS], capture_output=True, text=True, check=False
    ).stdout
    for line in listing.split():
        name, _, version = line.partition("==")
        found[name] = version
    return found


_LIST_VERSIONS = """
from importlib.metadata import version
for name in ("fastapi", "httpx", "sqlalchemy", "uvicorn", "pydantic"):
    print(f"{name}=={version(name)}")
"""
