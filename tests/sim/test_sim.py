"""The simulation runs the shipped rules, keeps its promises on a bad wire, tells the same story twice, and notices what is wrong."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.effects import StageRunCreated, StageRunTransitioned, StageRunUpdated
from edgefleet_server.rollout.model import RolloutState
from edgefleet_sim import checks, shrinker
from edgefleet_sim.__main__ import Request, answer, main, many
from edgefleet_sim.device import SimDevice
from edgefleet_sim.scenario import STAGES, Scenario, drawn
from edgefleet_sim.shrinker import kinds_of, shrink
from edgefleet_sim.stories import STORIES, blast, transcript
from edgefleet_sim.world import World, simulate

GOLDEN = Path(__file__).parents[1] / "golden" / "sim"


@pytest.mark.parametrize("name", sorted(STORIES))
def test_each_story_is_told_as_it_was(name: str) -> None:
    """After a wanted change: `python -m tests.sim.write_golden` writes them anew, and the difference is read."""
    told = transcript(name)
    assert "\n!" not in told, "a promise was broken"
    assert told == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = simulate(drawn(77)), simulate(drawn(77))
    assert first == second
    assert simulate(drawn(78)).transcript != first.transcript


def test_a_device_that_died_in_a_stratum_that_goes_back_is_named_where_others_finish() -> None:
    """Found by the soak: of three strata one finishes, and in another a device dies at its switch and is never heard to be back."""
    scenario = drawn(138627078)
    spec = {**scenario.spec, "on_unconfirmed": "rollback"}  # the story began with one failure in a small stratum
    told = simulate(msgspec.structs.replace(scenario, spec=spec, liars=0.0))
    assert not told.broken
    assert (told.state, told.reason.endswith("not confirmed to be back: x86-00006")) == ("finished", True)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(1454852458, id="a device that never said anything is told not to run beside what serves any more"),
        pytest.param(1454853600, id="a pause takes the offer of a late device back when its last stage has passed"),
    ],
)
def test_what_the_soak_found_keeps_every_promise(seed: int) -> None:
    assert simulate(drawn(seed)).broken == []


def test_a_replica_that_crashes_is_followed_by_another_within_its_lease() -> None:
    result = simulate(Scenario(seed=3, replica_crash=0.3))
    assert result.crashes > 5
    assert result.failovers_s
    assert max(result.failovers_s) <= 15.0, "the lease runs out, then the next look takes it"


def test_a_release_that_fails_everywhere_stops_at_its_canary() -> None:
    for canary, classes in ((2, ("crash",)), (5, ("golden",)), (5, ("crash",)), (50, ("crash",))):
        found = blast(1_000, canary, classes, seed=5)
        assert found["state"] == "rolled_back"
        assert found["exposed"] <= canary
        assert found["beyond"] <= 0
        assert found["broken"] == []
        assert found["halt_s"] is None or found["halt_s"] <= 2.0


def test_devices_go_back_to_the_slot_that_they_kept() -> None:
    world = World(Scenario(seed=8, devices={"rpi": 4}, commands=((10_000.0, "undo"),)))
    result = world.run()
    assert result.state == "rolled_back"
    assert [device.downloads for device in world.devices.values()] == [1] * 4
    told = {document.active.sha256 for document in world.rows.documents.values() if document.active}
    assert {device.active for device in world.devices.values()} == told


# ---- it notices


def sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every device claim a release that it does not run: what a broken server or agent would lead to."""
    honest = SimDevice._report

    def lie(device: SimDevice, air: Any) -> Any:
        said = honest(device, air)
        wanted = device.document.active
        from edgefleet_protocol.messages import Phase

        if wanted is None or not device.document.rollout:
            return said
        return replace(said, phase=Phase.COMMITTED, active_sha256=wanted.sha256, wanted_sha256=wanted.sha256)

    monkeypatch.setattr(SimDevice, "_report", lie)


def test_a_promotion_on_devices_that_do_not_run_it_is_noticed_and_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotaged(monkeypatch)
    scenario = Scenario(seed=1, devices={"rpi": 6, "jet": 4}, loss=0.2, duplicate=0.2, joiners=1)
    assert "really were" in simulate(scenario).broken[0]
    smaller = shrink(scenario)
    assert simulate(smaller).broken
    assert sum(smaller.devices.values()) <= 2
    assert (smaller.loss, smaller.duplicate, smaller.joiners, smaller.replicas) == (0.0, 0.0, 0, 1)
    assert simulate(smaller) == simulate(smaller), "the smaller one fails in the same way each time"


def test_a_broken_promise_comes_with_the_command_that_breaks_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotaged(monkeypatch)
    seed = next(one for one in range(20) if simulate(drawn(one)).broken)
    told = answer(Request(drawn=seed, shrink=True))
    assert told["again"] == f"edgectl sim --drawn {seed} --story"
    assert told["broken"] == simulate(drawn(seed)).broken
    assert many(1, seed)["broken"][0]["again"] == told["again"]
    quoted = shlex.split(told["shrunk_again"])
    assert quoted[3:] == ["|", "edgectl", "sim", "--scenario", "-", "--story"]
    smaller = msgspec.json.decode(quoted[2], type=Scenario)
    assert msgspec.to_builtins(smaller) == told["shrunk"]
    assert kinds_of(simulate(smaller).broken, smaller)[0] == kinds_of(told["broken"], drawn(seed))[0]


