"""Fields of requests mean what their schema says, neither more nor less."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from edgefleet_server.web.strict_types import Moment, Whole


@pytest.mark.parametrize(
    ("given", "read"), [(5, 5), (5.0, 5), (-1385.0, -1385), (2.0**40, 2**40), (2**53 - 1, 2**53 - 1)]
)
def test_a_whole_number_is_one_however_json_writes_it(given: float, read: int) -> None:
    found = TypeAdapter(Annotated[int, Whole()]).validate_python(given)
    assert (found, type(found)) == (read, int)


@pytest.mark.parametrize("given", ["5", 5.5, True, None, float("inf"), float("nan"), 2**53, -(2**53)])
def test_what_is_no_whole_number_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[int, Whole()]).validate_python(given)


@pytest.mark.parametrize("given", ["0.5", "12", 0.5, "2026-11-25", "2026-11-25T12:00:00"])
def test_a_moment_is_written_with_date_time_and_zone(given: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(given)


def test_the_bounds_of_a_whole_number_hold_and_are_in_its_schema() -> None:
    adapter = TypeAdapter(Annotated[int, Whole(1, 9)])
    assert [adapter.validate_python(one) for one in (1, 9.0)] == [1, 9]
    for given in (0, 10, 0.0, 10.0):
        with pytest.raises(ValidationError):
            adapter.validate_python(given)
    assert adapter.json_schema() == {"type": "integer", "minimum": 1, "maximum": 9}
