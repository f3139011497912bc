"""Which addresses the server may call for its users: webhooks and gates name any URL, and must not reach into our own network.

More than one feature calls out, and all by the same rule:
1. A URL is `https://HOST[:PORT]/…` or `http://…`, without user, password or fragment.
2. HOST is looked up, and *every* address found must be global: loopback, private, link-local (cloud metadata), multicast and reserved
   ones are refused, also when they are wrapped in IPv6 (mapped, 6to4, Teredo, NAT64).
3. The setting `webhook_networks` names networks that may be called all the same; only there plain `http` is taken.
4. The caller connects to an address of this answer and never looks the name up again (DNS rebinding).
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from edgefleet_protocol.errors import EdgefleetError

MAX_URL: Final = 2000
PORTS: Final = {"https": 443, "http": 80}
_PLAIN: Final = re.compile(r"[\x21-\x7e]+")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_RETIRED: Final = (ipaddress.ip_network("fec0::/10"), ipaddress.ip_network("192.88.99.0/24"))
"""Site-local IPv6 and the anycast relay of 6to4: withdrawn, but still in use inside of networks; Python calls them global."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]


class BadUrlError(EdgefleetError):
    """The URL cannot be called: it is malformed, or leads to where the server must not go."""

    code = "webhook.bad_url"


class UnresolvedError(EdgefleetError):
    """The name in the URL has no address just now."""

    code = "webhook.bad_host"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return networks in CIDR form. Raises ValueError naming the one that is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def parse_target(url: str) -> Target:
    """Return where a URL leads. Raises BadUrlError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(url, f"it cannot be read ({error})") from error
    if not _PLAIN.fullmatch(url) or len(url) > MAX_URL:
        raise _bad(url, f"it has characters that a URL cannot have, or more than {MAX_URL} of them")
    if parts.scheme not in PORTS or not parts.hostname:
        raise _bad(url, "expected https://HOST/…")
    if "@" in parts.netloc or parts.fragment:
        raise _bad(url, "a user, a password or a fragment cannot be part of it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path)


def addresses_of(target: Target, networks: Sequence[Network], resolve: Resolve | None = None) -> tuple[str, ...]:
    """Return the addresses of a target, all of them checked. May block for a name server.

    Raises UnresolvedError, and BadUrlError when one of them must not be called.
    """
    try:
        found = tuple(dict.fromkeys((resolve or _look_up)(target.host, target.port)))
    except (OSError, UnicodeError) as error:
        raise UnresolvedError(
            f"{target.host} has no address ({error})", next_step="correct the host name, or the server's name service"
        ) from error
    if not found:
        raise UnresolvedError(f"{target.host} has no address", next_step="correct the host name")
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        is_named = any(address.version == network.version and address in network for network in networks)
        if not is_named and not is_public(address):
            raise BadUrlError(
                f"{target.host} leads to {address}, which is not a public address",
                next_step="if this is intended, an administrator adds its network to `webhook_networks` of server.toml",
            )
        if not is_named and target.scheme != "https":
            raise BadUrlError(
                f"{target.host} would be called without encryption",
                next_step="use https; plain http is for networks in `webhook_networks` of server.toml",
            )
    return found


def is_public(address: Address) -> bool:
    """Return whether an address, and what it wraps, belongs to the public internet."""
    inner: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner += [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
        inner += list(address.teredo or ())
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None or address in _NAT64:
            inner = inner[1:]  # the wrapping itself is not global
    return all(_is_plain_public(one) for one in inner)


def _is_plain_public(address: Address) -> bool:
    if any(address.version == network.version and address in network for network in _RETIRED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _look_up(host: str, port: int) -> Sequence[str]:
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _bad(url: str, why: str) -> BadUrlError:
    return BadUrlError(
        f"the URL {url[:80]!r} cannot be called: {why}", next_step="give one like https://host.example/hook"
    )
