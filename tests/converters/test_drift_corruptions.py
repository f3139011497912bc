"""A sample of `./dev soak drift-real-data`: corrupted real tables and pictures are seen, untouched ones are not."""

from __future__ import annotations

from tests.converters.drift_corruptions import GOAL, main
from tests.house.soak import in_ci


def test_real_data_is_seen_when_it_is_corrupted_and_only_then() -> None:
    told = main(in_ci("drift-real-data"), 1)
    assert told["false_alarms"] == []
    assert told["kinds"] >= 20
    assert told["seen"] >= GOAL
