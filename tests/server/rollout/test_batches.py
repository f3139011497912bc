"""How many documents one tick signs: 200, and of a large fleet a share, so that it is not read a thousand times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_server.rollout.effects import Offer
from edgefleet_server.rollout.model import Member, RolloutState, Snapshot
from edgefleet_server.rollout.planner.document_state import BATCH, BATCH_SHARE, HUGE
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.world import bundle_of
from tests.server.rollout.explored import START

RPI = ProfileName("rpi")


def snapshot_of(devices: int) -> Snapshot:
    """Return a rollout that was just made for so many devices, all in its one stage."""
    stages = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]
    spec = parse_spec({"release": "digits@1.2.0", "selector": "", "stages": stages})
    members = tuple(Member(DeviceId(f"d-{number:06}"), RPI) for number in range(devices))
    bundles = {RPI: bundle_of("new", "rpi")}
    return Snapshot(RolloutId("r"), RolloutState.RUNNING, spec, "salt", bundles, members, (), ())


@pytest.mark.parametrize(
    ("devices", "signed"), [(50, 50), (1_000, BATCH), (10_000, int(10_000 * BATCH_SHARE)), (HUGE + 2, HUGE + 2)]
)
def test_a_tick_signs_a_batch_and_the_next_follows_at_once(devices: int, signed: int) -> None:
    plan = plan_tick(snapshot_of(devices), START)
    assert sum(isinstance(effect, Offer) for effect in plan.effects) == signed
    assert (plan.next_at == START) is (signed < devices)


def test_nothing_is_signed_for_a_paused_one() -> None:
    plan = plan_tick(replace(snapshot_of(50), state=RolloutState.PAUSED), START)
    assert not [effect for effect in plan.effects if isinstance(effect, Offer)]
