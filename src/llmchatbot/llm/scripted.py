"""A model that does what its script says: for tests, drills and benchmarks, in this process and without a network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from llmchatbot.errors import ModelError, ModelInterrupted, ModelProtocolError, ModelUnavailable
from llmchatbot.llm.decoder import MAX_LINE
from llmchatbot.llm.endpoint import Endpoint, TimeLimits
from llmchatbot.llm.events import Event, Finished, ReasoningDelta, TextDelta, Usage
from llmchatbot.llm.http_errors import refusal
from llmchatbot.llm.pace import paced
from llmchatbot.llm.port import Prompt, Sink
from llmchatbot.llm.script import Script, script_of
from llmchatbot.llm.transport import timed_out

SUPPORTED = frozenset({"max_tokens", "stop", "seed"})

_ENDPOINT = Endpoint(url="http://scripted.invalid", url_setting="the script")


class ScriptedModel:
    """Obeys `script`, and the script in the newest user message before it. Counts what it did, so tests can look."""

    def __init__(self, script: Script | None = None, *, limits: TimeLimits | None = None) -> None:
        self._script = script or Script()
        self._limits = limits or TimeLimits()
        self._calls: Counter[Script] = Counter()
        self.started = 0
        self.running = 0
        self.prompts: list[Prompt] = []

    async def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`. Continues `prompt.prefix` exactly as the uninterrupted answer goes on."""
        script = script_of(prompt.messages, self._script)
        self.started += 1
        self.prompts.append(prompt)
        del self.prompts[:-100]
        self.running += 1
        try:
            self._calls[script] += 1
            if self._calls[script] <= script.fails:
                raise ModelUnavailable("The script lets this call fail.")
            if script.fault and not script.fault_at and script.fault not in {"noend", "utf8split"}:
                await self._fault(script)
            if script.reasoning and not prompt.prefix:
                yield [ReasoningDelta(f"r{number} ") for number in range(script.reasoning)]
            async with aclosing(self._tokens(script, prompt)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.running -= 1

    async def _tokens(self, script: Script, prompt: Prompt) -> AsyncGenerator[list[Event], None]:
        limit = prompt.parameters.max_tokens
        pieces = list(script.remaining(prompt.prefix))
        breaks = bool(script.fault_at) and script.fault_at <= len(pieces)
        end = script.fault_at if breaks else len(pieces)
        if limit is not None and limit < end:
            end, breaks = limit, False
        async with aclosing(paced(pieces[:end], script.rate, script.first)) as batches:
            async for batch in batches:
                yield [TextDelta(script.stamped(piece)) for piece in batch]
        if breaks:
            await self._fault(script)
        if script.fault == "noend":
            raise ModelInterrupted("The model's stream ended without its end record.")
        closing: list[Event] = []
        if script.usage:
            closing.append(Usage(sum(len(message.content.split()) for message in prompt.messages), end))
        closing.append(Finished("length" if end < len(pieces) else "stop"))
        yield closing

    async def _fault(self, script: Script) -> None:
        started = bool(script.fault_at)
        kind, _, status = script.fault.partition(":")
        if kind == "stall":
            await asyncio.sleep(self._limits.chunk if started else self._limits.first_byte)
            raise timed_out("chunk" if started else "first_byte", self._limits)
        faults: dict[str, ModelError] = {
            "refuse": ModelUnavailable("The script refuses the connection."),
            "html": ModelProtocolError("The script sends a web page."),
            "cut": ModelInterrupted("The script cuts the stream."),
            "garbage": ModelProtocolError("The script sends garbage."),
            "error": ModelUnavailable("The script sends an error record."),
            "hugeline": ModelProtocolError(f"The script sends a line of more than {MAX_LINE} bytes."),
        }
        raise refusal(_ENDPOINT, int(status), {}, b"") if status else faults[kind]

    async def health(self) -> bool:
        """Always."""
        return True

    async def aclose(self) -> None:
        """Holds nothing."""
