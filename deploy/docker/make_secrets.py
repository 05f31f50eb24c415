"""Make each secret once, at random, and keep it: no installation has the password of another one.

Runs in the backend's image before anything else (compose.yaml, service `secrets`). The folder is a volume that only
the containers of this project mount; the files are readable in them, because PostgreSQL runs as another user.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

NAMES = ("postgres_password", "db_password", "jwt_secret", "llm_service_key")


def make(folder: Path) -> list[str]:
    """The names that were made now; a secret that is there already stays as it is."""
    made = []
    for name in NAMES:
        path = folder / name
        if path.exists():
            continue
        # Renamed into place, so that a half-written secret is never used.
        draft = folder / f".{name}.new"
        draft.write_text(secrets.token_hex(32), encoding="ascii")
        draft.chmod(0o444)
        draft.replace(path)
        made.append(name)
    folder.chmod(0o755)
    return made


if __name__ == "__main__":
    for new in make(Path(sys.argv[1])):
        print(f"made: {new}")