def test_shrinking_takes_no_step_to_another_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = simulate(Scenario(seed=1, devices={"rpi": 1}))

    def fails_twofold(scenario: Scenario) -> Any:
        told = "stage 0 of jet passed on 3 healthy devices, 1 really were" if "jet" in scenario.devices else "another"
        return replace(plain, broken=[told if scenario.loss else "another"])

    monkeypatch.setattr(shrinker, "simulate", fails_twofold)
    smaller = shrink(Scenario(seed=1, devices={"rpi": 6, "jet": 4}, loss=0.3, bad=0.5))
    assert smaller.devices == {"jet": 1}
    assert (smaller.loss, smaller.bad) == (0.01, 0.0)


def test_shrinking_leaves_out_stages_fields_classes_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotaged(monkeypatch)
    stages = [{"name": "first", "size": {"count": 2}, "soak": "20m", "approval": {"timeout": "6h"}}, *STAGES]
    spec = {"stages": stages[:1] + stages[2:], "on_inconclusive": {"after": "10h", "do": "rollback"}}
    smaller = shrink(Scenario(seed=1, devices={"rpi": 4}, spec=spec, classes=("crash", "golden"), approval="approve"))
    assert simulate(smaller).broken
    assert [sorted(stage) for stage in smaller.spec["stages"]] == [["name", "size"]]
    assert (set(smaller.spec), len(smaller.classes), smaller.person) == ({"stages"}, 1, ())


def test_failures_are_the_same_whoever_they_are_about() -> None:
    one, other = Scenario(devices={"rpi": 3}), Scenario(devices={"jet": 1})
    first = "stage 1 of rpi passed on 3 healthy devices, 1 really were (after 612.0 s)"
    second = "stage 0 of jet passed on 2 healthy devices, 0 really were (after 60.5 s)"
    assert kinds_of([first], one) == kinds_of([second], other)
    third = "jet-00001 was offered the release 2 times, the rows say 1"
    assert kinds_of([second], other) != kinds_of([third], other)


def test_a_lost_a_doubled_and_an_illegal_transition_are_noticed() -> None:
    world = World(Scenario(seed=1))
    assert world.run().broken == []
    rows = world.rows
    lost = rows.events.pop(len(rows.events) // 2)
    assert checks.problems(rows, world.devices, world.now)
    rows.events.insert(len(rows.events) // 2, lost)
    rows.events += [event for event in rows.events if event.kind == "stage" and event.after == "passed"][:1]
    assert any("passed 2 times" in problem for problem in checks.problems(rows, world.devices, world.now))
    rows.state = RolloutState.RUNNING
    assert any("has not ended" in problem for problem in checks.problems(rows, world.devices, world.now))


@pytest.mark.parametrize("seed", [1812419991, 1812421998])
def test_a_slow_device_that_tries_again_when_all_is_over_needs_no_reason_but_in_time(seed: int) -> None:
    """Found by the soak: back after days, it missed its deadline, and was in the middle of its next try at the end."""
    world = World(drawn(seed))
    assert world.run().broken == []
    busy = [one for one in world.devices.values() if one.is_on_its_way(world.now)]
    assert len(busy) == 1
    later = world.now + timedelta(hours=2)
    (problem,) = checks.problems(world.rows, world.devices, later)
    assert f"{busy[0].id} runs" in problem, "a try that never ends is none"


def test_an_offer_beyond_the_cut_is_noticed() -> None:
    from edgefleet_server.rollout.planner.tick import plan_tick

    world = World(Scenario(seed=1))
    plan = plan_tick(world.rows.snapshot(), world.now)
    cells = StageRunCreated | StageRunTransitioned | StageRunUpdated
    world.rows.carry(replace(plan, effects=tuple(e for e in plan.effects if isinstance(e, cells))), "x", world.now)
    for key, cell in world.rows.cells.items():
        world.rows.cells[key] = replace(cell, cut=0)
    offers = tuple(e for e in plan.effects if not isinstance(e, cells))
    with pytest.raises(checks.BrokenPromiseError, match="beyond the cut"):
        checks.check_plan(world.rows, replace(plan, effects=offers), world.devices, world.now)


def test_a_fence_that_was_taken_writes_nothing() -> None:
    rows = World(Scenario(seed=1)).rows
    now = World(Scenario(seed=1)).now
    first = rows.claim("a", now, is_woken=False)
    assert rows.claim("b", now, is_woken=True) is None, "it is leased"
    assert first is not None
    rows.fence += 1
    assert not rows.is_held(first)
    assert rows.refused == 1


# ---- the process


def ask(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "edgefleet_sim"], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def test_the_process_answers_in_json_and_says_what_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ask({"scenario": {"seed": 2, "devices": {"rpi": 3}}, "story": True})
    assert (code, told["state"], told["broken"]) == (0, "finished", [])
    assert told["transcript"]
    code, told = ask({"scenario": {"devices": {"rpi": "many"}}})
    assert code == 2
    assert "devices" in told["error"]["why"]
    wrong = json.dumps({"scenario": {"spec": {"stages": "none"}}})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(wrong.encode())))
    assert main() == 2
    assert json.loads(capsys.readouterr().out)["error"]["next"]


def test_scenarios_are_plain_data() -> None:
    scenario = drawn(5)
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario
    assert DeviceId("x")
