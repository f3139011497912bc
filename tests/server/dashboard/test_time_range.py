"""Which window a page's address asks for, and the links to others."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.dashboard.core.line_chart import ScaleKind
from edgefleet_server.dashboard.timelines.time_range import Asked, TimeRange, moment_of
from edgefleet_server.telemetry.errors import BadSpanError

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("begin", "end", "window"),
    [
        ("2026-11-30T10:00:00Z", "2026-11-30T11:00:00Z", (NOW - 2 * HOUR, NOW - HOUR)),
        ("2026-11-30T10:00", "2026-11-30T11:00", (NOW - 2 * HOUR, NOW - HOUR)),  # as a form sends it
        ("2026-11-30T12:00:00+02:00", "", (NOW - 2 * HOUR, NOW)),
        ("2026-11-30T12:00:00 02:00", "", (NOW - 2 * HOUR, NOW)),  # nobody escaped the plus
        ("1796029200", "1796032800", (NOW - 3 * HOUR, NOW - 2 * HOUR)),
        ("", "2026-11-30T11:00:00Z", (NOW - 25 * HOUR, NOW - HOUR)),
        ("2026-11-30T11:00:00Z", "2027-01-01T00:00:00Z", (NOW - HOUR, NOW)),  # nobody knows what will be
        ("", "", None),
    ],
)
def test_a_window_is_read_in_the_forms_that_people_and_programs_write(
    begin: str, end: str, window: tuple[datetime, datetime] | None
) -> None:
    assert Asked(begin=begin, end=end).window(NOW) == window


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        ("yesterday", "", "`from` is 'yesterday', which is no time"),
        ("2026-11-30T10:00Z", "later", "`to` is 'later', which is no time"),
        ("2026-11-30", "", "`from` is '2026-11-30', which is no time"),  # whose day?
        ("9" * 30, "", "which is no time"),
        ("٣", "", "which is no time"),
        ("9999-12-31T23:59:59-09:00", "", "which is no time"),
        ("", "0001-01-01T00:00Z", "which is no time"),
        ("2026-11-30T11:00Z", "2026-11-30T10:00Z", "2026-11-30T11:00:00Z is not before 2026-11-30T10:00:00Z"),
        ("2026-11-30T11:00Z", "2026-11-30T11:00Z", "is not before"),
        ("2026-11-30T11:00Z", "2026-11-30T11:00:59Z", "is not a minute before"),
        ("2026-12-01T00:00Z", "", "is not before 2026-11-30T12:00:00Z"),
    ],
)
def test_what_is_wrong_with_a_window_is_said(begin: str, end: str, words: str) -> None:
    with pytest.raises(BadSpanError, match=r"time|before") as said:
        Asked(begin=begin, end=end).window(NOW)
    assert words in str(said.value)
    assert "2026-11-30T10:00:00Z" in said.value.next_step


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_address_breaks_a_page(begin: str, end: str) -> None:
    try:
        window = Asked(begin=begin, end=end).window(NOW)
    except BadSpanError:
        return
    assert window is None or window[0] < window[1] <= NOW


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_link_says_the_same_moment(at: datetime) -> None:
    at = at.replace(microsecond=0)
    window = TimeRange("", [], "24h", (at, at + HOUR))
    assert [moment_of(text, name) for name, text in parse_qsl(window.query())] == [at, at + HOUR]
    assert moment_of(str(int(at.timestamp())), "from") == at


def test_links_keep_what_they_do_not_change() -> None:
    shown = TimeRange("24h", ["1h", "24h"], "24h", other=(("by", "site"), ("device", "")), scale=ScaleKind.LOG)
    assert shown.query() == "by=site&span=24h&scale=log"
    assert shown.query(span="1h") == "by=site&span=1h&scale=log"
    assert shown.query(by="") == "span=24h&scale=log"
    zoomed = replace(shown, span="", window=(NOW - HOUR, NOW))
    assert zoomed.query(scale="linear") == (
        "by=site&from=2026-11-30T11%3A00%3A00Z&to=2026-11-30T12%3A00%3A00Z&scale=linear"
    )
    assert zoomed.query(span="24h") == "by=site&scale=log&span=24h"
    assert zoomed.kept == {"by": "site", "scale": "log"}


def test_a_range_is_said_in_words_and_as_options() -> None:
    shown = TimeRange("24h", [], "24h")
    assert (shown.said, shown.since, shown.until, shown.fields) == ("the last 24h", "24h", "", ("", ""))
    zoomed = TimeRange("", [], "24h", (NOW - HOUR, NOW))
    assert zoomed.said == "2026-11-30 11:00 to 12:00 UTC"
    assert (zoomed.since, zoomed.until) == ("2026-11-30T11:00:00Z", "2026-11-30T12:00:00Z")
    assert zoomed.fields == ("2026-11-30T11:00", "2026-11-30T12:00")
    assert replace(zoomed, window=(NOW - 30 * HOUR, NOW)).said == "2026-11-29 06:00 to 2026-11-30 12:00 UTC"
