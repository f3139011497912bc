"""Which of the server's places comes first, while the server moves (ADR 0125). Pure.

1. The first announced place is tried first, and adopted after one session on it: the broker took us, and a verified document came.
2. Until then the place in use stays, with its CAs; also when the announced one fails, which then rests.
3. An older announcement changes nothing.
"""

from dataclasses import dataclass, replace

from edgefleet_protocol.server_places import Announcement, ServerPlace

REST_S = 3_600.0
REST_MAX_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A place to try. cas: PEM, "" = those of the folder. number: of the announcement whose first place this is, or 0."""

    place: ServerPlace
    cas: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Following:
    """How far this device has followed. adopted: number in use. on_trial: connected to the first place, not proven.

    failures: of it, in a row. is_resting: it goes last.
    """

    announced: Announcement | None = None
    adopted: int = 0
    on_trial: bool = False
    failures: int = 0
    is_resting: bool = False

    @property
    def told(self) -> int:
        """Number of the newest announcement, 0 = none."""
        return self.announced.number if self.announced is not None else 0

    @property
    def rest_s(self) -> float:
        """How long the first place rests after its newest failure."""
        return min(REST_MAX_S, REST_S * 2.0 ** min(max(self.failures - 1, 0), 8))

    def hear(self, found: Announcement | None) -> "Following":
        """Take an announcement that is not older than the one in use."""
        is_old = found is None or found.number <= self.told or found.number < self.adopted
        return self if is_old else Following(found, self.adopted)

    def choices(self, current: ServerPlace) -> list[Choice]:
        """Return what to try, in this order. current: the place in use, always among it."""
        own = Choice(current, "", self.adopted)
        known = self.announced
        if known is None:
            return [own]
        cas = "".join(known.cas)
        others = [Choice(place, cas) for place in known.places[1:] if place != current]
        if self.adopted == known.number:
            first = own
        else:
            first = Choice(known.places[0], cas, known.number)
            others = [own, *others]
        return [*others, first] if self.is_resting else [first, *others]

    def connected(self, number: int) -> "Following":
        """The broker of the choice with this number took us."""
        if self.announced is None:
            return self
        if number != self.told:  # the first place was tried before, or rests
            return self if self.is_resting else self._failed()
        return Following(self.announced, self.adopted) if number == self.adopted else replace(self, on_trial=True)

    def proved(self) -> "Following":
        """A verified document came on this connection, and the place on trial is on the disk as the one in use."""
        return Following(self.announced, self.told) if self.on_trial else self

    def lost(self) -> "Following":
        """The connection ended, or nothing came on it."""
        return self._failed() if self.on_trial else self

    def rested(self) -> "Following":
        """The first place may be tried again."""
        return replace(self, is_resting=False)

    def _failed(self) -> "Following":
        return replace(self, on_trial=False, failures=self.failures + 1, is_resting=True)
