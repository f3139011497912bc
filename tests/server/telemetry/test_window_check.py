"""A window is looked at for what it says before it costs anything."""

import tracemalloc

import pytest

from edgefleet_protocol.sketch import MAX_BUCKET
from edgefleet_server.telemetry.intake.window_check import BadWindowError, dense


def test_gaps_of_a_sketch_make_no_list_longer_than_a_sketch() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadWindowError):
            dense([0] + [-MAX_BUCKET - 1] * 1_000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 200_000


def test_a_sketch_may_have_its_last_bucket_behind_one_gap() -> None:
    assert dense([0, -MAX_BUCKET, 7]) == (0, [0] * MAX_BUCKET + [7])
    with pytest.raises(BadWindowError):
        dense([0, -MAX_BUCKET - 2, 7])
