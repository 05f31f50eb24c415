"""One answer wanted, through the whole chain: line, breaker, retries and fallback before the first token, none after.

Order of what is yielded: notices, `Answering` once, deltas, `Usage` once (estimated where the provider gave none),
`Finished` once and last. `GatewayCall.run` relays the model's batches itself, without generators in between: each one
would cost every token of every answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import Random

import msgspec

from llmchatbot.errors import ModelError, ModelInterrupted, ModelOverloaded, ModelUnavailable
from llmchatbot.llm.events import DELTAS, Answering, Event, Finished, Notice, ReasoningDelta, TextDelta, Usage
from llmchatbot.llm.fair_queue import Ticket
from llmchatbot.llm.parameters import split
from llmchatbot.llm.port import Parameters, Prompt, PromptMessage, Sink
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

    def __init__(
        self, request: GatewayRequest, chain: list[Upstream], surroundings: Surroundings, sink: Sink | None = None
    ) -> None:
        """`sink`: see `port.Model.stream`."""
        self.request = request
        self.sink = sink
        self._size_before = 0 if sink is None else sink.size
        self.world = surroundings
        system = (PromptMessage(role="system", content=request.system_prompt),) if request.system_prompt else ()
        # An answer stopped before its first token is an empty message; several providers refuse those.
        spoken = tuple(message for message in request.messages if message.content.strip())
        self.messages = (*system, *spoken)
        self._sizes = [utf8_size(message.content) for message in self.messages]
        self._chain = chain
        self._yielded_bytes = 0

    async def run(self) -> AsyncGenerator[list[Event], None]:
        """Ask the chain's models in turn. Raises the first model's error when none could answer."""
        plan = _Plan(self._able_to_continue(), self.world)
        while True:
            attempt = _Attempt(self, plan.upstream)
            try:
                async with aclosing(attempt.prepare()) as notices:
                    async for notice in notices:
                        yield [notice]
                async for batch in attempt.batches:
                    if not attempt.answering and attempt.shows(batch):
                        yield [attempt.answer_begins()]
                    if type(batch[-1]) is Finished:
                        attempt.over(None)
                        yield self._closing(attempt.upstream, batch)
                        return
                    self._yielded_bytes += _size_of(batch)
                    yield batch
                attempt.require_end()
            except ModelError as error:
                attempt.over(error)
                notice, delay = plan.after(error, started=attempt.answering)
            except Exception as error:
                fault = ModelUnavailable("The connection to the model has a fault on our side.")
                attempt.over(fault)
                _log.exception("model adapter failed name=%s", attempt.upstream.name)
                raise fault from error
            finally:
                await attempt.aclose()
            yield [notice]
            if delay:
                await self.world.sleep(delay)

    def _able_to_continue(self) -> list[Upstream]:
        if not self.messages:
            raise ModelInterrupted("There is nothing to answer.")
        if not self.request.prefix:
            return self._chain
        able = [upstream for upstream in self._chain if upstream.continues_prefix]
        if not able:
            raise ModelInterrupted("This model cannot go on from a text; ask again instead.")
        return able

    def _output_bytes(self, last: list[Event]) -> int:
        """UTF-8 bytes of the whole answer; `last` is its end, which nobody was given yet."""
        before = self._yielded_bytes if self.sink is None else self.sink.size - self._size_before
        return before + _size_of(last)

    def _closing(self, upstream: Upstream, batch: list[Event]) -> list[Event]:
        """The last batch, with a usage in it; a provider's count teaches the estimator."""
        estimator, name = self.world.estimator, upstream.name
        usage = next((event for event in batch if isinstance(event, Usage)), None)
        if usage is None:
            output = estimator.of_bytes(name, self._output_bytes(batch))
            batch.insert(-1, Usage(estimator.of_messages(name, self._sizes), output, estimated=True))
        elif not usage.estimated and not self.request.prefix:
            estimator.observe(name, self._sizes, usage.input_tokens)
        return batch


class _Plan:
    """Who is asked next: the same model again, the next of the chain, or nobody."""

    def __init__(self, chain: list[Upstream], world: Surroundings) -> None:
        self._chain = chain
        self._world = world
        self._place = 0
        self._retries = 0
        self._first_error: ModelError | None = None
        self.upstream.budget.called()

    @property
    def upstream(self) -> Upstream:
        """Whom to ask now."""
        return self._chain[self._place]

    def after(self, error: ModelError, *, started: bool) -> tuple[Notice, float]:
        """The notice to show and the seconds to wait before `upstream` is asked. Raises what ends the call.

        Once the person has seen a token there is neither retry nor fallback.
        """
        if started:
            raise error
        failed = self.upstream
        delay = retry_delay(error, self._retries, self._world.random)
        if delay is not None and failed.budget.take():
            self._retries += 1
            _log.info("model retry name=%s attempt=%d code=%s", failed.name, self._retries, error.code)
            return _retry(failed.name, self._retries, error.code), delay
        self._first_error = self._first_error or error
        if self._place + 1 == len(self._chain) or not may_fall_back(error):
            raise self._first_error from error
        self._place += 1
        self._retries = 0
        self.upstream.budget.called()
        _log.warning("model fallback from=%s to=%s code=%s", failed.name, self.upstream.name, error.code)
        return _fallback(failed.name, self.upstream.name, error.code), 0.0


