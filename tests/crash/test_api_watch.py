"""The arithmetic of the soak `rolling-restart`."""

from __future__ import annotations

import httpx
import pytest

from tests.crash.api_watch import ApiWatch, Call, longest_gap_s

CALLS = [Call(0.0, 0.2, 200), Call(1.0, 1.1, 503), Call(2.0, 4.0, 200), Call(5.0, 5.1, 0), Call(4.1, 4.2, 201)]


def test_only_answers_that_serve_end_a_gap_and_the_ends_of_the_time_count() -> None:
    assert longest_gap_s(CALLS, 0.0, 5.0) == pytest.approx(3.8)
    assert longest_gap_s(CALLS, 4.1, 9.2) == pytest.approx(5.0)
    assert longest_gap_s([], 1.0, 3.0) == pytest.approx(2.0)


def test_a_write_is_lost_when_an_older_number_or_none_stands() -> None:
    with httpx.Client() as client:
        watch = ApiWatch(client, ["a", "b", "c"], written={"a": 8, "b": 4, "c": 12})
        assert watch.lost({"a": 8, "b": 0}) == ["b", "c"]
        assert watch.lost({"a": 8, "b": 16, "c": 12}) == []
