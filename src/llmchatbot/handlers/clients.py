"""Where a request comes from. A header is believed only when a proxy of ours has written it."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

import msgspec
from litestar.types import Scope

from llmchatbot.errors import StartupError
from llmchatbot.models.device_sessions import Client

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """`secure`: the client itself speaks HTTPS, if only to the proxy."""

    client: Client
    secure: bool


def parse_networks(text: str) -> tuple[_Network, ...]:
    """Raises StartupError naming what is neither an address nor a network."""
    networks = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError as error:
            raise StartupError(f"TRUSTED_PROXIES: '{entry}' is no address and no network such as 10.0.0.0/8") from error
    return tuple(networks)


def caller_of(scope: Scope, trusted: tuple[_Network, ...]) -> Caller:
    peer = (scope.get("client") or ("", 0))[0]
    secure = scope.get("scheme") == "https"
    address = peer
    if trusted and _is_trusted(_parse(peer), trusted):
        address = _first_untrusted(_values(scope, b"x-forwarded-for"), trusted) or peer
        # The proxy next to us writes last.
        schemes = _values(scope, b"x-forwarded-proto")
        secure = schemes[-1].lower() == "https" if schemes else secure
    agent = _header(scope, b"user-agent")
    return Caller(client=Client(address=address, user_agent=agent), secure=secure)


def _first_untrusted(hops: list[str], trusted: tuple[_Network, ...]) -> str | None:
    """From the nearest hop outwards: the first that is no proxy of ours. Anything beyond it may be invented."""
    nearest = None
    for hop in reversed(hops):
        address = _parse(hop)
        if address is None:
            break
        nearest = str(address)
        if not _is_trusted(address, trusted):
            break
    return nearest


def _is_trusted(address: _Address | None, trusted: tuple[_Network, ...]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _parse(text: str) -> _Address | None:
    """Takes `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1` and `[2001:db8::1]:567`."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _values(scope: Scope, name: bytes) -> list[str]:
    """All values of a header that is a list, over all its lines, in order."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [part.strip() for line in lines for part in line.split(",") if part.strip()]


def _header(scope: Scope, name: bytes) -> str:
    """Printable characters only: it is stored and shown."""
    for key, value in scope["headers"]:
        if key == name:
            text = value.decode("utf-8", "replace")
            return "".join(character for character in text if character.isprintable())
    return ""
