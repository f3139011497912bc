"""What fields offer while they are filled in: models, releases, and terms of a selector, each with how many devices it is about.

A field says `list=pick("releases")`; the layout writes each list once at the end of the page, and reads only those that a field asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

MOST: Final = 200
Choice = tuple[str, str]
"""What is written into the field, and what is said of it."""
Versions = Iterable[tuple[str, str, int]]
"""Model, version, and how many devices run it."""
Readers = Mapping[str, Callable[[], Sequence[Choice]]]


class Picks:
    """The lists of one page. name: of a list in `readers`."""

    def __init__(self, readers: Readers) -> None:
        """Wire the readers."""
        self._readers = readers
        self._asked: dict[str, None] = {}

    def pick(self, name: str) -> str:
        """Return the id of a list, for the field that offers it."""
        if name not in self._readers:
            raise KeyError(name)
        self._asked[name] = None
        return f"pick-{name}"

    def lists(self) -> list[tuple[str, Sequence[Choice]]]:
        """Return the lists that were asked for so far, by their ids."""
        return [(f"pick-{name}", self._readers[name]()[:MOST]) for name in self._asked]


def selector_choices(
    groups: Iterable[str], labels: Iterable[tuple[str, str, int]], profiles: Mapping[str, int], versions: Versions
) -> list[Choice]:
    """Return terms of a selector: groups, labels, profiles, what runs. labels: key, value and how many devices have it."""
    terms = [(f"group={name}", "a saved selector") for name in groups]
    terms += [(f"{key}={value}", devices_text(n)) for key, value, n in labels]
    terms += [(f"profile={name}", devices_text(n)) for name, n in most_first(profiles)]
    terms += [(f"model.{model}={version}", devices_text(n)) for model, version, n in versions]
    return terms


def model_choices(names: Iterable[str], versions: Versions) -> list[Choice]:
    """Return models with how many devices run them."""
    running: dict[str, int] = {}
    for model, _version, n in versions:
        running[model] = running.get(model, 0) + n
    return [(name, _runs_text(running.get(name, 0))) for name in names]


def release_choices(refs: Iterable[str], versions: Versions) -> list[Choice]:
    """Return releases with how many devices run them."""
    running = {f"{model}@{version}": n for model, version, n in versions}
    return [(ref, _runs_text(running.get(ref, 0))) for ref in refs]


def most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return counts, the largest first."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def devices_text(count: int) -> str:
    """Return a count of devices in words."""
    return "1 device" if count == 1 else f"{count} devices"


def _runs_text(count: int) -> str:
    return f"runs on {devices_text(count)}" if count else "runs nowhere"
