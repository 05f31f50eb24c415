"""Gives handlers what they name: parts of the process once, when the application is made; the rest from the request.

Handlers only say what they need (`chat_service: NamedDependency[ChatService]`). Resolved by the framework for each
request, two such names cost a task group with a task for each, 60 µs; bound here they cost nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, get_type_hints

from litestar.handlers import HTTPRouteHandler
from litestar.types import Scope

FromScope = Callable[[Any], Any]


class Parts:
    """By the names of the parameters that ask for them."""

    def __init__(self, *, of_process: Mapping[str, Any], of_request: Mapping[str, FromScope]) -> None:
        self._of_process = of_process
        self._of_request = of_request

    def bind_all(self, handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
        return [self.bind(handler) for handler in handlers]

    def bind(self, handler: HTTPRouteHandler) -> HTTPRouteHandler:
        """A copy of `handler` that the framework has nothing left to inject into."""
        signature = inspect.signature(handler.fn)
        fixed = {name: self._of_process[name] for name in signature.parameters if name in self._of_process}
        asked = [(name, self._of_request[name]) for name in signature.parameters if name in self._of_request]
        if not fixed and not asked:
            return handler
        bound = copy(handler)
        bound(_bind(handler.fn, signature, fixed, asked))
        return bound


def _bind(
    function: Callable[..., Any],
    signature: inspect.Signature,
    fixed: Mapping[str, Any],
    asked: list[tuple[str, FromScope]],
) -> Callable[..., Any]:
    if asked:

        async def call(*, scope: Scope, **values: Any) -> Any:
            for name, read in asked:
                values[name] = read(scope)
            return await function(**values, **fixed)

    else:

        async def call(**values: Any) -> Any:  # type: ignore[misc]  # the other form of the same
            return await function(**values, **fixed)

    _describe(call, function, signature, {*fixed, *(name for name, _ in asked)}, with_scope=bool(asked))
    return call


def _describe(
    call: Any, function: Callable[..., Any], signature: inspect.Signature, bound: set[str], *, with_scope: bool
) -> None:
    """What the framework reads: the function as it is, without what is bound."""
    hints = get_type_hints(function, include_extras=True)
    left = [parameter for name, parameter in signature.parameters.items() if name not in bound]
    if with_scope:
        left.append(inspect.Parameter("scope", inspect.Parameter.KEYWORD_ONLY, annotation=Scope))
        hints["scope"] = Scope
    call.__signature__ = signature.replace(
        parameters=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in left]
    )
    call.__annotations__ = {name: hint for name, hint in hints.items() if name not in bound}
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(call, name, getattr(function, name))
