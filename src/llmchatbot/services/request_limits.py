"""How much one person may ask of this process in a minute."""

from __future__ import annotations

from llmchatbot.config import LimitSettings
from llmchatbot.models.principals import Principal
from llmchatbot.services.rate_limits import RateLimiter

_MINUTE = 60.0


class RequestLimits:
    def __init__(self, limiter: RateLimiter, limits: LimitSettings) -> None:
        self._limiter = limiter
        self._limits = limits

    def check_request(self, principal: Principal) -> None:
        """Raises RateLimited."""
        self._limiter.check(f"requests:{principal.user_id}", self._limits.requests_per_minute, _MINUTE)

    def check_message(self, principal: Principal) -> dict[str, str]:
        """The headers to send along. Raises RateLimited."""
        return self._limiter.check(f"messages:{principal.user_id}", self._limits.messages_per_minute, _MINUTE)
