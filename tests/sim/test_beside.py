"""The simulation plays stages of every mode, and approvals: a shadow answers nothing, a split its share, and both end with the rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgefleet_protocol.messages import CandidatePhase
from edgefleet_server.rollout.model import CandidateReport
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from edgefleet_sim.device import SimDevice
from edgefleet_sim.memory_database import SimDatabase
from edgefleet_sim.scenario import CANDIDATE_STAGES, Result, Scenario
from edgefleet_sim.world import World

PATIENT: dict[str, Any] = {"on_inconclusive": {"after": "48h", "do": "rollback"}}
SHADOW, GREEN, SPLIT = ({"stages": stages} for stages in CANDIDATE_STAGES)


def played(spec: dict[str, Any], **scenario: Any) -> tuple[Result, World]:
    """Return how a rollout of five devices went."""
    world = World(Scenario(seed=1, devices={"rpi": 5}, spec=spec, **scenario))
    return world.run(), world


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_each_strategy_brings_a_good_release_to_every_device(name: str) -> None:
    result, world = played({"strategy": name, **PATIENT})
    assert (result.state, result.broken, result.devices) == ("finished", [], {"healthy": 5})
    digest = world.new[next(iter(world.new))].sha256
    assert {device.active for device in world.devices.values()} == {digest}
    assert all(device.candidate_process.is_idle for device in world.devices.values())


@pytest.mark.parametrize("spec", [SHADOW, GREEN, SPLIT], ids=["shadow", "blue-green", "ab"])
@pytest.mark.parametrize("fails", ["crash", "golden"])
def test_a_release_that_fails_beside_what_serves_never_serves(spec: dict[str, Any], fails: str) -> None:
    result, world = played(spec, bad=1.0, classes=(fails,))
    assert (result.state, result.broken) == ("rolled_back", [])
    assert not any(device.switched_at for device in world.devices.values()), "nothing that serves was touched"
    assert all(document.candidate is None for document in world.rows.documents.values())
    assert all(device.candidate_process.is_idle for device in world.devices.values())


def test_a_split_lets_it_answer_its_share_and_a_shadow_nothing() -> None:
    for spec, most in ((SHADOW, 0), (SPLIT, 50)):
        world = World(Scenario(seed=1, devices={"rpi": 5}, spec=spec))
        shares = set[int]()
        while not world._is_over():
            world._next()
            shares |= {device.candidate_process.share_pct() for device in world.devices.values()}
        assert max(shares) == most


@pytest.mark.parametrize(("approval", "told"), [("deny", "deny by a person"), ("", "nobody with the role approver")])
def test_without_a_word_nothing_is_switched(approval: str, told: str) -> None:
    result, world = played(GREEN, approval=approval)
    assert (result.state, result.broken) == ("rolled_back", [])
    assert told in result.reason
    assert not any(device.switched_at for device in world.devices.values())


def test_who_is_paused_and_taken_back_while_it_runs_beside_is_told_so_and_heard() -> None:
    result, world = played(SPLIT, commands=((1500.0, "pause"), (1600.0, "abort_rollback")))
    assert (result.state, result.broken) == ("rolled_back", [])
    assert all(device.candidate_process.is_idle for device in world.devices.values())


# ---- it notices


def test_a_release_that_answers_more_than_its_share_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SimDatabase._offering

    def generous(rows: SimDatabase, *about: Any) -> Any:
        document = honest(rows, *about)
        candidate = document.candidate
        return (
            document
            if candidate is None
            else replace(document, candidate=replace(candidate, mode="split", share_pct=60))
        )

    monkeypatch.setattr(SimDatabase, "_offering", generous)
    assert "60 % of the requests" in played(SPLIT)[0].broken[0]
    assert "at most 0 % may" in played(SHADOW)[0].broken[0]


def test_a_stage_that_passes_on_devices_that_run_nothing_beside_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SimDevice._report

    def lie(device: SimDevice, air: Any) -> Any:
        said, candidate = honest(device, air), device.document.candidate
        if candidate is None:
            return said
        return replace(said, candidate=CandidateReport(candidate.bundle.sha256, CandidatePhase.RUNNING.value))

    monkeypatch.setattr(SimDevice, "_report", lie)
    assert "really were" in played(SHADOW, bad=1.0, classes=("golden",))[0].broken[0]
