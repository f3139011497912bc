"""Which span of time a page shows: one with a name, or from one moment to another, as its address says; and links to others.

Rules:
1. `from` and `to` are RFC 3339 or seconds since 1970; without a zone they are UTC, as the form of the page gives them. Without `to` the
   window ends now, without `from` it begins a day before its end. They win over `span`.
2. A window shorter than a minute, one that ends before it begins, and one that cannot be read are errors; what lies before the oldest
   figures or after now is cut.
3. Links keep what they do not change: the span or window, the scale, and by what lines are told apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Depends, Query

from edgefleet_server.dashboard.core.filters import machine_time
from edgefleet_server.dashboard.core.line_chart import ScaleKind
from edgefleet_server.telemetry.errors import BadSpanError

DAY: Final = timedelta(days=1)
SHORTEST: Final = timedelta(minutes=1)
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999."""
AS_ASKED: Final = "write a time as 2026-11-30T10:00:00Z or in seconds since 1970, `from` before `to`"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address of a page asks for, as it stands there. begin, end: `from` and `to`."""

    span: str = ""
    begin: str = ""
    end: str = ""
    scale: ScaleKind = ScaleKind.AUTO

    def window(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Return from when to when, None where a span with a name is asked for. Raises BadSpanError."""
        if not self.begin and not self.end:
            return None
        end = min(moment_of(self.end, "to"), now) if self.end else now
        begin = moment_of(self.begin, "from") if self.begin else max(EARLIEST, end - DAY)
        if end - begin < SHORTEST:
            what = "is not a minute before" if begin < end else "is not before"
            raise BadSpanError(f"{machine_time(begin)} {what} {machine_time(end)}", next_step=AS_ASKED)
        return begin, end

    def kept(self, since: datetime, until: datetime) -> tuple[datetime, datetime | None] | None:
        """Return the window that links keep of what was read: without an end where none is asked for, so that they go on to now, too."""
        return (since, until if self.end else None) if self.begin or self.end else None


def moment_of(text: str, name: str) -> datetime:
    """Return a moment as an address has it. Raises BadSpanError."""
    written = text.strip().replace(" ", "+")  # "+02:00" in an address that nobody escaped
    try:
        if written.isascii() and written.isdigit() and int(written) <= LATEST_S:
            return datetime.fromtimestamp(int(written), UTC)
        found = datetime.fromisoformat(written.upper()) if "T" in written.upper() else EARLIEST
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        found = EARLIEST
    if found > EARLIEST:
        return found
    raise BadSpanError(f"`{name}` is {text[:40]!r}, which is no time", next_step=AS_ASKED)


def _asked(
    span: Annotated[str, Query(max_length=8)] = "",
    begin: Annotated[str, Query(alias="from", max_length=40)] = "",
    end: Annotated[str, Query(alias="to", max_length=40)] = "",
    scale: ScaleKind = ScaleKind.AUTO,
) -> Asked:
    return Asked(span, begin, end, scale)


AskedQuery = Annotated[Asked, Depends(_asked)]
"""Of a page with charts: `span`, `from`, `to` and `scale`."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """What a page shows, and what it may show instead. span: "" where it is a window; usual: the span without any in the address.

    window: from when to when, None = until now.
    other: the parts of the address that links keep; is_wide, may_be_wide: whether a chart has a logarithmic scale, or could.
    """

    span: str
    spans: Sequence[str]
    usual: str
    window: tuple[datetime, datetime | None] | None = None
    scale: ScaleKind = ScaleKind.AUTO
    other: Sequence[tuple[str, str]] = ()
    is_wide: bool = False
    may_be_wide: bool = False

    def parts(self, **changed: str) -> Mapping[str, str]:
        """Return the parts of an address with changes, in which "" is none: a form of the page sends them along."""
        found = dict(self.other)
        if self.window is not None and "span" not in changed:
            found |= {"from": self.since, "to": self.until}
        elif self.span:
            found["span"] = self.span
        if self.scale is not ScaleKind.AUTO:
            found["scale"] = self.scale.value
        return {name: value for name, value in (found | changed).items() if value}

    def query(self, **changed: str) -> str:
        """Return the query of an address with changes."""
        return urlencode(self.parts(**changed))

    @property
    def kept(self) -> Mapping[str, str]:
        """What the form for a window sends along."""
        return {name: value for name, value in self.parts().items() if name not in {"span", "from", "to"}}

    @property
    def said(self) -> str:
        """The range in words, after "in"."""
        if self.window is None:
            return f"the last {self.span}"
        begin = f"{self.window[0].astimezone(UTC):%Y-%m-%d %H:%M}"
        if self.window[1] is None:
            return f"{begin} UTC to now"
        end = f"{self.window[1].astimezone(UTC):%Y-%m-%d %H:%M}"
        return f"{begin} to {end.removeprefix(begin[:11])} UTC"

    @property
    def since(self) -> str:
        """The beginning, as a command takes it."""
        return self.span if self.window is None else machine_time(self.window[0])

    @property
    def until(self) -> str:
        """The end, as a command takes it; "" where it is now."""
        return "" if self.window is None or self.window[1] is None else machine_time(self.window[1])

    @property
    def fields(self) -> tuple[str, str]:
        """The window as the fields of a form have it."""
        begin, end = self.window or (None, None)
        return _field(begin), _field(end)


def _field(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M}"
