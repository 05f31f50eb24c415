"""The image and the compose project, as far as they can be judged without an engine (fault 10 of the first backend)."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmchatbot import config

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {field.env.name for field in config.fields()}
SECRET = {field.env.name for field in config.fields() if field.env.secret}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stage(dockerfile: str, name: str) -> str:
    return next(part for part in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE) if f"AS {name}\n" in part)


def test_the_last_stage_is_the_backend(dockerfile: str) -> None:
    assert re.findall(r"^FROM .* AS (\S+)", dockerfile, re.MULTILINE)[-1] == "backend"


def test_images_run_as_a_user_of_their_own_and_stop_gently(dockerfile: str) -> None:
    runtime = stage(dockerfile, "runtime")
    assert "USER 10001:10001" in runtime
    assert "STOPSIGNAL SIGTERM" in runtime
    assert "USER" not in stage(dockerfile, "backend") + stage(dockerfile, "llm-service")


@pytest.mark.parametrize("name", ["backend", "llm-service"])
def test_every_image_has_a_health_check(dockerfile: str, name: str) -> None:
    assert re.search(r"^HEALTHCHECK [\s\S]*?/health", stage(dockerfile, name), re.MULTILINE)


def test_every_package_in_an_image_has_its_hash(dockerfile: str) -> None:
    for line in re.findall(r"^RUN .*pip .*install.*$", dockerfile, re.MULTILINE):
        assert "--require-hashes" in line
        assert "--only-binary :all:" in line


def test_what_the_image_copies_gets_past_the_ignore_file(dockerfile: str) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*", "an ignore file that lists what to leave out forgets the next secret"
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile, re.MULTILINE):
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) or pattern == f"{source}/**" for pattern in kept), source


def keys_of(node: yaml.Node) -> Iterator[list[str]]:
    """Of each mapping, as they are written: PyYAML takes the last of two with one name, engines refuse them."""
    if isinstance(node, yaml.MappingNode):
        yield [key.value for key, _ in node.value]
        for _, value in node.value:
            yield from keys_of(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from keys_of(value)


@pytest.mark.parametrize(
    "path",
    sorted({*ROOT.glob("*.yaml"), *ROOT.glob(".*.yaml"), *(ROOT / "deploy").rglob("*.y*ml")}),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_key_stands_twice(path: Path) -> None:
    """`docker compose up` ended with "mapping key already defined"."""
    documents = list(yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    assert documents
    for document in documents:
        for keys in keys_of(document):
            assert len(keys) == len(set(keys)), [key for key in keys if keys.count(key) > 1]


def test_compose_sets_only_settings_that_exist(compose: dict[str, Any]) -> None:
    for name in ("backend", "llm"):
        for variable in compose["services"][name]["environment"]:
            assert variable.removesuffix("_FILE") in KNOWN, f"{name}: {variable}"


def test_a_model_server_on_the_host_has_a_name_in_the_backend(compose: dict[str, Any]) -> None:
    assert compose["services"]["backend"]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_compose_holds_no_secret(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        environment = service.get("environment", {})
        assert not SECRET & set(environment)
        assert not {name for name in environment if name.endswith("PASSWORD")}


def test_compose_needs_no_setting(compose: dict[str, Any]) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for variable in re.findall(r"(?<!\$)\$\{([^}]*)", text):
        assert re.match(r"[A-Z_]+:[-+]", variable), f"{variable}: without a default compose prints a warning"


def test_compose_mounts_files_that_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_file(), source


def test_the_first_start_script_is_executable() -> None:
    assert (ROOT / "deploy/docker/create_role.sh").stat().st_mode & stat.S_IXUSR


def test_secrets_are_made_once_at_random_and_stay(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "docker" / "make_secrets.py"
    seen = []
    for _ in range(2):
        subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
        seen.append({path.name: path.read_text() for path in tmp_path.iterdir()})
    assert seen[0] == seen[1]
    assert set(seen[0]) == {"postgres_password", "db_password", "jwt_secret", "llm_service_key"}
    assert len({*seen[0].values()}) == 4
    assert all(len(secret) == 64 for secret in seen[0].values())