class _Attempt:
    """One call of one upstream: its place in the line, its word to the breaker, its stream."""

    def __init__(self, call: GatewayCall, upstream: Upstream) -> None:
        self.upstream = upstream
        self.answering = False
        self.batches: AsyncGenerator[list[Event], None] = _nothing()
        self._call = call
        self._name = ""
        self._asked = False
        self._told = False
        self._ticket: Ticket | None = None

    async def prepare(self) -> AsyncGenerator[Notice, None]:
        """Wait for a place, pass the breaker, leave out parameters that are not taken; then `batches` can be read."""
        upstream, request = self.upstream, self._call.request
        async with aclosing(self._wait()) as notices:
            async for notice in notices:
                yield notice
        upstream.breaker.require_closed()
        self._asked = True
        parameters, ignored = split(request.parameters, await upstream.supported_parameters())
        for name in ignored:
            yield _ignored(upstream.name, name)
        self._name = await upstream.upstream_name()
        self.batches = upstream.model.stream(
            Prompt(model=self._name, messages=self._call.messages, parameters=parameters, prefix=request.prefix),
            self._call.sink,
        )

    async def _wait(self) -> AsyncGenerator[Notice, None]:
        world = self._call.world
        ticket = self._ticket = self.upstream.limiter.join(self._call.request.user_id)
        give_up_at = world.clock() + world.max_wait
        shown = 0
        while not ticket.granted:
            position = ticket.position()
            if position != shown:
                shown = position
                yield _queued(self.upstream.name, position)
            if world.clock() >= give_up_at:
                raise ModelOverloaded(
                    "The waiting line for this model is too long; try again shortly.", extra={"line": "too long"}
                )
            await ticket.wait(_POSITION_SECONDS)

    @staticmethod
    def shows(batch: list[Event]) -> bool:
        """Whether the person sees something of the answer, or its end, in this batch."""
        return any(isinstance(event, (*DELTAS, Finished)) for event in batch)

    def answer_begins(self) -> Answering:
        """The first token is here: from now on there is no way back."""
        self.answering = True
        self.upstream.breaker.succeeded()
        return Answering(self.upstream.name, self._name)

    @staticmethod
    def require_end() -> None:
        """The stream is over, and no `Finished` came: raises ModelInterrupted."""
        raise ModelInterrupted("The model's stream ended without its end record.")

    def over(self, error: ModelError | None) -> None:
        """Tell the breaker how it ended; a refusal of this person's request says nothing against the upstream."""
        if not self._asked or self._told:
            return
        self._told = True
        if error is not None and is_failure(error):
            self.upstream.breaker.failed()
        elif not self.answering:
            self.upstream.breaker.succeeded()

    async def aclose(self) -> None:
        """Close the stream, then give the place to the next in line."""
        try:
            await self.batches.aclose()
        finally:
            if self._asked and not self._told and not self.answering:
                self.upstream.breaker.abandoned()
            if self._ticket is not None:
                self._ticket.leave()


def _size_of(batch: list[Event]) -> int:
    return sum(utf8_size(event.text) for event in batch if type(event) is TextDelta or type(event) is ReasoningDelta)


async def _nothing() -> AsyncGenerator[list[Event], None]:
    """What can be read before `prepare`."""
    batches: list[list[Event]] = []
    for batch in batches:
        yield batch


def _queued(name: str, position: int) -> Notice:
    text = f"{name} is busy; you are number {position} in the line."
    return Notice("queue_position", text, {"model": name, "position": position})


def _ignored(name: str, parameter: str) -> Notice:
    text = f"{name} does not take '{parameter}'; it was left out."
    return Notice("parameter_ignored", text, {"model": name, "parameter": parameter})


def _retry(name: str, attempt: int, reason: str) -> Notice:
    text = f"{name} did not answer; it is asked again."
    return Notice("retry", text, {"model": name, "attempt": attempt, "reason": reason})


def _fallback(failed: str, successor: str, reason: str) -> Notice:
    text = f"{failed} cannot answer right now; {successor} answers instead."
    return Notice("fallback", text, {"from": failed, "to": successor, "reason": reason})
