"""Fetch the third-party files of the web client again, exactly as pinned here.

    python scripts/refresh_web_vendor.py            # npm pack, check the integrity, write the files and their READMEs
    python scripts/refresh_web_vendor.py --check    # no network: do the files in the tree still match their READMEs?

To take a newer version: change `version`, run once, and copy the integrity which the error names, after comparing it
with `npm view <name>@<version> dist.integrity`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "src/llmchatbot/web/assets/vendor"
TESTS = ROOT / "tests/browser/vendor"
# fmt: off
LANGUAGES = (
    "bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java", "javascript", "json", "kotlin",
    "markdown", "php", "python", "ruby", "rust", "sql", "swift", "typescript", "xml", "yaml",
)
# fmt: on
SOURCE_MAP = re.compile(rb"\n?//# sourceMappingURL=\S+\s*\Z")


@dataclass(frozen=True)
class Package:
    """One package of the npm registry and the files taken out of it, `path in the package -> path in the tree`."""

    name: str
    version: str
    integrity: str
    licence: str
    why: str
    folder: Path
    files: dict[str, str]


PACKAGES = (
    Package(
        name="marked",
        version="18.2.1",
        integrity="sha512-ii4bxCTCqqwpT86XZWgJNs+ZnAIZksmLGYMViWA7PDIXYIeNo1x6cDdX3JOip9NM/cI6p8z57FxliACboTruMA==",
        licence="MIT",
        why="Markdown to tokens (its lexer only; its HTML renderer is never called)",
        folder=WEB,
        files={"lib/marked.esm.js": "marked/marked.js", "LICENSE": "marked/LICENSE"},
    ),
    Package(
        name="@highlightjs/cdn-assets",
        version="11.12.0",
        integrity="sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
        licence="BSD-3-Clause",
        why="colours of code blocks, loaded with the first code block",
        folder=WEB,
        files={"es/core.min.js": "highlight/core.js", "LICENSE": "highlight/LICENSE"}
        | {f"es/languages/{name}.min.js": f"highlight/languages/{name}.js" for name in LANGUAGES},
    ),
    Package(
        name="rapidoc",
        version="9.3.8",
        integrity="sha512-eCYEbr1Xr8OJZvVCw8SXl9zBCRoLJbhNGuG5IZTHq/RWAOq/O4MafUCuFEyZHsrhLrlUcGZMa64pyhpib8fQKQ==",
        licence="MIT",
        why="the page `/docs`, and nothing else; its style's hash stands in handlers/docs.py",
        folder=WEB,
        files={"dist/rapidoc-min.js": "rapidoc/rapidoc.js", "LICENSE.txt": "rapidoc/LICENSE"},
    ),
    Package(
        name="axe-core",
        version="4.14.1",
        integrity="sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        licence="MPL-2.0",
        why="accessibility rules for the browser tests; no part of the product",
        folder=TESTS,
        files={"axe.min.js": "axe.min.js", "LICENSE": "LICENSE"},
    ),
)


class VendorError(Exception):
    """The registry or the tree does not hold what is pinned here."""


def integrity_of(archive: Path) -> str:
    """Subresource integrity string of a file, as the npm registry writes it (sha512, base64)."""
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def fetch(package: Package, folder: Path) -> Path:
    """Download one package with `npm pack`. Raises VendorError when npm is missing or the integrity differs."""
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError("npm is needed to refresh the vendored files; install Node.js first.")
    command = [npm, "pack", f"{package.name}@{package.version}", "--json", "--pack-destination", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - pinned names only
    if done.returncode != 0:
        raise VendorError(f"npm pack {package.name} failed:\n{done.stderr}")
    archive = folder / Path(json.loads(done.stdout)[0]["filename"]).name
    if (found := integrity_of(archive)) != package.integrity:
        raise VendorError(f"{package.name}@{package.version}: integrity is {found}, pinned is {package.integrity}")
    return archive


def extract(package: Package, archive: Path) -> None:
    """Write the chosen files; the pointer to a source map is cut off since the map is not shipped."""
    with tarfile.open(archive) as tar:
        for inside, target in package.files.items():
            member = tar.extractfile(f"package/{inside}")
            if member is None:
                raise VendorError(f"{package.name}@{package.version} has no {inside}")
            path = package.folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(SOURCE_MAP.sub(b"\n", member.read()))


def readme(packages: Sequence[Package], folder: Path) -> str:
    """The table of what lies in `folder`, with the checksum of each file."""
    lines = [
        "# Third-party files",
        "",
        "Written by `python scripts/refresh_web_vendor.py`; do not edit by hand. Files are as published, except that a",
        "`sourceMappingURL` comment at the end is cut off.",
        "",
        "| package | version | licence | what for |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{p.name}` | {p.version} | {p.licence} | {p.why} |" for p in packages]
    lines += ["", "| file | sha256 |", "| --- | --- |"]
    targets = sorted(target for package in packages for target in package.files.values())
    lines += [f"| `{target}` | `{hashlib.sha256((folder / target).read_bytes()).hexdigest()}` |" for target in targets]
    return "\n".join(lines) + "\n"


def by_folder() -> dict[Path, list[Package]]:
    folders: dict[Path, list[Package]] = {}
    for package in PACKAGES:
        folders.setdefault(package.folder, []).append(package)
    return folders


def refresh() -> None:
    with tempfile.TemporaryDirectory() as name:
        for package in PACKAGES:
            extract(package, fetch(package, Path(name)))
    for folder, packages in by_folder().items():
        (folder / "README.md").write_text(readme(packages, folder), encoding="utf-8")


def check() -> list[str]:
    """Folders whose files are not the ones their README describes."""
    return [
        str(folder.relative_to(ROOT))
        for folder, packages in by_folder().items()
        if (folder / "README.md").read_text(encoding="utf-8") != readme(packages, folder)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the tree with its READMEs, without the network")
    try:
        if parser.parse_args().check:
            wrong = check()
            sys.stdout.write("".join(f"{folder}: differs from its README\n" for folder in wrong) or "as pinned\n")
            return 1 if wrong else 0
        refresh()
    except (VendorError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
