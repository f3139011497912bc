"""Chips of the page of events: how serious its lines are, of which kinds its events, and the address that each leads to. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from edgefleet_server.dashboard.core.filters import label
from edgefleet_server.dashboard.story.model import Story, StoryLine, Tone
from edgefleet_server.events.model import EventView

SEVERITIES: Final[Mapping[str, tuple[Tone, ...]]] = {
    "bad": (Tone.BAD,),
    "warn": (Tone.WARN,),
    "run": (Tone.RUN,),
    "ok": (Tone.OK,),
    "other": (Tone.OFF, Tone.MUTED),
}
WORDS: Final[Mapping[str, str]] = {
    "bad": "went wrong",
    "warn": "needs a look",
    "run": "under way",
    "ok": "went well",
    "other": "other",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """One choice. count: lines or events of it; is_on: it is chosen, and the address takes it away again."""

    words: str
    count: int
    address: str
    is_on: bool
    kind: str = ""


def address_of(fields: Mapping[str, str]) -> str:
    """Return the page with these filters."""
    text = urlencode({name: value for name, value in fields.items() if value})
    return f"/events?{text}" if text else "/events"


def severity_chips(story: Story, chosen: str, fields: Mapping[str, str]) -> list[Chip]:
    """Return a chip of each severity that the story has, and of the chosen one."""
    counts = Counter(severity_of(one) for one in story.lines)
    return [
        _chip(WORDS[name], counts[name], "severity", name, name == chosen, fields, name)
        for name in SEVERITIES
        if counts[name] or name == chosen
    ]


def kind_chips(events: Iterable[EventView], chosen: str, fields: Mapping[str, str]) -> list[Chip]:
    """Return a chip of each kind of events, the most frequent first."""
    counts = Counter(one.kind for one in events)
    if chosen:
        counts.setdefault(chosen, 0)
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return [_chip(label(kind), n, "kind", kind, kind == chosen, fields) for kind, n in ordered]


def only(story: Story, severity: str) -> Story:
    """Return the lines of a severity, all without one."""
    if severity not in SEVERITIES:
        return story
    lines = [one for one in story.lines if severity_of(one) == severity]
    return replace(story, lines=lines, events=sum(one.events for one in lines))


def severity_of(line: StoryLine) -> str:
    """Return how serious a line is."""
    return next(name for name, tones in SEVERITIES.items() if line.tone in tones)


def known_devices(events: Sequence[EventView], most: int) -> list[tuple[str, str]]:
    """Return the devices of events, newest first, by id with what people call them."""
    found: dict[str, str] = {}
    for one in events:
        if one.device and len(found) < most:
            found.setdefault(one.device, one.display_name)
    return list(found.items())


def _chip(
    words: str, count: int, name: str, value: str, is_on: bool, fields: Mapping[str, str], kind: str = ""
) -> Chip:
    others = {key: one for key, one in fields.items() if key != name}
    return Chip(words, count, address_of(others if is_on else others | {name: value}), is_on, kind)
