"""A person's retry: who may be tried again, what becomes of it, and that no failure is ever forgotten by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Advance, Counts, Rule
from edgefleet_server.rollout.commands.retry import OF_THE_MOMENT, Choice, plan_retry
from edgefleet_server.rollout.effects import AssignmentTransitioned, Revert, RolloutTransitioned
from edgefleet_server.rollout.errors import ActiveExistsError, IllegalStateError
from edgefleet_server.rollout.model import Assignment, Member, Report, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.state_machines import FAILED_STATES, IllegalTransitionError, class_of, is_failure
from edgefleet_server.rollout.store import rollouts
from edgefleet_sim.world import bundle_of
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import MODEL, Habit, SimDevice, World, stages
from tests.server.rollout.test_routes import HOST, client_of

NOW = datetime(2026, 11, 25, tzinfo=UTC)
STRATUM = ProfileName("rpi")
NEW, OLD, OTHER = (bundle_of(name, STRATUM) for name in ("new", "old", "other"))
ALL, EVERY = Choice(), Choice(is_every=True)
S, R = AssignmentState, RolloutState
PLAIN = {"release": "digits@1.1.0", "selector": "", "stages": [{"name": "all", "size": {"percent": 100}, "soak": "0s"}]}


def snapshot(
    state: RolloutState = R.RUNNING, cell: StageState = StageState.EXPOSING, *, spec: dict[str, Any] | None = None,
    report: dict[str, Any] | None = None, count: int = 1, **fields: Any,
) -> Snapshot:  # fmt: skip
    """Return a rollout of one stage in which the first device stands as `fields` say, and the others are healthy."""
    told: dict[str, Any] = {"state": S.FAILED, "error_class": "disk", "exposed_at": NOW, "attempt": 1, "gen": 5}
    names = [DeviceId(f"d{number}") for number in range(count)]
    first = Assignment(names[0], 0, STRATUM, previous=OLD, **told | fields)
    rest = [
        first.but(device=name, state=S.HEALTHY, error_class="", failed_before="", switched_at=NOW, is_accepted=False)
        for name in names[1:]
    ]
    said = Report(reported_gen=5, is_online=True, wanted_by_server=NEW.sha256, set_by="r-1")
    return Snapshot(
        id=RolloutId("r-1"),
        state=state,
        spec=parse_spec(PLAIN | (spec or {})),
        salt="s",
        bundles={STRATUM: NEW},
        members=tuple(Member(name, STRATUM) for name in names) if state is R.RUNNING else (),
        cells=(StageRun(0, STRATUM, cell, cut=2**64, population=count, opened_at=NOW),),
        assignments=(first, *rest),
        reports={names[0]: replace(said, **report or {})},
    )  # fmt: skip


# ---- the rule


@pytest.mark.parametrize("state", list(R))
def test_only_while_the_release_is_wanted_and_nobody_has_to_answer(state: RolloutState) -> None:
    is_allowed = state in {R.RUNNING, R.PAUSED, R.FINISHED}
    if not is_allowed:
        with pytest.raises(IllegalTransitionError, match="runs, is paused or has finished"):
            plan_retry(snapshot(state), NOW, "ann", EVERY)
        return
    made = plan_retry(snapshot(state), NOW, "ann", EVERY)
    moves = [(one.before, one.after) for one in made.effects if isinstance(one, RolloutTransitioned)]
    assert moves == ([(R.FINISHED, R.RUNNING)] if state is R.FINISHED else [])


@pytest.mark.parametrize("state", list(S))
def test_only_devices_that_failed_are_tried_again(state: AssignmentState) -> None:
    found = snapshot(state=R.RUNNING).assignments[0]
    there = replace(snapshot(), assignments=(found.but(state=state),))
    if state not in FAILED_STATES:
        with pytest.raises(IllegalTransitionError, match="no device of it has failed"):
            plan_retry(there, NOW, "ann", EVERY)
        with pytest.raises(IllegalTransitionError, match=f"d0 has not failed: it is {state}"):
            plan_retry(there, NOW, "ann", Choice(devices=(DeviceId("d0"),)))
        return
    made = plan_retry(there, NOW, "retried by ann", EVERY)
    (moved,) = [one for one in made.effects if isinstance(one, AssignmentTransitioned)]
    after = moved.assignment
    assert (moved.before, after.state, after.reason) == (state, S.ELIGIBLE, "retried by ann")
    assert after.failed_before == ("lost" if state is S.LOST else "disk")
    assert (after.attempt, after.gen, after.previous) == (found.attempt, found.gen, found.previous)
    assert (after.due_at, after.ended_at, after.deadline, after.switched_at, after.retries) == (
        NOW,
        None,
        None,
        None,
        0,
    )
    assert after.exposed_at == NOW, "it did take the release up"


@pytest.mark.parametrize("error_class", [*ErrorClass, "lost"])
def test_without_every_only_failures_of_the_moment(error_class: str) -> None:
    state = S.LOST if error_class == "lost" else S.FAILED
    there = snapshot()
    there = replace(there, assignments=(there.assignments[0].but(state=state, error_class=str(error_class)),))
    is_of_the_moment = error_class in {"network", "disk", "memory", "deadline", "lost"}
    assert is_of_the_moment == (error_class in OF_THE_MOMENT)
    if not is_of_the_moment:
        with pytest.raises(IllegalTransitionError, match=rf"\(1 {error_class}\): `--failed`"):
            plan_retry(there, NOW, "ann", ALL)
    assert plan_retry(there, NOW, "ann", ALL if is_of_the_moment else EVERY).effects
    assert plan_retry(there, NOW, "ann", Choice(devices=(DeviceId("d0"),))).effects, "a name is said on purpose"


def test_the_refusal_names_the_failure_in_which_a_device_stands() -> None:
    there = snapshot()
    again = there.assignments[0].but(failed_before="disk", error_class="incompatible")
    with pytest.raises(IllegalTransitionError, match=r"\(1 incompatible\): `--failed`"):
        plan_retry(replace(there, assignments=(again,)), NOW, "ann", ALL)


LIMITS = {"limits": {"concurrent_downloads": 5}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"back_gen": 6}, "goes back"),
        ({"cell": StageState.FAILED}, "goes back"),
        ({"state": S.ROLLED_BACK, "error_class": ""}, "no device of it has failed"),
        ({"report": {"is_revoked": True}}, "taken out of the fleet"),
        ({"report": {"wanted_by_server": OTHER.sha256}}, "another release was set"),
        ({"report": {"wanted_by_server": OLD.sha256}}, "another release was set"),
        ({"report": {"wanted_by_server": OTHER.sha256}, "spec": LIMITS}, "another release was set"),
    ],
    ids=["taken-back", "stratum-failed", "rolled-back-by-us", "revoked", "deployed-over", "set-back-by-hand", "with-limits"],
)  # fmt: skip
def test_what_is_not_this_rollouts_any_more_is_left_alone(changes: dict[str, Any], why: str) -> None:
    given = dict(changes)
    state = given.pop("state", S.FAILED)
    there = snapshot(**given)
    there = replace(there, assignments=(there.assignments[0].but(state=state),))
    with pytest.raises(IllegalTransitionError, match=why):
        plan_retry(there, NOW, "ann", EVERY)


def test_whom_limits_told_to_stop_may_be_tried_again_and_needs_no_second_word() -> None:
    there = snapshot(spec=LIMITS, report={"wanted_by_server": OLD.sha256})
    made = plan_retry(there, NOW, "ann", ALL)
    assert not any(isinstance(one, Revert) for one in made.effects)
    assert any(isinstance(one, Revert) for one in plan_retry(snapshot(spec=LIMITS), NOW, "ann", ALL).effects)


def test_who_is_pinned_or_no_member_any_more_is_refused_by_name() -> None:
    there = snapshot()
    pinned = replace(there, members=(Member(DeviceId("d0"), STRATUM, pinned="for the fair"),))
    for other, why in ((pinned, "is pinned: for the fair"), (replace(there, members=()), "no longer matches")):
        with pytest.raises(IllegalTransitionError, match=why):
            plan_retry(other, NOW, "ann", ALL)
    with pytest.raises(IllegalTransitionError, match="d9 has no part in it"):
        plan_retry(there, NOW, "ann", Choice(devices=(DeviceId("d9"),)))


# ---- evidence


def facts(there: Snapshot) -> Any:
    return facts_of(there, there.cells[0], there.assignments, NOW)


@given(
    st.sampled_from([one for one in S if one is not S.INCOMPATIBLE]),
    st.sampled_from(["", "disk", "golden", "crash", "nonfinite", "deadline"]),
    st.sampled_from(["disk", "lost", "golden", "crash", "network"]),
    st.booleans(),
)
def test_a_device_that_failed_before_counts_once_and_as_failed_whatever_it_does(
    state: AssignmentState, error_class: str, before: str, is_accepted: bool
) -> None:
    there = snapshot(count=4)
    one = there.assignments[0].but(state=state, error_class=error_class, failed_before=before, is_accepted=is_accepted)
    found = facts(replace(there, assignments=(one, *there.assignments[1:])))
    assert not decide._flaw(found)
    counts: Counts = found.counts
    assert is_failure(one)
    if is_accepted:
        assert (counts.accepted, counts.failed, counts.exposed, counts.healthy) == (1, 0, 3, 3)
        return
    assert (counts.members, counts.exposed, counts.failed, counts.healthy) == (4, 4, 1, 3)
    assert (counts.offered, counts.pending, counts.unreachable, found.pooled_failed) == (0, 0, 0, 1)
    assert sum(found.failures.values()) == 1
    assert not isinstance(decide.decide(found), Advance) or found.rule is not Rule.ALL_HEALTHY


@pytest.mark.parametrize(
    ("before", "now", "weighs"),
    [("disk", "golden", "golden"), ("golden", "disk", "golden"), ("lost", "network", "lost"), ("disk", "crash", "crash"),
     ("disk", "", "disk"), ("network", "disk", "network")],
)  # fmt: skip
def test_of_two_failures_of_a_device_the_heavier_one_is_its_class(before: str, now: str, weighs: str) -> None:
    one = snapshot().assignments[0].but(failed_before=before, error_class=now, state=S.FAILED if now else S.HEALTHY)
    assert class_of(one) == weighs


# ---- in a fleet


def finished(world: World) -> tuple[str, SimDevice]:
    """Let a rollout finish although a device failed in it: that was accepted."""
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    bad = devices[0]
    bad.habits = {"1.1.0": Habit(Phase.GOLDEN, ErrorClass.GOLDEN)}
    rollout = world.create(selector=f"profile={PROFILE}", stages=stages("100%"), on_fail="pause")
    world.go_until_state(rollout, "paused")
    world.service.promote(rollout, "ann", "its disk is broken", None)
    world.go_until_state(rollout, "finished")
    world.go_until(lambda: world.states(rollout) == {"healthy": 3, "failed": 1}, seconds=30)
    return rollout, bad


def test_a_device_that_quarantined_the_release_installs_it_after_a_retry(any_world: World) -> None:
    world = any_world
    rollout, bad = finished(world)
    bad.habits = {"1.1.0": Habit()}
    with pytest.raises(IllegalStateError, match="1 golden"):
        world.service.retry(rollout, "ann", "", ALL)
    world.service.retry(rollout, "ann", "mended", EVERY)
    view = world.view(rollout)
    assert (view.state, view.code, view.finished_at) == ("running", "retried", None)
    assert view.reason == "1 device is tried again: retried by ann: mended"
    assert world.wants(bad) == "1.0.0", "its document is taken back until its turn comes"
    world.go_until_state(rollout, "finished")
    one = world.member(rollout, bad)
    assert (one.state, one.failed_before, one.attempt, one.running) == ("healthy", "golden", 2, f"{MODEL}@1.1.0")
    assert world.wants(bad) == "1.1.0"
    counts = world.view(rollout).counts
    assert (counts.members, counts.healthy, counts.failed, counts.retried, counts.pending) == (4, 3, 1, 1, 0)
    told = [(e["from"], e["to"], e["actor"]) for e in world.events(rollout) if e["device"] == bad.id]
    assert ("failed", "eligible", "ann") in told
    ends = [(e["from"], e["to"], e["actor"]) for e in world.events(rollout) if e["kind"] == "rollout"][-2:]
    assert ends == [("finished", "running", "ann"), ("running", "finished", "engine")]
    with pytest.raises(IllegalStateError, match="no device of it has failed"):
        world.service.retry(rollout, "ann", "", EVERY)


def test_the_rollout_runs_until_the_second_try_has_an_outcome_and_may_be_tried_a_third_time(world: World) -> None:
    rollout, bad = finished(world)
    bad.habits = {"1.1.0": Habit(stays_at=Phase.DOWNLOADING)}
    for attempt in (2, 3):
        world.service.retry(rollout, "ann", "", EVERY)
        world.go(5)
        assert (world.view(rollout).state, world.member(rollout, bad).attempt) == ("running", attempt)
        bad.habits = {"1.1.0": Habit(Phase.VERIFYING, ErrorClass.GOLDEN)}
        bad.step()
        world.go_until_state(rollout, "finished")
        assert world.member(rollout, bad).state == "failed"
        counts = world.view(rollout).counts
        assert (counts.failed, counts.retried) == (1, 1)
        bad.habits = {"1.1.0": Habit(stays_at=Phase.DOWNLOADING)}


def test_a_reopened_rollout_takes_in_nobody_new(world: World) -> None:
    rollout, bad = finished(world)
    bad.habits = {"1.1.0": Habit()}
    world.enrol(2)
    world.service.retry(rollout, "ann", "", EVERY)
    world.go_until_state(rollout, "finished")
    assert world.states(rollout) == {"healthy": 4}


def test_what_a_newer_rollout_wants_is_left_to_it(world: World) -> None:
    rollout, bad = finished(world)
    bad.habits = {}
    world.release("1.2.0")
    newer = world.create(f"{MODEL}@1.2.0", stages=stages("100%", soak="1h"))
    with pytest.raises(ActiveExistsError, match=newer):
        world.service.retry(rollout, "ann", "", EVERY)
    world.go_until(lambda: world.states(newer) == {"healthy": 4})
    world.service.abort(newer, "ann", "", rollback=False)
    with pytest.raises(IllegalStateError, match="another release was set on the device meanwhile"):
        world.service.retry(rollout, "ann", "", EVERY)


def test_in_a_running_rollout_the_earlier_failure_is_judged_on(world: World) -> None:
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    devices[0].habits = {"1.1.0": Habit(Phase.GOLDEN, ErrorClass.INTERNAL)}
    devices[1].habits = {"1.1.0": Habit(stays_at=Phase.DOWNLOADING)}
    rollout = world.create(stages=stages("100%"), on_fail="pause", promote="all_healthy")
    world.go_until(lambda: world.states(rollout).get("failed"))
    assert world.view(rollout).state == "running"
    devices[0].habits = {"1.1.0": Habit()}
    world.service.retry(rollout, "ann", "", EVERY)
    world.go_until(lambda: world.member(rollout, devices[0]).state == "healthy")
    devices[1].habits = {"1.1.0": Habit()}
    world.go_until(lambda: world.states(rollout) == {"healthy": 4})
    world.go(3)
    view = world.view(rollout)
    assert view.state != "finished", "all are healthy now, and yet one had failed"
    assert (view.counts.failed, view.counts.healthy) == (1, 3)
    world.service.promote(rollout, "ann", "it was the wrong cable", None)
    world.go_until_state(rollout, "finished")
    assert world.member(rollout, devices[0]).is_accepted


def test_in_a_paused_rollout_the_device_waits_until_it_goes_on(world: World) -> None:
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    devices[0].habits = {"1.1.0": Habit(Phase.GOLDEN, ErrorClass.GOLDEN)}
    rollout = world.create(stages=stages("100%"), on_fail="pause")
    world.go_until_state(rollout, "paused")
    devices[0].habits = {"1.1.0": Habit()}
    world.service.retry(rollout, "ann", "", EVERY)
    world.go(3)
    assert world.member(rollout, devices[0]).state == "eligible"
    assert world.member(rollout, devices[0]).waits_for == "the rollout is paused"
    world.service.resume(rollout, "ann", "")
    world.go(12)
    (stage,) = world.view(rollout).stages
    assert world.view(rollout).state == "running", "the person has answered"
    assert "failed" in stage.reason, "a retry makes no failure undone"
    assert stage.state != "passed"
    world.service.promote(rollout, "ann", "mended", None)
    world.go_until_state(rollout, "finished")
    assert devices[0].running == "1.1.0"


def test_a_stratum_that_fails_meanwhile_takes_a_device_back_that_is_tried_again(world: World) -> None:
    rollout, bad = finished(world)
    bad.habits = {"1.1.0": Habit(stays_at=Phase.PROBATION)}
    world.service.retry(rollout, "ann", "", EVERY)
    world.go_until(lambda: world.member(rollout, bad).state == "verifying")
    world.service.abort(rollout, "ann", "after all not", rollback=True)
    world.go_until_state(rollout, "rolled_back")
    assert {one.running for one in world.devices.values()} == {"1.0.0"}


# ---- the route


def test_the_route_has_dry_runs_keys_roles_and_an_audit(world: World) -> None:
    rollout, bad = finished(world)
    bad.habits = {"1.1.0": Habit()}
    client = client_of(world)
    path = f"{HOST}/rollouts/{rollout}:retry"
    body = {"reason": "mended", "failed": True}
    assert client_of(world, Role.VIEWER).post(path, json=body).status_code == 403
    tried = client.post(f"{path}?dry_run=true", json=body)
    assert (tried.status_code, tried.json()["state"], tried.json()["counts"]["retried"]) == (200, "running", 1)
    assert world.view(rollout).state == "finished", "a dry run changes nothing"
    with world.house.db.session() as session:
        rollouts.rollout(session, rollout, lock=True).fence += 1  # as when the engine took it in between
    refused = client.post(path, json={"reason": "mended"})
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout.illegal_state")
    assert "`--failed`" in refused.json()["detail"]
    assert client.post(path, json={"devices": ["nobody"]}).status_code == 409
    assert client.post(path, json={"failed": "yes"}).status_code == 422
    answers = [client.post(path, json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200], "sent again, done once"
    world.go_until_state(rollout, "finished")
    assert world.member(rollout, bad).attempt == 2


def test_errors_are_of_the_feature(world: World) -> None:
    with pytest.raises(EdgefleetError, match="there is no rollout"):
        world.service.retry("r-none", "ann", "", ALL)
