"""Scopes of grants, and what a request touches. Pure.

A scope names models, device groups and sites; what it leaves open, it does not limit. A request is inside a scope when the scope contains
everything that the request touches, at every time to come: devices that a selector finds are known by its conditions only, so a
device that comes to match later is inside, too. Source: ADR 0123.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some devices, known by conditions that each of them meets: in each set, it is in one of these groups (at one of these sites).

    No condition: any device. One device at hand meets a condition for each of its groups.
    """

    groups: tuple[frozenset[str], ...] = ()
    sites: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Touched:
    """What a request touches. models: their names, None: whatever runs there; devices: None: none."""

    models: frozenset[str] | None
    devices: Crowd | None


EVERYBODY: Final = Crowd()
EVERYTHING: Final = Touched(None, EVERYBODY)
"""The whole fleet."""


class Touch(StrEnum):
    """What requests to a route touch, apart from the whole fleet."""

    NOTHING = "nothing"
    """Nothing that a scope could name, such as the bytes of an upload."""
    MODEL = "model"
    """The model of the address, and no device."""
    MODEL_EVERYWHERE = "model on all devices"
    """The model of the address, wherever it runs."""
    DEVICE = "device"
    """The device of the address, whatever runs on it."""
    ROLLOUT = "rollout"
    """The model of the rollout of the address, on all devices that its selector finds."""
    STATED = "as the body says"
    """What the body names: the route says it before it gets the caller."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a grant is good: for these models, on devices in one of these groups and at one of these sites. Empty: any."""

    models: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole fleet."""
        return not (self.models or self.groups or self.sites)

    @property
    def has_devices(self) -> bool:
        """Whether it limits devices."""
        return bool(self.groups or self.sites)

    def contains(self, touched: Touched) -> bool:
        """Return whether everything that a request touches is inside."""
        if self.models and (touched.models is None or not touched.models <= self.models):
            return False
        if touched.devices is None:
            return not self.has_devices
        crowd = touched.devices
        return _is_inside(self.groups, crowd.groups) and _is_inside(self.sites, crowd.sites)

    def includes(self, other: "Scope") -> bool:
        """Return whether another scope lies inside this one."""
        pairs = ((self.models, other.models), (self.groups, other.groups), (self.sites, other.sites))
        return all(not own or (theirs and theirs <= own) for own, theirs in pairs)

    def __str__(self) -> str:
        named = (("model", self.models), ("group", self.groups), ("site", self.sites))
        return ", ".join(f"{kind} {' or '.join(sorted(names))}" for kind, names in named if names)


WHOLE: Final = Scope()
"""The scope that is the whole fleet."""


def _is_inside(allowed: frozenset[str], conditions: tuple[frozenset[str], ...]) -> bool:
    """Return whether one condition alone keeps devices to what is allowed.

    Not all conditions together: a device may be in several groups, and who is in a and b need not be in c.
    """
    return not allowed or any(one <= allowed for one in conditions)


def scope_of(stored: Mapping[str, Any]) -> Scope:
    """Return the scope that a stored grant says."""
    return Scope(*(frozenset(map(str, stored.get(key, ()))) for key in ("models", "groups", "sites")))
