"""Models as data: what a file, the environment and the settings make appear, and every way to get it wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llmchatbot.config import ModelSettings
from llmchatbot.errors import StartupError, UnknownModel
from llmchatbot.llm.catalog import build_registry
from llmchatbot.llm.endpoint import Endpoint, Secret, origin_of
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm.registry import Registry

GOOD = """
default = "quick"

[models.quick]
protocol = "openai"
url = "https://api.groq.com/openai/v1"
key_env = "GROQ_API_KEY"
upstream_name = "llama-9"
context_window = 131072
max_output_tokens = 8192
capabilities = ["prefix", "tools"]
input_price = 0.05
output_price = 0.08
fallbacks = ["local"]
max_concurrent = 20
limits = { first_byte = 10 }

[models.local]
protocol = "ndjson"
url = "http://127.0.0.1:5000"
"""


def registry_of(text: str, tmp_path: Path, environment: dict[str, str] | None = None, **settings: object) -> Registry:
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    return build_registry(ModelSettings(models_file=str(path), **settings), environment or {})  # type: ignore[arg-type]


def problems_of(text: str, tmp_path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        registry_of(text, tmp_path)
    return str(caught.value)


def test_a_file_makes_models(tmp_path: Path) -> None:
    registry = registry_of(GOOD, tmp_path, {"GROQ_API_KEY": "gsk"})
    assert registry.names() == ["quick", "local", "guide"]
    assert registry.default == "quick"
    quick = registry.resolve("")
    assert quick.upstream_name == "llama-9"
    assert quick.info.continues_prefix
    assert quick.info.tools
    assert not quick.info.vision
    assert quick.info.fallbacks == ("local",)
    endpoint = quick.endpoint
    assert endpoint is not None
    assert (endpoint.key, endpoint.key_setting) == ("gsk", "GROQ_API_KEY")
    assert endpoint.url_setting == "models.quick.url"
    assert endpoint.keep_alive
    assert (endpoint.limits.first_byte, endpoint.limits.whole) == (10.0, 600.0)
    assert [model.name for model in registry.chain("quick")] == ["quick", "local"]


def test_an_unknown_model_lists_the_known_ones(tmp_path: Path) -> None:
    registry = registry_of(GOOD, tmp_path)
    with pytest.raises(UnknownModel) as caught:
        registry.resolve("gpt-0")
    assert caught.value.status == 404
    assert caught.value.extra == {"models": ["quick", "local", "guide"]}


def test_without_anything_the_guide_answers() -> None:
    registry = build_registry(ModelSettings(), {})
    assert registry.names() == ["guide"]
    assert registry.default == "guide"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ModelSettings(openai_key="k"), "gpt-6-sol"),
        (ModelSettings(anthropic_key="k"), "claude-sonnet-5-5"),
        (ModelSettings(gemini_key="k"), "gemini-3.8-flash"),
        (ModelSettings(openrouter_key="k"), "openrouter-auto"),
        (ModelSettings(openrouter_key="k", openai_key="k"), "gpt-6-sol"),
        (ModelSettings(openai_key="k", service_url="http://x:1"), "default"),
        (ModelSettings(service_url="http://x:1", service_model="qwen"), "qwen"),
        (ModelSettings(openai_key="k", default_model="gpt-6-luna"), "gpt-6-luna"),
        (ModelSettings(autodetect=True), "default"),
        (ModelSettings(scripted=True), "guide"),
    ],
)
def test_the_default_model_is_the_one_that_was_said_most_clearly(settings: ModelSettings, expected: str) -> None:
    assert build_registry(settings, {}).default == expected


def test_a_well_known_key_makes_its_models_appear_with_the_key_bound_to_its_origin() -> None:
    registry = build_registry(ModelSettings(anthropic_key="secret"), {})
    endpoint = registry.resolve("claude-haiku-5-5").endpoint
    assert endpoint is not None
    assert origin_of(endpoint.url) == ("https", "api.anthropic.com", 443)
    assert endpoint.key == "secret"
    assert not [name for name in registry.names() if name.startswith(("gpt", "gemini"))]


def test_the_service_may_take_a_key_and_has_its_own_time(tmp_path: Path) -> None:
    settings = ModelSettings(service_url="http://llm:5000", service_key="k", service_protocol="ndjson")
    model = build_registry(settings, {}).resolve("")
    assert model.entry.protocol == "ndjson"
    assert model.endpoint is not None
    assert (model.endpoint.key_setting, model.endpoint.url_setting) == ("LLM_SERVICE_KEY", "LLM_SERVICE_URL")
    assert model.endpoint.limits.whole == 300.0
    assert model.endpoint.keep_alive


def test_a_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n", encoding="utf-8")
    registry = registry_of(GOOD, tmp_path, {"GROQ_API_KEY_FILE": str(tmp_path / "key")})
    endpoint = registry.resolve("quick").endpoint
    assert endpoint is not None
    assert endpoint.key == "from a file"


def test_a_missing_key_does_not_stop_the_start(tmp_path: Path) -> None:
    endpoint = registry_of(GOOD, tmp_path).resolve("quick").endpoint
    assert endpoint is not None
    assert endpoint.key == ""


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = """
    [models.a]
    protocol = "morse"
    [models.b]
    protocol = "openai"
    url = "ftp://x"
    context_window = 10
    [models.c]
    protocol = "ndjson"
    url = "http://x"
    colour = "red"
    """
    said = problems_of(text, tmp_path)
    for part in (
        "models.a: Invalid enum value 'morse'",
        "models.b.url: begins with http://",
        "models.b.context_window",
    ):
        assert part in said
    assert "models.c: Object contains unknown field `colour`" in said


def test_fallbacks_must_exist_and_not_run_in_circles(tmp_path: Path) -> None:
    entry = '\n[models.{0}]\nprotocol = "ndjson"\nurl = "http://x"\nfallbacks = {1}\n'
    assert "there is no model 'nobody'" in problems_of(entry.format("a", '["nobody"]'), tmp_path)
    assert "cannot stand in for itself" in problems_of(entry.format("a", '["a"]'), tmp_path)
    circle = entry.format("a", '["b"]') + entry.format("b", '["c"]') + entry.format("c", '["a"]')
    assert "in a circle: a -> b -> c -> a" in problems_of(circle, tmp_path)
    diamond = entry.format("a", '["b", "c"]') + entry.format("b", '["d"]') + entry.format("c", '["d"]')
    registry = registry_of(diamond + entry.format("d", "[]"), tmp_path)
    assert [model.name for model in registry.chain("a")] == ["a", "b", "c", "d"]


def test_one_key_goes_to_one_origin_only(tmp_path: Path) -> None:
    entry = '\n[models.{0}]\nprotocol = "openai"\nurl = "{1}"\nkey_env = "K"\n'
    two = entry.format("a", "https://one.example/v1") + entry.format("b", "https://two.example/v1")
    assert "a key goes to one origin only" in problems_of(two, tmp_path)
    registry_of(entry.format("a", "https://one.example/v1") + entry.format("b", "https://one.example:443/x"), tmp_path)


@pytest.mark.parametrize("text", ["= broken", "default = 7", "[models]\nx = 1", "\x00"])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    assert str(tmp_path / "models.toml") in problems_of(text, tmp_path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StartupError, match=r"MODELS_FILE: No such file or directory: /nowhere/models\.toml"):
        build_registry(ModelSettings(models_file="/nowhere/models.toml"), {})


def test_an_unknown_default_is_named() -> None:
    with pytest.raises(StartupError, match="DEFAULT_MODEL: there is no model 'x'"):
        build_registry(ModelSettings(default_model="x"), {})


def test_the_example_file_is_right() -> None:
    example = Path(__file__).parents[2] / "models.example.toml"
    registry = build_registry(ModelSettings(models_file=str(example)), {})
    assert len(registry.names()) > 5


async def test_start_up_makes_no_outgoing_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: calls.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: calls.append(address))
    settings = ModelSettings(openai_key="k", anthropic_key="k", service_url="http://localhost:5000", autodetect=True)
    gateway = ModelGateway.from_settings(settings)
    assert gateway.default_model() == "default"
    await gateway.aclose()
    assert calls == []


def test_a_secret_does_not_show_itself() -> None:
    endpoint = Endpoint(url="https://x", key=Secret("sk-123"))
    assert "sk-123" not in repr(endpoint)
    assert "sk-123" not in f"{endpoint!r} {[endpoint.key]}"


@pytest.mark.parametrize(
    ("base", "joined"),
    [
        ("http://x:5000", "http://x:5000/health"),
        ("http://x:5000/", "http://x:5000/health"),
        ("https://x/v1?api-version=2", "https://x/v1/health?api-version=2"),
    ],
)
def test_a_path_is_joined_before_the_query(base: str, joined: str) -> None:
    assert Endpoint(url=base).join("health") == joined
