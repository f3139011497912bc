"""Many drawn rollouts on a bad wire, with replicas and devices that crash: 20 in a run of CI, another 20 in the next."""

from __future__ import annotations

import pytest

from edgefleet_sim.__main__ import many
from tests.house.soak import in_ci
from tests.sim.soak import one_liar

CI_RUNS = 480
"""Of these each commit runs a part (`tests.house.sampling`). The full count is `./dev soak sim`."""
PARTS = 24


@pytest.mark.parametrize("part", range(PARTS))
def test_no_stage_is_skipped_or_doubled_on_a_bad_wire_with_crashing_replicas(part: int) -> None:
    runs = CI_RUNS // PARTS
    found = many(runs, 1 + part * runs)
    assert found["broken"] == []
    assert found["runs"] == runs
    assert {"finished", "rolled_back"} <= set(found["ended"])
    assert found["replica_crashes"] > 0
    assert found["refused_by_fence"] > 0, "a replica that stalled found its fence taken"
    assert found["device_crashes"] > 0


@pytest.mark.parametrize("seed", [746728016, 746729810])
def test_what_the_soak_found_stays_mended(seed: int) -> None:
    """A device that was drawn next to one that joins; a slow one whose deadline passes while it has no power, again and again."""
    assert many(1, seed)["broken"] == []


def test_one_device_that_lies_takes_nobody_else_back() -> None:
    found = one_liar(in_ci("one-liar"), 1)
    assert found["broken"] == []
    assert found["others_taken_back"] == 0
    assert found["liar_counted_as_failed"] > 0
    assert found["questions"]
