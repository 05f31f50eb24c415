"""What the documents say is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from llmchatbot import __version__, config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "src/llmchatbot/llm/guide_docs/*.md")
    for path in ROOT.glob(pattern)
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return _FENCE.sub("", text)


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_is_documented() -> None:
    table, example = read("docs/settings.md"), read(".env.example")
    for field in config.fields():
        assert f"`{field.env.name}`" in table
        assert re.search(rf"^#{field.env.name}=", example, re.MULTILINE)
        assert field.env.help.endswith("."), f"{field.env.name}: a setting is explained by a sentence"


def test_the_example_environment_says_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", read(".env.example"), flags=re.MULTILINE), encoding="utf-8")
    assert len(dotenv_values(file)) == len(list(config.fields()))
    assert config.load(config.read_environment(file, {})) == config.Settings()


def test_every_variable_that_the_readme_names_exists() -> None:
    known = {field.env.name for field in config.fields()} | {f"{field.env.name}_FILE" for field in config.fields()}
    for page in ("README.md", "README.ru.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md"):
        named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", read(page)))
        assert named <= known, f"{page}: {named - known}"


def test_the_russian_readme_has_the_same_headings_and_commands() -> None:
    english, russian = read("README.md"), read("README.ru.md")
    levels = [[len(marks) for marks, _ in _HEADING.findall(without_code(text))] for text in (english, russian)]
    assert levels[0] == levels[1]
    commands = [[(kind, body) for kind, body in _FENCE.findall(text) if kind == "sh"] for text in (english, russian)]
    assert commands[0] == commands[1]
    targets = [_LINK.findall(without_code(text)) for text in (english, russian)]
    swapped = {"README.ru.md": "README.md", "docs/img/russian.png": "docs/img/chat-1280-light.png"}
    assert [swapped.get(target, target) for target in targets[0]] == [swapped.get(t, t) for t in targets[1]]


def test_the_russian_readme_says_as_much_in_the_same_places() -> None:
    english, russian = (without_code(read(name)) for name in ("README.md", "README.ru.md"))
    # What is typed or named stays as it is in any language.
    assert sorted(re.findall(r"`[^`]+`", english)) == sorted(re.findall(r"`[^`]+`", russian))
    for kind in (r"^\|", r"^- "):
        assert len(re.findall(kind, english, re.MULTILINE)) == len(re.findall(kind, russian, re.MULTILINE)), kind


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, f"{page.relative_to(ROOT)}: {named - targets}"


def test_nothing_says_to_install_the_name_from_an_index() -> None:
    """The package `llmchatbot` on PyPI is a stranger's; this project is installed from a checkout."""
    by_name = re.compile(r"(?:pipx?3?|uv|uvx)\b[^\n`]*?\s['\"]?llmchatbot(?![\w./-])", re.IGNORECASE)
    assert by_name.search("pip install 'llmchatbot[local]'")
    assert by_name.search("pip install -U llmchatbot")
    assert not by_name.search("pip install --no-deps .")
    code = [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/*")]
    for path in [*PAGES, *filter(Path.is_file, code), ROOT / "Makefile", ROOT / "Dockerfile"]:
        told = by_name.search(path.read_text(encoding="utf-8"))
        assert told is None, f"{path.relative_to(ROOT)}: {told[0]}"


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)\]?", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    assert f'version = "{__version__}"' in read("pyproject.toml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.relative_to(ROOT)}: {target}"
        if anchor and file.suffix == ".md":
            text = without_code(file.read_text(encoding="utf-8"))
            anchors = {slug(title) for _, title in _HEADING.findall(text)} | set(re.findall(r'<a id="([^"]+)"', text))
            assert anchor in anchors, f"{page.relative_to(ROOT)}: {target}"


def slug(title: str) -> str:
    """As code hosts make anchors from headings."""
    return re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_document_names_a_place_of_one_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w.])/(?:home|root|Users|work|tmp)/[\w./-]+", page.read_text(encoding="utf-8"))
    assert not found


@pytest.mark.parametrize("name", ["base", "local", "dev"])
def test_the_locked_requirements_are_hashed_and_name_no_index(name: str) -> None:
    text = read(f"requirements/{name}.txt")
    assert not re.search(r"^\s*--(?:index|extra|find|trusted)|://", text, re.MULTILINE)
    pinned = re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z0-9-]+==[^\n]* \\\n    --hash=sha256:", text, re.MULTILINE))


def test_the_locked_requirements_agree_with_each_other() -> None:
    base, local, dev = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", read(f"requirements/{name}.txt"), re.MULTILINE))
        for name in ("base", "local", "dev")
    )
    assert base.items() <= local.items()
    assert base.items() <= dev.items()


def test_every_direct_dependency_has_its_reason() -> None:
    reasons = read("docs/adr/0002-dependencies.md")
    declared = re.search(r"^dependencies = \[(.*?)^\]", read("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert declared is not None
    for name in re.findall(r'^    "([a-z0-9-]+)', declared[1], re.MULTILINE):
        assert f"`{name}`" in reasons, name
