"""The models as data: what each is called, where it lives, what it can and costs, and who stands in for it.

Built once at start from the environment and the models file; nothing here makes an outgoing call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from llmchatbot.errors import StartupError, UnknownModel
from llmchatbot.llm.endpoint import Endpoint, origin_of

ProtocolName = Literal["auto", "ndjson", "openai", "openai-responses", "anthropic", "gemini", "guide", "scripted"]
Capability = Literal["prefix", "reasoning", "vision", "tools"]

IN_PROCESS = frozenset({"guide", "scripted"})


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may know of a model. Prices are per million tokens, in the currency of the provider's list."""

    name: str
    protocol: str
    context_window: int
    max_output_tokens: int
    continues_prefix: bool
    reasoning: bool
    vision: bool
    tools: bool
    input_price: float | None = None
    output_price: float | None = None
    fallbacks: tuple[str, ...] = ()


class LimitsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits of one model in seconds; what is left out is the setting of the whole product."""

    connect: float | None = None
    first_byte: float | None = None
    chunk: float | None = None
    whole: float | None = None


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[models.NAME]` table of the models file. `docs/models.md` explains every member."""

    protocol: ProtocolName
    url: str = ""
    key_env: str = ""
    upstream_name: str = ""
    context_window: int = 8192
    max_output_tokens: int = 4096
    capabilities: frozenset[Capability] = frozenset()
    input_price: float | None = None
    output_price: float | None = None
    fallbacks: tuple[str, ...] = ()
    max_concurrent: int = 0
    max_waiting: int = 1000
    limits: LimitsEntry = LimitsEntry()
    keep_alive: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    prefix_style: Literal["assistant", "flag", "vllm"] = "assistant"
    unsupported_parameters: frozenset[str] = frozenset()
    headers: dict[str, str] = {}
    extra_body: dict[str, object] = {}
    script: str = ""


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with its name and its endpoint, ready to be built."""

    name: str
    entry: ModelEntry
    endpoint: Endpoint | None = None
    upstream_name: str = ""
    """The name that the upstream knows; "" takes the first one that it lists."""

    @property
    def info(self) -> ModelInfo:
        """What clients may know."""
        entry = self.entry
        return ModelInfo(
            name=self.name,
            protocol=entry.protocol,
            context_window=entry.context_window,
            max_output_tokens=entry.max_output_tokens,
            continues_prefix="prefix" in entry.capabilities,
            reasoning="reasoning" in entry.capabilities,
            vision="vision" in entry.capabilities,
            tools="tools" in entry.capabilities,
            input_price=entry.input_price,
            output_price=entry.output_price,
            fallbacks=entry.fallbacks,
        )


class Registry:
    """All models by public name, in the order in which they are listed."""

    def __init__(self, models: Iterable[RegisteredModel], *, default: str) -> None:
        """Raises StartupError naming every problem: unknown default or fallback, cycles, keys shared by origins."""
        self._models = {model.name: model for model in models}
        problems = list(_problems(self._models, default))
        if problems:
            raise StartupError("The models are not set up rightly:\n  " + "\n  ".join(problems))
        self.default = default

    def __iter__(self) -> Iterator[RegisteredModel]:
        return iter(self._models.values())

    def names(self) -> list[str]:
        """All public names."""
        return list(self._models)

    def resolve(self, name: str) -> RegisteredModel:
        """The model called `name`, the default for "". Raises UnknownModel, whose extra lists the known names."""
        model = self._models.get(name or self.default)
        if model is None:
            known = self.names()
            raise UnknownModel(
                f"There is no model '{name[:100]}'; known are: {', '.join(known)}.", extra={"models": known}
            )
        return model

    def chain(self, name: str) -> list[RegisteredModel]:
        """The model called `name` and, in order, those that stand in for it, theirs after them, each once."""
        first = self.resolve(name)
        chain: dict[str, RegisteredModel] = {}
        queue = [first]
        while queue:
            model = queue.pop(0)
            if model.name not in chain:
                chain[model.name] = model
                queue += [self._models[fallback] for fallback in model.entry.fallbacks]
        return list(chain.values())


def _problems(models: Mapping[str, RegisteredModel], default: str) -> Iterable[str]:
    if default not in models:
        yield f"DEFAULT_MODEL: there is no model '{default}'; known are: {', '.join(models)}"
    for model in models.values():
        yield from (
            f"models.{model.name}.fallbacks: there is no model '{fallback}'"
            for fallback in model.entry.fallbacks
            if fallback not in models
        )
    yield from _cycles(models)
    yield from _shared_keys(models.values())


def _cycles(models: Mapping[str, RegisteredModel]) -> Iterable[str]:
    """Depth first; each cycle is told once, at the model where the walk entered it."""
    finished: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterable[str]:
        if name in path:
            yield f"models.{name}.fallbacks: they lead in a circle: {' -> '.join([*path[path.index(name) :], name])}"
            return
        if name in finished or name not in models:
            return
        for fallback in models[name].entry.fallbacks:
            yield from walk(fallback, [*path, name])
        finished.add(name)

    for name in models:
        yield from walk(name, [])


def _shared_keys(models: Iterable[RegisteredModel]) -> Iterable[str]:
    """A key belongs to one origin: a typing error in a URL must not send it elsewhere."""
    owners: dict[str, tuple[tuple[str, str, int], str]] = {}
    for model in models:
        endpoint = model.endpoint
        if endpoint is None or not endpoint.key_setting:
            continue
        origin = origin_of(endpoint.url)
        owner, first = owners.setdefault(endpoint.key_setting, (origin, model.name))
        if owner != origin:
            yield (
                f"models.{model.name}.key_env: {endpoint.key_setting} belongs to {owner[1]} already"
                f" (models.{first}); a key goes to one origin only, use a second variable"
            )
