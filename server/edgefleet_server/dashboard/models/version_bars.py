"""What runs where: a bar for each site and each hardware profile, parted by version. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.fleet.inventory.fleet_counts import VersionPlace

MOST_BARS: Final = 6
GAP: Final = 0.4
COLOURS: Final = 4


@dataclass(frozen=True, slots=True)
class BarPart:
    """One version's part of a bar. at, width: percent; colour: 1 for the newest version, up to COLOURS; selector: finds its devices."""

    version: str
    devices: int
    at: float
    width: float
    colour: int
    selector: str


@dataclass(frozen=True, slots=True)
class PlaceBar:
    """One site or profile. name: "" of the devices without a site; selector: finds its devices that run the model."""

    name: str
    devices: int
    selector: str
    parts: Sequence[BarPart]


@dataclass(frozen=True, slots=True)
class PlaceBars:
    """The bars with the most devices, and how many more there are."""

    shown: Sequence[PlaceBar]
    more: int


def colours_of(versions: Sequence[str]) -> dict[str, int]:
    """Return the colour of each version. versions: the newest first."""
    return {version: min(COLOURS, number) for number, version in enumerate(versions, 1)}


def by_site(model: str, places: Sequence[VersionPlace], order: Sequence[str]) -> PlaceBars:
    """Return the bars of sites. order: versions, the newest first. None where no device has a site."""
    if not any(one.site for one in places):
        return PlaceBars((), 0)
    return _bars(model, places, order, lambda one: one.site, lambda name: f"site={name}" if name else "!site")


def by_profile(model: str, places: Sequence[VersionPlace], order: Sequence[str]) -> PlaceBars:
    """Return the bars of hardware profiles. order: versions, the newest first."""
    return _bars(model, places, order, lambda one: one.profile, lambda name: f"profile={name}")


def _bars(
    model: str,
    places: Sequence[VersionPlace],
    order: Sequence[str],
    key: Callable[[VersionPlace], str],
    condition: Callable[[str], str],
) -> PlaceBars:
    counts: dict[str, dict[str, int]] = {}
    for one in places:
        of_place = counts.setdefault(key(one), {})
        of_place[one.version] = of_place.get(one.version, 0) + one.devices
    # those that belong to none come last
    names = sorted(counts, key=lambda name: (not name, -sum(counts[name].values()), name))
    bars = [
        PlaceBar(
            name,
            sum(counts[name].values()),
            f"model.{model},{condition(name)}",
            _parts(model, counts[name], order, condition(name)),
        )
        for name in names
    ]
    return PlaceBars(bars[:MOST_BARS], max(0, len(bars) - MOST_BARS))


def _parts(model: str, counts: Mapping[str, int], order: Sequence[str], condition: str) -> list[BarPart]:
    colours, total = colours_of(order), sum(counts.values())
    known = [version for version in order if version in counts]
    versions = [*known, *sorted(version for version in counts if version not in known)]
    room = 100.0 - GAP * (len(versions) - 1)
    at, parts = 0.0, []
    for version in versions:
        width = room * counts[version] / total
        selector = f"model.{model}={version},{condition}"
        parts.append(
            BarPart(version, counts[version], round(at, 2), round(width, 2), colours.get(version, COLOURS), selector)
        )
        at += width + GAP
    return parts
