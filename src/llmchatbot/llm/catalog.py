"""Reads the models out of the settings, the environment and the models file. Makes no outgoing call.

Which model answers when a chat names none, first match: DEFAULT_MODEL, `default` of the models file, LLM_SERVICE_URL,
the first table of the models file, the well-known keys in the order OpenAI, Anthropic, Gemini, OpenRouter, a server on
a usual loopback port (only with LLM_AUTODETECT), the guide.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmchatbot.config import ModelSettings
from llmchatbot.errors import StartupError
from llmchatbot.llm.endpoint import Endpoint, Secret, TimeLimits, origin_of
from llmchatbot.llm.registry import IN_PROCESS, ModelEntry, RegisteredModel, Registry
from llmchatbot.llm.wellknown import SERVICE_MODEL, WELL_KNOWN

_SERVICE_SETTING = "LLM_SERVICE_URL"
_DETECT_SETTING = "LLM_AUTODETECT"
_KEY_FIELDS = {
    "OPENAI_API_KEY": "openai_key",
    "ANTHROPIC_API_KEY": "anthropic_key",
    "GEMINI_API_KEY": "gemini_key",
    "OPENROUTER_API_KEY": "openrouter_key",
    "LLM_SERVICE_KEY": "service_key",
}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: str = ""
    models: dict[str, dict[str, Any]] = {}


def build_registry(settings: ModelSettings, environment: Mapping[str, str]) -> Registry:
    """Raises StartupError with every problem of the models file, or of the models together."""
    keys = _Keys(settings, environment)
    problems: list[str] = []
    file = _read_file(settings.models_file) if settings.models_file else _File()
    entries: dict[str, tuple[ModelEntry, str]] = {}
    for name, table in file.models.items():
        entry = _entry(name, table, problems)
        if entry is not None:
            entries[name] = (entry, f"models.{name}.url")
    from_file = list(entries)
    service = _add_service(settings, entries)
    known = _add_well_known(settings, keys, entries)
    if settings.scripted:
        entries.setdefault("scripted", (SCRIPTED_ENTRY, ""))
    entries.setdefault("guide", (GUIDE_ENTRY, ""))
    if problems:
        raise StartupError(f"{settings.models_file} is not right:\n  " + "\n  ".join(problems))
    models = [
        RegisteredModel(
            name=name,
            entry=entry,
            endpoint=_endpoint(entry, setting, settings, keys),
            upstream_name=_upstream_name(name, entry, setting),
        )
        for name, (entry, setting) in entries.items()
    ]
    candidates = [settings.default_model, file.default, service, *from_file, *known, "guide"]
    return Registry(models, default=next(name for name in candidates if name))


SCRIPTED_ENTRY = ModelEntry(
    protocol="scripted", context_window=1_000_000, max_output_tokens=1_000_000, capabilities=frozenset({"prefix"})
)
GUIDE_ENTRY = ModelEntry(
    protocol="guide", context_window=1_000_000, max_output_tokens=4096, capabilities=frozenset({"prefix"})
)


class _Keys:
    """Keys by the name of their variable: from the settings where they have a field, else from the environment."""

    def __init__(self, settings: ModelSettings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = environment

    def find(self, name: str) -> Secret:
        """The key, or an empty one. As everywhere, `NAME_FILE` may name a file that holds it."""
        field = _KEY_FIELDS.get(name)
        if field is not None and (value := getattr(self._settings, field)):
            return Secret(value)
        if path := self._environment.get(f"{name}_FILE", ""):
            try:
                return Secret(Path(path).read_text(encoding="utf-8").strip())
            except OSError as error:
                raise StartupError(f"{name}_FILE: {error.strerror}: {path}") from error
        return Secret(self._environment.get(name, "").strip())


def _read_file(path: str) -> _File:
    try:
        return msgspec.convert(tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise StartupError(f"MODELS_FILE: {error.strerror}: {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise StartupError(f"MODELS_FILE: {path} is not right: {error}") from error


def _entry(name: str, table: dict[str, Any], problems: list[str]) -> ModelEntry | None:
    where = f"models.{name}"
    try:
        entry = msgspec.convert(table, ModelEntry)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")
        return None
    problems += [f"{where}.{problem}" for problem in _entry_problems(name, entry)]
    return entry


def _entry_problems(name: str, entry: ModelEntry) -> list[str]:
    checks = [
        (bool(name.strip()) and len(name) <= 100 and name.isprintable(), "name: 1 to 100 printable characters"),
        (entry.context_window >= 256, "context_window: at least 256 tokens"),
        (entry.max_output_tokens >= 1, "max_output_tokens: at least 1"),
        (entry.max_output_tokens <= entry.context_window, "max_output_tokens: not more than context_window"),
        (entry.max_concurrent >= 0, "max_concurrent: 0 or more"),
        (entry.max_waiting >= 0, "max_waiting: 0 or more"),
        ((entry.input_price or 0) >= 0 and (entry.output_price or 0) >= 0, "input_price, output_price: 0 or more"),
        (all(limit is None or limit > 0 for limit in _limits_of(entry)), "limits: more than 0 seconds"),
        (name not in entry.fallbacks, "fallbacks: a model cannot stand in for itself"),
    ]
    problems = [problem for good, problem in checks if not good]
    if entry.protocol not in IN_PROCESS:
        try:
            origin_of(entry.url)
        except ValueError as error:
            problems.append(f"url: {error}")
    return problems


def _limits_of(entry: ModelEntry) -> tuple[float | None, ...]:
    return msgspec.structs.astuple(entry.limits)


def _add_service(settings: ModelSettings, entries: dict[str, tuple[ModelEntry, str]]) -> str:
    """The model at LLM_SERVICE_URL, or the one that LLM_AUTODETECT will look for; its name, "" without one."""
    if not settings.service_url and not settings.autodetect:
        return ""
    url = settings.service_url or "http://127.0.0.1"
    name = settings.service_model or "default"
    if name in entries:
        return name
    entry = msgspec.structs.replace(
        SERVICE_MODEL,
        protocol=settings.service_protocol,
        url=url,
        upstream_name=settings.service_model,
        capabilities=frozenset({"prefix"}) if settings.service_prefix else frozenset(),
    )
    if settings.service_key:
        entry = msgspec.structs.replace(entry, key_env="LLM_SERVICE_KEY")
    entries[name] = (entry, _SERVICE_SETTING if settings.service_url else _DETECT_SETTING)
    return name


def _add_well_known(settings: ModelSettings, keys: _Keys, entries: dict[str, tuple[ModelEntry, str]]) -> list[str]:
    added = []
    for variable, models in WELL_KNOWN.items():
        if not keys.find(variable):
            continue
        for name, entry in models.items():
            if name not in entries:
                entries[name] = (msgspec.structs.replace(entry, key_env=variable), variable)
                added.append(name)
    return added


def _upstream_name(name: str, entry: ModelEntry, setting: str) -> str:
    """Where the name was left out: a server behind an address alone is asked for it, a table's own name is the name."""
    if entry.upstream_name or entry.protocol == "auto" or setting in {_SERVICE_SETTING, _DETECT_SETTING}:
        return entry.upstream_name
    return name


def _endpoint(entry: ModelEntry, setting: str, settings: ModelSettings, keys: _Keys) -> Endpoint | None:
    if entry.protocol in IN_PROCESS:
        return None
    limits = entry.limits
    whole = settings.service_timeout if setting == _SERVICE_SETTING else TimeLimits().whole
    return Endpoint(
        url=entry.url,
        key=keys.find(entry.key_env) if entry.key_env else Secret(),
        key_setting=entry.key_env,
        url_setting=setting,
        headers=entry.headers,
        keep_alive=entry.keep_alive,
        limits=TimeLimits(
            connect=limits.connect or settings.connect_timeout,
            first_byte=limits.first_byte or settings.first_byte_timeout,
            chunk=limits.chunk or settings.chunk_timeout,
            whole=limits.whole or whole,
        ),
    )
