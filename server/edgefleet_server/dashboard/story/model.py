"""Values of stories: what happened, and the lines that many happenings become. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Tone(StrEnum):
    """How a line is drawn: the states of all pages, and `muted` for what is neither good nor bad."""

    OK = "ok"
    RUN = "run"
    WARN = "warn"
    BAD = "bad"
    OFF = "off"
    MUTED = "muted"


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, whatever wrote it down. `to`: the state that was reached; by: a person, "" when nobody acted.

    name: what people call the device; site: where it is, "" when unknown. about: of an alert, what stays the same of its messages.
    is_event: there is an event of it; event: its id. times: how often, where only that is kept.
    """

    at: datetime
    kind: str
    device: str = ""
    name: str = ""
    site: str = ""
    model: str = ""
    release: str = ""
    rollout: str = ""
    stage: str = ""
    to: str = ""
    before: str = ""
    by: str = ""
    reason: str = ""
    title: str = ""
    about: str = ""
    is_event: bool = True
    event: int = 0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence; href: what it leads to, "" for plain words."""

    text: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line: when the newest of it happened, what in pieces, and why. events: folded into it; address: the page of them."""

    at: datetime
    tone: Tone
    icon: str
    what: Sequence[Piece]
    why: str
    events: int
    address: str

    @property
    def text(self) -> str:
        """What happened, without its links."""
        return "".join(one.text for one in self.what)


@dataclass(frozen=True, slots=True)
class Story:
    """Lines, newest first, and how many events are in them. more: lines beyond those shown; is_cut: older events were not read."""

    lines: Sequence[StoryLine]
    events: int
    more: int = 0
    is_cut: bool = False

    @property
    def counts(self) -> str:
        """How much was folded, in words."""
        events = "1 event" if self.events == 1 else f"{self.events:,} events".replace(",", "\N{NARROW NO-BREAK SPACE}")
        lines = len(self.lines) + self.more
        more = "the newest " if self.is_cut else ""
        return f"{more}{events} in {lines} line{'' if lines == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Thread:
    """Happenings that belong to one line, oldest first. kind: what the line is about."""

    kind: str
    happenings: Sequence[Happening]

    @property
    def first(self) -> Happening:
        """The oldest."""
        return self.happenings[0]

    @property
    def last(self) -> Happening:
        """The newest."""
        return self.happenings[-1]

    def devices(self, *states: str) -> Mapping[str, str]:
        """Return the devices that reached one of these states last, by id with their names; without states all of them."""
        reached: dict[str, Happening] = {}
        for one in self.happenings:
            if one.device and (one.to or one.device not in reached):
                reached[one.device] = one
        return {device: one.name or device for device, one in reached.items() if not states or one.to in states}
