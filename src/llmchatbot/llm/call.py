"""One answer wanted, through the whole chain: line, breaker, retries and fallback before the first token, none after.

Order of what is yielded: notices, `Answering` once, deltas, `Usage` once (estimated where the provider gave none),
`Finished` once and last.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import Random

import msgspec

from llmchatbot.errors import ModelError, ModelInterrupted, ModelOverloaded, ModelUnavailable
from llmchatbot.llm.events import DELTAS, Answering, Event, Finished, Notice, ReasoningDelta, TextDelta, Usage
from llmchatbot.llm.parameters import split
from llmchatbot.llm.port import Parameters, Prompt, PromptMessage
from llmchatbot.llm.resilience import Clock, is_failure, may_fall_back, retry_delay
from llmchatbot.llm.tokens import TokenEstimator, utf8_size
from llmchatbot.llm.upstream import Upstream

_log = logging.getLogger(__name__)

_POSITION_SECONDS = 1.0


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer wanted. `model` is a public name, "" the default; `user_id` is for fairness in the waiting line."""

    model: str
    messages: tuple[PromptMessage, ...]
    parameters: Parameters = Parameters()
    system_prompt: str = ""
    prefix: str = ""
    user_id: str = ""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a call needs of the world; tests put their own in."""

    clock: Clock
    sleep: Callable[[float], Awaitable[None]]
    random: Random
    estimator: TokenEstimator
    max_wait: float = 120.0
    """Seconds in the waiting line before the call is given up."""


class GatewayCall:
    """The life of one call."""

    def __init__(self, request: GatewayRequest, chain: list[Upstream], surroundings: Surroundings) -> None:
        self._request = request
        self._chain = chain
        self._world = surroundings
        system = (PromptMessage(role="system", content=request.system_prompt),) if request.system_prompt else ()
        # An answer stopped before its first token is an empty message; several providers refuse those.
        spoken = tuple(message for message in request.messages if message.content.strip())
        self._messages = (*system, *spoken)
        self._sizes = [utf8_size(message.content) for message in self._messages]
        self._started = False
        self._output_bytes = 0

    async def run(self) -> AsyncGenerator[list[Event], None]:
        """Ask the chain's models in turn. Raises the first model's error when none could answer."""
        if not self._messages:
            raise ModelInterrupted("There is nothing to answer.")
        first_error: ModelError | None = None
        chain = self._able_to_continue()
        for place, upstream in enumerate(chain):
            try:
                async with aclosing(self._with_retries(upstream)) as batches:
                    async for batch in batches:
                        yield batch
            except ModelError as error:
                if self._started or place + 1 == len(chain) or not may_fall_back(error):
                    raise (error if self._started else first_error or error) from error
                first_error = first_error or error
                yield [self._fallback(upstream, chain[place + 1], error)]
            else:
                return

    def _able_to_continue(self) -> list[Upstream]:
        if not self._request.prefix:
            return self._chain
        able = [upstream for upstream in self._chain if upstream.continues_prefix]
        if not able:
            raise ModelInterrupted("This model cannot go on from a text; ask again instead.")
        return able

    @staticmethod
    def _fallback(failed: Upstream, successor: Upstream, error: ModelError) -> Notice:
        _log.warning("model fallback from=%s to=%s code=%s", failed.name, successor.name, error.code)
        return Notice(
            "fallback",
            f"{failed.name} cannot answer right now; {successor.name} answers instead.",
            {"from": failed.name, "to": successor.name, "reason": error.code},
        )

    async def _with_retries(self, upstream: Upstream) -> AsyncGenerator[list[Event], None]:
        upstream.budget.called()
        attempt = 0
        while True:
            try:
                async with aclosing(self._attempt(upstream)) as batches:
                    async for batch in batches:
                        yield batch
            except ModelError as error:
                delay = None if self._started else retry_delay(error, attempt, self._world.random)
                if delay is None or not upstream.budget.take():
                    raise
                attempt += 1
                _log.info("model retry name=%s attempt=%d code=%s", upstream.name, attempt, error.code)
                notice = Notice(
                    "retry",
                    f"{upstream.name} did not answer; it is asked again.",
                    {"model": upstream.name, "attempt": attempt, "reason": error.code},
                )
            else:
                return
            yield [notice]
            await self._world.sleep(delay)

    async def _attempt(self, upstream: Upstream) -> AsyncGenerator[list[Event], None]:
        """Wait for a place, then ask once."""
        ticket = upstream.limiter.join(self._request.user_id)
        try:
            give_up_at = self._world.clock() + self._world.max_wait
            shown = 0
            while not ticket.granted:
                position = ticket.position()
                if position != shown:
                    shown = position
                    yield [_queued(upstream.name, position)]
                if self._world.clock() >= give_up_at:
                    raise ModelOverloaded("The waiting line for this model is too long; try again shortly.")
                await ticket.wait(_POSITION_SECONDS)
            upstream.breaker.require_closed()
            async with aclosing(self._guarded(upstream)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            ticket.leave()

    async def _guarded(self, upstream: Upstream) -> AsyncGenerator[list[Event], None]:
        """Ask, and tell the breaker how it went."""
        told = False
        try:
            async with aclosing(self._ask(upstream)) as batches:
                async for batch in batches:
                    if self._started and not told:
                        told = True
                        upstream.breaker.succeeded()
                    yield batch
        except ModelError as error:
            told = True
            if is_failure(error):
                upstream.breaker.failed()
            else:
                upstream.breaker.succeeded()
            raise
        except Exception as error:
            told = True
            upstream.breaker.failed()
            _log.exception("model adapter failed name=%s", upstream.name)
            raise ModelUnavailable("The connection to the model has a fault on our side.") from error
        finally:
            if not told:
                upstream.breaker.abandoned()

    async def _ask(self, upstream: Upstream) -> AsyncGenerator[list[Event], None]:
        request = self._request
        parameters, ignored = split(request.parameters, await upstream.supported_parameters())
        if ignored:
            yield [_ignored(upstream.name, name) for name in ignored]
        name = await upstream.upstream_name()
        prompt = Prompt(model=name, messages=self._messages, parameters=parameters, prefix=request.prefix)
        async with aclosing(upstream.model.stream(prompt)) as batches:
            async for batch in batches:
                if not self._started and any(isinstance(event, (*DELTAS, Finished)) for event in batch):
                    self._started = True
                    yield [Answering(upstream.name, name)]
                for event in batch:
                    if type(event) is TextDelta or type(event) is ReasoningDelta:
                        self._output_bytes += utf8_size(event.text)
                if type(batch[-1]) is Finished:
                    yield self._closing(upstream, batch)
                    return
                yield batch
        raise ModelInterrupted("The model's stream ended without its end record.")

    def _closing(self, upstream: Upstream, batch: list[Event]) -> list[Event]:
        """The last batch, with a usage in it; a provider's count teaches the estimator."""
        estimator, name = self._world.estimator, upstream.name
        usage = next((event for event in batch if isinstance(event, Usage)), None)
        if usage is None:
            output = estimator.of_bytes(name, self._output_bytes)
            batch.insert(-1, Usage(estimator.of_messages(name, self._sizes), output, estimated=True))
        elif not usage.estimated and not self._request.prefix:
            estimator.observe(name, self._sizes, usage.input_tokens)
        return batch


def _queued(name: str, position: int) -> Notice:
    return Notice(
        "queue_position",
        f"{name} is busy; you are number {position} in the line.",
        {"model": name, "position": position},
    )


def _ignored(name: str, parameter: str) -> Notice:
    return Notice(
        "parameter_ignored",
        f"{name} does not take '{parameter}'; it was left out.",
        {"model": name, "parameter": parameter},
    )
