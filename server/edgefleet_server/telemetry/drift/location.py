"""Where in the fleet a signal moved: one device, a site, a hardware profile, a group, or everywhere. Pure.

A crowd explains what happened when most of its devices moved and hardly any other did. The sharpest explanation wins; of equals a
site comes before a profile, and a profile before a group, because a place is what a person can go and look at. Equals are named too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgefleet_server.telemetry.drift.model import Member

CLEAR_INSIDE: Final = 0.8
CLEAR_OUTSIDE: Final = 0.1
SOME_INSIDE: Final = 0.5
SOME_OUTSIDE: Final = 0.2
EVERYWHERE: Final = 0.6
LEAST: Final = 2
"""Devices inside of a crowd, and outside of it, so that there is something to tell apart."""


class Where(StrEnum):
    """Where a signal moved. Public, never renamed."""

    NOWHERE = "nowhere"
    DEVICE = "device"
    DEVICES = "devices"
    GROUP = "group"
    PROFILE = "profile"
    SITE = "site"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Location:
    """The sharpest explanation. name: of the site, profile, group or device; also: other crowds of the very same devices."""

    where: Where
    name: str = ""
    also: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Crowd:
    """Devices that have something in common."""

    where: Where
    name: str
    devices: frozenset[str]

    def __str__(self) -> str:
        """Return `site lyon`."""
        return f"{self.where} {self.name}"


def crowds_of(members: Sequence[Member]) -> list[Crowd]:
    """Return the crowds of these devices that can be told apart from the rest, in the order in which they are preferred."""
    found: dict[tuple[Where, str], set[str]] = {}
    for one in members:
        if one.site:
            found.setdefault((Where.SITE, one.site), set()).add(one.device)
        found.setdefault((Where.PROFILE, one.profile), set()).add(one.device)
        for group in one.groups:
            found.setdefault((Where.GROUP, group), set()).add(one.device)
    order = (Where.SITE, Where.PROFILE, Where.GROUP)
    return [
        Crowd(where, name, frozenset(devices))
        for (where, name), devices in sorted(found.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
        if LEAST <= len(devices) <= len(members) - LEAST
    ]


def locate(members: Sequence[Member], moved: Collection[str], crowds: Sequence[Crowd]) -> Location:
    """Return where those are that moved. crowds: of the members, the preferred first."""
    if not moved:
        return Location(Where.NOWHERE)
    every = frozenset(one.device for one in members)
    ranked = [(_shares(crowd.devices, every, moved), crowd) for crowd in crowds]
    clear = [one for one in ranked if one[0][0] >= CLEAR_INSIDE and one[0][1] <= CLEAR_OUTSIDE]
    if clear:
        return _sharpest(clear)
    if len(moved) >= EVERYWHERE * len(every) and len(every) > LEAST:
        return Location(Where.ALL)
    some = [
        (shares, crowd)
        for shares, crowd in ranked
        if shares[0] >= SOME_INSIDE and shares[1] <= SOME_OUTSIDE and len(crowd.devices & frozenset(moved)) >= LEAST
    ]
    if some:
        return _sharpest(some)
    if len(moved) == 1:
        return Location(Where.DEVICE, next(iter(moved)))
    return Location(Where.DEVICES)


def _shares(devices: frozenset[str], every: frozenset[str], moved: Collection[str]) -> tuple[float, float]:
    inside = len(devices.intersection(moved)) / len(devices)
    outside = every - devices
    return inside, len(outside.intersection(moved)) / len(outside)


def _sharpest(ranked: Sequence[tuple[tuple[float, float], Crowd]]) -> Location:
    best = max(shares[0] - shares[1] for shares, _ in ranked)
    first, *others = [crowd for shares, crowd in ranked if shares[0] - shares[1] == best]
    return Location(first.where, first.name, [str(one) for one in others if one.devices == first.devices])
