"""The map of the fleet as the page and its script draw it: groups with words, a legend with counts, each with its list. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from edgefleet_server.dashboard.core.filters import number
from edgefleet_server.dashboard.fleet.device_query import Search
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory.device_health import SITE
from edgefleet_server.fleet.inventory.fleet_map import LETTERS, NO_VERSION, FleetMap, Grouping, MapGroup, MapQuestion

MOST_SQUARES: Final = 1_000
"""Drawn as elements of the page, complete without a script; more are drawn by a script."""
MOST_GROUPS: Final = 200
MOST_MODELS: Final = 8
RANKS: Final = "1234"
"""Letters of versions by recency: the newest, the one before, an older one, all others."""
_SQUARES: Final[Mapping[str, str]] = {
    LETTERS[Health.HEALTHY]: "", LETTERS[Health.DEGRADED]: "w", LETTERS[Health.FAILING]: "b", LETTERS[Health.UPDATING]: "u",
    LETTERS[Health.OFFLINE]: "o", LETTERS[Health.UNKNOWN]: "q", "1": "v1", "2": "v2", "3": "v3", "4": "v4", NO_VERSION: "n",
}  # fmt: skip
"""Classes of squares."""
_FILLS: Final[Mapping[str, str]] = {
    "": "f-ok", "w": "f-warn", "b": "f-bad", "u": "f-run", "o": "f-off", "q": "f-off", "v1": "f-s1", "v2": "f-s2", "v3": "f-s3",
    "v4": "f-s4", "n": "tr",
}  # fmt: skip
"""Classes of the parts of a bar, by those of squares."""
_NOTHING: Final[Mapping[Grouping, str]] = {
    Grouping.SITE: "no site",
    Grouping.MODEL: "no model",
    Grouping.PROFILE: "no profile",
}


class Colouring(StrEnum):
    """What colours say. Public: part of addresses."""

    HEALTH = "health"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class MapKey:
    """One entry of the legend. mark: the class of its square; address: the list of its devices, "" when it has none."""

    letter: str
    label: str
    mark: str
    count: int
    address: str


@dataclass(frozen=True, slots=True)
class GroupPicture:
    """One group. key: its name as the fleet knows it, "" for devices of none. words: its counts in words.

    squares: classes of squares, none where a script draws them; shares: class and percent of each part of a bar.
    """

    key: str
    name: str
    address: str
    devices: int
    words: str
    squares: Sequence[str]
    shares: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class MapPicture:
    """The map. more: groups beyond those shown. is_drawn: by a script; model: whose versions colours tell apart.

    version: another one where something changed.
    """

    by: Grouping
    colour: Colouring
    model: str
    models: Sequence[str]
    groups: Sequence[GroupPicture]
    more: int
    keys: Sequence[MapKey]
    devices: int
    is_drawn: bool
    version: str


def question(by: Grouping, colour: Colouring, versions: Mapping[str, Sequence[str]], model: str) -> MapQuestion:
    """Return what to read. versions: of each model, the newest first; model: the one whose versions colours tell apart."""
    if colour is Colouring.HEALTH:
        return MapQuestion(by)
    wanted = versions if by is Grouping.MODEL else {model: versions.get(model, ())}
    letters = [
        (name, version, RANKS[min(rank, len(RANKS) - 1)])
        for name, known in sorted(wanted.items())
        for rank, version in enumerate(known)
    ]
    return MapQuestion(by, tuple(letters)) if letters else MapQuestion(by, (("", "", RANKS[0]),))


def picture(
    found: FleetMap, asked: MapQuestion, colour: Colouring, model: str, models: Sequence[str], devices: int
) -> MapPicture:
    """Return the map as the page draws it. devices: live ones in all."""
    is_drawn = sum(one.devices for one in found.groups) > MOST_SQUARES
    labels = _labels(asked, colour, model)
    groups = [_group(one, asked, labels, is_drawn=is_drawn) for one in found.groups[:MOST_GROUPS]]
    more = max(0, len(found.groups) - MOST_GROUPS)
    keys = _keys(found.counts(), labels, colour, model, asked)
    named = [*dict.fromkeys([*models[:MOST_MODELS], *(one for one in models if one == model)])]
    return MapPicture(asked.by, colour, model, named, groups, more, keys, devices, is_drawn, found.version)


def plain(found: FleetMap, asked: MapQuestion, colour: Colouring, model: str) -> dict[str, Any]:
    """Return the map as the script reads it: a letter a device."""
    labels = _labels(asked, colour, model)
    groups = [
        {
            "name": one.name,
            "label": one.name or _NOTHING[asked.by],
            "address": _address(asked.by, one.name),
            "letters": one.letters,
        }
        for one in found.groups
    ]
    return {
        "version": found.version,
        "keys": {letter: {"label": label, "mark": _SQUARES[letter]} for letter, label in labels.items()},
        "groups": groups,
    }


def _labels(asked: MapQuestion, colour: Colouring, model: str) -> Mapping[str, str]:
    """Return what each letter means, in the order of the legend."""
    if colour is Colouring.HEALTH:
        return {letter: health.value for health, letter in LETTERS.items()}
    if asked.by is Grouping.MODEL:
        return {"1": "newest version", "2": "one before", "3": "older", "4": "oldest", NO_VERSION: "none"}
    found: dict[str, list[str]] = {}
    for name, version, letter in asked.versions:
        if name == model:
            found.setdefault(letter, []).append(version)
    names = {letter: known[0] if len(known) == 1 else f"{known[0]} and older" for letter, known in found.items()}
    return {**names, NO_VERSION: f"no {model}" if model else "none"}


def _group(one: MapGroup, asked: MapQuestion, labels: Mapping[str, str], *, is_drawn: bool) -> GroupPicture:
    counted = [(label, letter, one.counts[letter]) for letter, label in labels.items() if one.counts.get(letter)]
    whole = max(1, one.devices)
    return GroupPicture(
        key=one.name,
        name=one.name or _NOTHING[asked.by],
        address=_address(asked.by, one.name),
        devices=one.devices,
        words=", ".join(f"{number(n)} {label}" for label, _, n in counted),
        squares=() if is_drawn else [_SQUARES[letter] for letter in one.letters],
        shares=[(_FILLS[_SQUARES[letter]], round(100 * n / whole, 3)) for _, letter, n in counted],
    )


def _address(by: Grouping, name: str) -> str:
    search = Search()
    match by:
        case Grouping.SITE:
            chosen = search.toggled(SITE, name) if name else Search(selector=f"!{SITE}")
        case Grouping.MODEL:
            chosen = search.toggled(f"model.{name}", None) if name else search
        case Grouping.PROFILE:
            chosen = search.toggled("profile", name)
    return chosen.address()


def _keys(
    counts: Mapping[str, int], labels: Mapping[str, str], colour: Colouring, model: str, asked: MapQuestion
) -> list[MapKey]:
    found = []
    for letter, label in labels.items():
        n = counts.get(letter, 0)
        if colour is Colouring.HEALTH:
            address = Search(f"health={label}").address()
        else:
            known = [version for name, version, one in asked.versions if one == letter and name == model]
            missing = letter == NO_VERSION and bool(model)
            selector = f"!model.{model}" if missing else f"model.{model} in ({','.join(known)})" if known else ""
            address = Search(selector).address() if selector and asked.by is not Grouping.MODEL else ""
        found.append(MapKey(letter, label, _SQUARES[letter], n, address if n else ""))
    return found
