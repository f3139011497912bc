"""What is announced in each state of a move, where the server listens meanwhile, and what may be done next. Pure.

Rules:
1. While a move is under way both places are announced, and the server listens at both: the place that devices should use comes first.
2. When it ends only one place is left. Until that is signed the server goes on listening at both.
3. It ends when every live device uses the place that stays, or when somebody says how many are left behind. The server's own settings must
   name that place by then, or it would start at the other one.
Source: ADR 0125.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from edgefleet_protocol.server_places import ServerPlace
from edgefleet_server.fleet.moves.model import UNDER_WAY, Followers, MoveState


def announced_places(state: MoveState, before: ServerPlace, after: ServerPlace) -> list[ServerPlace]:
    """Return the places to announce, the one to use first; none before the start and for a plan that was dropped."""
    match state:
        case MoveState.STARTED:
            return [after, before]
        case MoveState.UNDOING:
            return [before, after]
        case MoveState.FINISHED:
            return [after]
        case MoveState.UNDONE:
            return [before]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where the server is to be; "" and 0 = as it is. broker_host "" = `host`, if the server runs the broker itself (`has_broker`)."""

    host: str = ""
    device_port: int = 0
    broker_host: str = ""
    broker_port: int = 0
    has_broker: bool = True


_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.IGNORECASE)


def _check_host(name: str) -> None:
    try:
        is_host = not ipaddress.ip_address(name).is_unspecified and "%" not in name
    except ValueError:
        is_host = len(name) <= 230 and _NAME.fullmatch(name) is not None and not name.replace(".", "").isdigit()
    if not is_host:
        raise ValueError(f"{name[:80]!r} is no host name or address that devices could connect to")


def moved(place: ServerPlace, wanted: Wanted) -> ServerPlace:
    """Return the place that is wanted. Raises ValueError for a host that is none."""
    for name in (wanted.host, wanted.broker_host):
        if name:
            _check_host(name)
    url = urlsplit(place.url)
    host = wanted.host or url.hostname or ""
    named = f"[{host}]" if ":" in host else host
    broker_host = wanted.broker_host or (wanted.host if wanted.has_broker else "") or place.host
    address = f"https://{named}:{wanted.device_port or url.port or 443}"
    return ServerPlace(address, broker_host, wanted.broker_port or place.port, place.mqtt)


def host_and_port(url: str) -> tuple[str, int]:
    """Return host and port of a base URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443


def is_open(state: MoveState, *, in_force: bool) -> bool:
    """Return whether the server must still serve both places."""
    return state in UNDER_WAY or (state in {MoveState.FINISHED, MoveState.UNDONE} and not in_force)


def ports_besides(places: Sequence[ServerPlace], device_port: int, broker_port: int) -> tuple[list[int], list[int]]:
    """Return the ports of the device listener and of the broker that places name besides the settings' own, sorted."""
    device = {urlsplit(one.url).port or 443 for one in places} - {device_port}
    return sorted(device), sorted({one.port for one in places} - {broker_port})


def hosts_of(places: Sequence[ServerPlace]) -> list[str]:
    """Return the names that the server's certificate needs, sorted."""
    return sorted({name for one in places for name in (urlsplit(one.url).hostname or "", one.host) if name})


def missing(followers: Followers, leave_behind: int) -> int:
    """Return how many devices more have to follow before the move may end."""
    return max(0, followers.devices - followers.followed - leave_behind)


def next_step(state: MoveState, followers: Followers, *, in_force: bool, request: str, is_at_home: bool) -> str:
    """Return what to do next. is_at_home: the settings name the place that stays."""
    if state is MoveState.PLANNED:
        return "name the new place in server.toml and restart the server, which then serves both; then `edgectl server move start`"
    if state is MoveState.DROPPED or (in_force and state not in UNDER_WAY):
        return "nothing: the move has ended. From its next start the server serves the place that stays only"
    if request:
        return f"let the holders sign request {request}: `edgectl key ceremony`"
    if not in_force:
        verb = {MoveState.STARTED: "start", MoveState.UNDOING: "undo"}.get(state, "finish")
        return f"the announcement is not signed: `edgectl server move {verb}` again"
    if missing(followers, 0):
        return f"wait: {followers.devices - followers.followed} of {followers.devices} devices have not followed yet"
    if not is_at_home:
        return "name the place that stays in server.toml and restart the server; then `edgectl server move finish`"
    return "`edgectl server move finish`"
