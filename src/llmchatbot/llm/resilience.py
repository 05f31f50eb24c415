"""What keeps one provider's bad day from becoming ours: a circuit breaker, a retry budget, a back-off with jitter.

All pure or with an injected clock, so that tests move time instead of waiting for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from llmchatbot.errors import (
    ModelError,
    ModelInterrupted,
    ModelMisconfigured,
    ModelOverloaded,
    ModelProtocolError,
    ModelTimeout,
    ModelUnavailable,
)

Clock = Callable[[], float]
"""Seconds that never go back."""

MAX_RETRIES = 2
_BASE_DELAY = 0.25
_MAX_DELAY = 4.0
_MAX_RETRY_AFTER = 5.0
"""Seconds. A provider that asks for more is better replaced by the next model."""

_NO_RETRY = ("quota", "breaker", "line")
"""Members of an error's extra: no money left, the breaker is open, our own line is full."""

_COUNTS_AS_FAILURE = (
    ModelUnavailable,
    ModelMisconfigured,
    ModelOverloaded,
    ModelTimeout,
    ModelProtocolError,
    ModelInterrupted,
)


def is_failure(error: ModelError) -> bool:
    """Whether the upstream is to blame; a refusal of one person's request is no failure."""
    return isinstance(error, _COUNTS_AS_FAILURE)


def may_fall_back(error: ModelError) -> bool:
    """Whether another model may answer instead: not where the person's own request was refused."""
    return is_failure(error)


def retry_delay(error: ModelError, attempt: int, random: Random) -> float | None:
    """Seconds to wait before the same upstream is asked again; None: do not ask it again.

    `attempt` counts retries from 0. A first byte that did not come has cost a minute: the next model is quicker.
    """
    if attempt >= MAX_RETRIES or isinstance(error, ModelMisconfigured) or not is_failure(error):
        return None
    if any(error.extra.get(reason) for reason in _NO_RETRY):
        return None
    if isinstance(error, ModelTimeout) and error.extra.get("limit") != "connect":
        return None
    delay: float = random.uniform(0.5, 1.0) * min(_MAX_DELAY, _BASE_DELAY * 2**attempt)
    after = float(error.extra.get("retry_after", 0))
    if after > _MAX_RETRY_AFTER:
        return None
    return max(delay, after)


class RetryBudget:
    """Retries are at most a tenth of all calls (and a few more), so that they never double a provider's overload."""

    def __init__(self, *, calls_per_retry: int = 10, reserve: int = 10) -> None:
        self._calls_per_retry = calls_per_retry
        self._most = calls_per_retry * reserve
        self._calls = self._most

    def called(self) -> None:
        """A first call was made."""
        self._calls = min(self._most, self._calls + 1)

    def take(self) -> bool:
        """Use one retry; whether there was one."""
        if self._calls < self._calls_per_retry:
            return False
        self._calls -= self._calls_per_retry
        return True


class CircuitBreaker:
    """Stops asking an upstream that fails, and tries it again with one call after a pause that doubles.

    Opens when at least `failures` of the calls ended in the last `window` seconds failed, and these are half of them
    or more.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        failures: int = 5,
        window: float = 30.0,
        pause: float = 5.0,
        max_pause: float = 60.0,
    ) -> None:
        """All times in seconds."""
        self._clock = clock
        self._failures = failures
        self._window = window
        self._first_pause = pause
        self._max_pause = max_pause
        self._pause = pause
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=200)
        self._open_until: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether calls are refused now."""
        return self._open_until is not None and (self._probing or self._clock() < self._open_until)

    def require_closed(self) -> None:
        """Let a call through, or raise ModelUnavailable. After the pause one call goes through to try."""
        if self._open_until is None:
            return
        left = self._open_until - self._clock()
        if left > 0 or self._probing:
            raise ModelUnavailable(
                f"The model's service failed repeatedly; it is asked again in {max(1, round(left))} s.",
                extra={"breaker": "open", "retry_after": max(1, round(left))},
            )
        self._probing = True

    def succeeded(self) -> None:
        """A call brought its first token, or its end."""
        if self._open_until is not None:
            self._open_until = None
            self._probing = False
            self._pause = self._first_pause
            self._outcomes.clear()
        self._outcomes.append((self._clock(), True))

    def failed(self) -> None:
        """A call failed by the upstream's fault."""
        now = self._clock()
        if self._probing:
            self._probing = False
            self._pause = min(self._max_pause, self._pause * 2)
            self._open_until = now + self._pause
            return
        if self._open_until is not None:
            return
        self._outcomes.append((now, False))
        recent = [good for at, good in self._outcomes if now - at <= self._window]
        bad = recent.count(False)
        if bad >= self._failures and 2 * bad >= len(recent):
            self._open_until = now + self._pause

    def abandoned(self) -> None:
        """A call was given up by its caller before the upstream showed anything: nothing was learnt."""
        self._probing = False
