"""Which sampling parameters an upstream takes; what it does not take is left out and announced, never sent."""

from __future__ import annotations

from typing import Any

import msgspec

from llmchatbot.llm.port import Parameters

NAMES = tuple(field.name for field in msgspec.structs.fields(Parameters))
_DEFAULT = Parameters()


def split(parameters: Parameters, supported: frozenset[str]) -> tuple[Parameters, list[str]]:
    """The parameters that can be sent, and the names of those that were set and cannot."""
    ignored = [name for name in NAMES if name not in supported and getattr(parameters, name) != getattr(_DEFAULT, name)]
    defaults: dict[str, Any] = {name: getattr(_DEFAULT, name) for name in ignored}
    return (msgspec.structs.replace(parameters, **defaults) if ignored else parameters), ignored
