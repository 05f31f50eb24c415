"""What `deploy/` says of nodes, drains and settings fits what the program does. How proxies behave: tests/e2e."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmchatbot import config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KNOWN = {field.env.name for field in config.fields()}
SECRET = {field.env.name for field in config.fields() if field.env.secret}
DRAIN = config.Settings().server.drain_timeout


def known(variable: str) -> bool:
    return variable in KNOWN or variable.removesuffix("_FILE") in SECRET


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """The lines of [Service]: several may have one name."""
    found: dict[str, list[str]] = {}
    text = (DEPLOY / "llmchatbot.service").read_text(encoding="utf-8")
    for name, value in re.findall(r"^(\w+)=(.*)$", text.partition("[Service]")[2], re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_kubernetes_sets_only_settings_that_exist_and_no_secret(kubernetes: dict[str, dict[str, Any]]) -> None:
    settings = kubernetes["ConfigMap"]["data"]
    assert all(known(name) for name in settings), settings
    assert not SECRET & set(settings)
    assert all(isinstance(value, str) for value in settings.values()), "Kubernetes takes strings alone"
    plain = {name: value for name, value in settings.items() if not name.endswith("_FILE")}
    config.load({**plain, "JWT_SECRET": "x" * 32})


def test_kubernetes_lets_a_node_drain(kubernetes: dict[str, dict[str, Any]]) -> None:
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert config.Duration.parse(kubernetes["ConfigMap"]["data"]["SERVER_DRAIN_TIMEOUT"]) == DRAIN
    assert pod["terminationGracePeriodSeconds"] >= pause + DRAIN + 10
    assert pause > container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]


def test_kubernetes_restarts_nobody_for_a_database_that_is_away(kubernetes: dict[str, dict[str, Any]]) -> None:
    container = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_kubernetes_selects_its_own_pods(kubernetes: dict[str, dict[str, Any]]) -> None:
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kubernetes["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes["Service"]["spec"]["selector"] == labels
    assert kubernetes["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_systemd_lets_a_node_drain_and_its_main_process_end_the_others(unit: dict[str, list[str]]) -> None:
    assert unit["KillMode"] == ["mixed"]
    assert int(unit["TimeoutStopSec"][0]) >= DRAIN + 10


def test_systemd_sets_only_settings_that_exist(unit: dict[str, list[str]]) -> None:
    names = {line.partition("=")[0] for line in unit["Environment"]}
    assert all(known(name) for name in names), names
    credentials = {line.partition(":")[0] for line in unit["LoadCredential"]}
    assert {f"%d/{name}" for name in credentials} <= {line.partition("=")[2] for line in unit["Environment"]}


def test_an_empty_port_is_the_usual_one() -> None:
    """The unit without an instance says SERVER_PORT= and means nothing by it."""
    assert config.load({"SERVER_PORT": ""}).server.port == config.Settings().server.port


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
@pytest.mark.parametrize("name", ["llmchatbot.service", "llmchatbot@.service"])
def test_systemd_finds_no_fault(tmp_path: Path, name: str) -> None:
    text = (DEPLOY / "llmchatbot.service").read_text(encoding="utf-8")
    file = tmp_path / name
    # It looks for the program, and nothing else of the text is about a place.
    file.write_text(text.replace("/opt/llmchatbot/bin/python", "/bin/sh"), encoding="utf-8")
    shown = tmp_path / name.replace("@", "@8081")
    if shown != file:
        shown.symlink_to(file)
    done = subprocess.run(["systemd-analyze", "verify", shown], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_dashboard_is_read_by_grafana_and_has_no_two_panels_of_one_number() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len({*numbers})
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            assert expression.count("(") == expression.count(")"), expression
            assert 'instance=~"$instance"' in expression
