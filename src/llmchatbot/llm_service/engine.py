"""llama.cpp through the wheel `xllamacpp` (the extra `local`): loads the model and serves it on a private port.

Its own C++ server does the continuous batching; nobody but our front talks to it, with a random key. Settings and their
figures: docs/local-models.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import secrets
from typing import Any

import msgspec

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.model_file import ModelFile

logger = logging.getLogger(__name__)

PROMPT_CACHE_MIB = 256
"""Conversations that lost their slot keep their prompt here, so that the next message need not be read again."""
_SCRATCH = 96 << 20
"""Bytes for the engine itself and its compute buffers beside the logits; 73 MB measured with a model of 6 MB."""
_ERRORS_ONLY = 1


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    slots: int = 0  # answers made at the same time; 0: four, or fewer where the memory is short
    context: int = 8192  # tokens of one conversation; the backend assumes as many of a server that does not say
    threads: int = 1
    batch: int = 64  # prompt tokens read between two looks at who has left


def installed() -> bool:
    """Whether the extra `local` is there. Imports nothing."""
    return importlib.util.find_spec("xllamacpp") is not None


def require_installed() -> None:
    """Raises StartupError which names the extra."""
    if not installed():
        raise StartupError(
            "Local models need the extra 'local'. In a checkout: make local\n"
            "(without make: pip install --require-hashes -r requirements/local.txt). "
            "Or set LLM_SERVICE_URL to a model server elsewhere."
        )


def fitted(model: ModelFile, settings: EngineSettings, available: int | None) -> EngineSettings:
    """With the number of slots decided, and no more context than the model was trained for: beyond it llama.cpp only
    warns, and the text turns to noise. `available`: bytes; None: not known.
    """
    context = min(settings.context, model.trained_context or settings.context)
    choices = [settings.slots] if settings.slots else [4, 2, 1]
    for slots in choices:
        chosen = msgspec.structs.replace(settings, slots=slots, context=context)
        if available is None or memory_needed(model, chosen) <= available:
            break
    return chosen


def memory_needed(model: ModelFile, settings: EngineSettings) -> int:
    """Bytes: the weights, the cache of all slots, the logits of a batch, the kept prompts, the engine."""
    cache = model.cache_bytes_per_token * settings.context * settings.slots
    logits = 4 * model.vocabulary * max(settings.batch, settings.slots)
    return model.size + cache + logits + min(PROMPT_CACHE_MIB << 20, cache) + _SCRATCH


def require_memory(model: ModelFile, settings: EngineSettings, available: int | None) -> None:
    """Raises StartupError with both numbers; otherwise the system would kill the process in the middle of a load."""
    needed = memory_needed(model, settings)
    if available is None or needed <= available:
        return
    cache = model.cache_bytes_per_token * settings.context * settings.slots
    raise StartupError(
        f"The model {model.path.name} needs about {gigabytes(needed)} of memory "
        f"({gigabytes(model.size)} for the file, {gigabytes(cache)} for {settings.slots} conversations of "
        f"{settings.context} tokens), and {gigabytes(available)} are free.\n"
        "Take a smaller model, or lower --slots or --context."
    )


def gigabytes(size: int) -> str:
    """For people: decimal units, as the download pages show them."""
    return f"{size / 1e9:.1f} GB" if size >= 100_000_000 else f"{size / 1e6:.1f} MB"


class Engine:
    """One loaded model. `url` and `key` are for this process alone."""

    def __init__(self, model: ModelFile, settings: EngineSettings) -> None:
        """Blocks while the model is loaded, and holds the interpreter lock meanwhile (as xllamacpp does).

        Raises StartupError when llama.cpp refuses the model; its own lines on stderr say why.
        """
        require_installed()
        library = importlib.import_module("xllamacpp")
        self.model, self.settings, self.key = model, settings, secrets.token_urlsafe(32)
        try:
            self._server: Any = library.Server(_parameters(library, model, settings, self.key))
        except RuntimeError as error:
            raise StartupError(
                f"llama.cpp could not load {model.path}; its lines above say why. The architecture is "
                f"'{model.architecture or 'not named'}': it may be newer than this engine "
                "(pip install -U xllamacpp), or the file may be damaged."
            ) from error
        self.url: str = self._server.listening_address.rstrip("/")
        self.device = _device(library)

    def close(self) -> None:
        """Ends what is running. The engine has no stop call: its destructor is it."""
        self._server = None


def _parameters(library: Any, model: ModelFile, settings: EngineSettings, key: str) -> Any:
    parameters = library.CommonParams()
    parameters.model.path = str(model.path)
    parameters.model_alias = {model.name}
    parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], 0, [key]
    parameters.ui = False
    parameters.offline = True
    parameters.cors_origins = ""
    parameters.verbosity = _ERRORS_ONLY  # from 4 on it writes prompts
    parameters.n_parallel = settings.slots
    parameters.n_ctx = settings.context * settings.slots
    # It looks for clients that have gone, and lets other answers go on, only between two batches.
    parameters.n_batch = parameters.n_ubatch = settings.batch
    parameters.cache_ram_mib = PROMPT_CACHE_MIB
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings.threads
    # One HTTP thread for each stream, and never more streams than slots; the rest is for /slots and /health.
    parameters.n_threads_http = settings.slots + 4
    parameters.timeout_write = 30
    return parameters


def _device(library: Any) -> str:
    """What `GET /health` calls `device`: cpu, or the name of the accelerator that llama.cpp found."""
    for device in library.get_device_info():
        if device["name"] != "CPU":
            return str(device["name"]).lower()
    return "cpu"
