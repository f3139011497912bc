"""Webhook gates: other programs that a stage asks, over real HTTP. HTTP 200 to 202 pass, everything else holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.clock import SystemClock
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.rollout.analysis import decide, replay
from edgefleet_server.rollout.analysis.model import (
    PASSES,
    PASSES_TO,
    Advance,
    Counts,
    Facts,
    GateFact,
    KeepWaiting,
    Pause,
    RollBack,
)
from edgefleet_server.rollout.analysis.stage_gates import asks_for_rollback
from edgefleet_server.rollout.controller.gate_caller import GateCaller
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.model import GateKind, OnFail
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec
from edgefleet_server.rollout.store import webhook_gates
from tests.server.fleet.apps import parts_of
from tests.server.rollout.fleet_sim import World, spec_of
from tests.support.receivers import LOOPBACK, Answer, Got, receiving


class Gates:
    """A world whose stages ask a real receiver; the receiver's answer is `says`."""

    def __init__(self, world: World, url: str, got: list[Got]) -> None:
        self.world = world
        self.url = url
        self.got = got
        self.says: Answer = 403
        poster = HttpPoster(parse_networks(LOOPBACK), SystemClock())
        rollouts = parts_of(world.house).rollout
        self.caller = GateCaller(world.house.db, rollouts.clock, rollouts.wake, poster, "main")

    def start(self, *gates: dict[str, Any], soak: str = "0s", **fields: Any) -> str:
        """Start a rollout with two stages, of which the second has these gates."""
        self.world.enrol(4)
        self.world.settle("1.0.0")
        self.world.release("1.1.0")
        written = [{"url": self.url, **gate} for gate in gates]
        stages: list[dict[str, Any]] = [
            {"name": "canary", "size": {"count": 2}, "soak": "0s"},
            {"name": "rest", "size": {"percent": 100}, "soak": soak, "webhook": written},
        ]
        return self.world.create(stages=stages, **fields)

    def ask(self) -> int:
        """Ask every gate whose turn it is, on this thread; return how many."""
        with self.world.house.db.session() as session:
            calls = webhook_gates.claim(session, self.world.clock.now(), 32)
        for call in calls:
            self.caller.ask(call)
        return len(calls)

    def go(self, rounds: int, seconds: float = 1.0) -> None:
        """Let devices, engine and gates go on by turns."""
        for _ in range(rounds):
            self.world.go(seconds=seconds)
            self.ask()

    def until(self, fact: Callable[[], Any], rounds: int = 80) -> None:
        """Go on until something is so."""
        for _ in range(rounds):
            if fact():
                return
            self.go(1)
        raise AssertionError(self.world.told())

    def waits(self, rollout: str, code: str) -> None:
        """Go on until the gated stage waits with this code and the gate was asked."""
        self.until(lambda: self.rest(rollout)[1] == code and "not asked yet" not in self.rest(rollout)[2])

    def rest(self, rollout: str) -> tuple[str, str, str]:
        """Return state, code and reason of the gated stage."""
        cells = self.world.view(rollout).stages[1].strata  # none before the engine's first look
        return (cells[0].state, cells[0].code, cells[0].reason) if cells else ("", "", "")


@contextmanager
def gated(world: World) -> Iterator[Gates]:
    """Run a receiver for the gates."""
    with receiving() as receiver:
        gates = Gates(world, receiver.url, receiver.got)
        receiver.answer = lambda _got: gates.says
        try:
            yield gates
        finally:
            gates.caller.stop()


@pytest.mark.parametrize("kind", ["confirm-rollout", "pre-rollout"])
def test_a_stage_opens_only_when_its_gate_passes(world: World, kind: str) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": kind, "name": "go"})
        gates.waits(rollout, "gate_opening")
        gates.go(3)
        state, code, reason = gates.rest(rollout)
        assert (state, code) == ("pending", "gate_opening")
        assert reason == f"gate go ({kind}): answered 403"
        assert len(world.exposed(rollout)) == 2
        gates.says = 200
        gates.until(lambda: world.view(rollout).state == "finished")
    question = gates.got[0].json
    assert (question["type"], question["phase"]) == (kind, "Waiting")
    assert question["metadata"]["rollout"] == rollout
    assert question["metadata"]["stage"] == "rest"
    assert question["metadata"]["release"] == "digits@1.1.0"


@pytest.mark.parametrize("says", [201, 202])
@pytest.mark.parametrize("kind", ["confirm-rollout", "rollout", "confirm-promotion"])
def test_what_passes_in_flagger_passes_here(world: World, kind: str, says: int) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": kind})
        gates.says = says
        gates.until(lambda: world.view(rollout).state == "finished")
    assert gates.got
    assert all(one.agrees for one in world.decisions(rollout))


@pytest.mark.parametrize("says", [203, 204, 302, 503])
def test_no_other_status_confirms_a_promotion(world: World, says: int) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "confirm-promotion", "name": "sign-off"})
        gates.says = says
        gates.waits(rollout, "gate_confirm")
        gates.go(3)
        state, code, reason = gates.rest(rollout)
        assert (state, code) == ("judging", "gate_confirm")
        assert reason.endswith(f"gate sign-off (confirm-promotion): answered {says}")
        assert world.view(rollout).state == "running"


def test_a_confirmation_is_asked_when_all_else_is_there_and_is_stored_with_the_decision(any_world: World) -> None:
    with gated(any_world) as gates:
        rollout = gates.start({"kind": "confirm-promotion", "name": "sign-off"}, soak="20s")
        any_world.go_until(lambda: any_world.states(rollout) == {"healthy": 4})
        gates.go(5)
        assert gates.got == []  # the soak is not over
        gates.says = (200, {}, b"looks good to me")
        gates.until(lambda: any_world.view(rollout).state == "finished")
    decision = next(one for one in any_world.decisions(rollout) if one.stage == "rest" and one.verdict == "advance")
    [fact] = decision.evidence["gates"]
    assert (fact["name"], fact["status"], fact["body"]) == ("sign-off", 200, "looks good to me")
    assert decision.agrees
    waited = next(one for one in any_world.decisions(rollout) if one.code == "gate_confirm")
    assert (waited.verdict, waited.agrees) == ("hold", True)


def test_a_gate_that_cannot_be_reached_or_is_too_slow_holds(world: World) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "confirm-promotion", "url": "http://127.0.0.1:9/", "timeout": "1s"})
        gates.waits(rollout, "gate_confirm")
        assert "127.0.0.1:9: Connection refused" in gates.rest(rollout)[2]


def test_a_gate_in_a_private_network_is_not_called_and_holds(world: World) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "confirm-promotion", "url": "https://169.254.169.254/latest"})
        gates.waits(rollout, "gate_confirm")
        assert "which is not a public address" in gates.rest(rollout)[2]


def test_an_open_stage_is_closed_by_a_gate_that_no_longer_passes(world: World) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "rollout", "name": "smoke"}, soak="30s")
        gates.says = 200
        gates.until(lambda: gates.rest(rollout)[0] == "soaking")
        gates.go(4)
        assert gates.got
        gates.says = 500
        gates.waits(rollout, "gate_closed")
        assert gates.rest(rollout)[0] == "judging"
        gates.says = 200
        gates.until(lambda: world.view(rollout).state == "finished")


@pytest.mark.parametrize(("on_fail", "ends"), [("rollback", "rolled_back"), ("pause", "paused")])
def test_a_rollback_gate_that_answers_200_stops_the_stage(world: World, on_fail: str, ends: str) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "rollback", "name": "panic"}, soak="1h", on_fail=on_fail)
        gates.says = 404
        world.go_until(lambda: world.states(rollout) == {"healthy": 4})
        gates.go(12)
        assert world.view(rollout).state == "running"
        assert len(gates.got) >= 2
        gates.says = (200, {}, b"error budget is gone")
        gates.until(lambda: world.view(rollout).state == ends)
        # the canary's devices go back with the stratum
        view = world.view(rollout)
        assert (view.state, gates.rest(rollout)[1]) == (ends, "gate_rollback")
        assert "gate panic asks to roll back: error budget is gone" in view.reason
        assert {one.running for one in world.devices.values()} == ({"1.0.0"} if ends == "rolled_back" else {"1.1.0"})
    assert next(one for one in world.decisions(rollout) if one.code == "gate_rollback").agrees


def test_two_processes_ask_a_gate_once(any_world: World) -> None:
    with gated(any_world) as gates:
        rollout = gates.start({"kind": "confirm-promotion"})
        any_world.go_until(lambda: gates.rest(rollout)[1] == "gate_confirm")
        with any_world.house.db.session() as session:
            first = webhook_gates.claim(session, any_world.clock.now(), 32)
        with any_world.house.db.session() as session:
            assert webhook_gates.claim(session, any_world.clock.now(), 32) == []
        any_world.clock.turn(seconds=61)  # the first one died: its lease is over
        with any_world.house.db.session() as session:
            [again] = webhook_gates.claim(session, any_world.clock.now(), 32)
        gates.says = 200
        gates.caller.ask(again)
        gates.says = 500
        gates.caller.ask(first[0])  # came back after all: its answer counts no more
        with any_world.house.db.read() as session:
            [answers] = webhook_gates.answers(session, rollout).values()
        assert answers[0].status == 200


def test_the_caller_s_own_threads_ask_too(world: World) -> None:
    with gated(world) as gates:
        rollout = gates.start({"kind": "confirm-promotion"})
        world.go_until(lambda: gates.rest(rollout)[1] == "gate_confirm")
        assert gates.caller.tick() == 1
        gates.caller._pool.shutdown(wait=True)
        assert len(gates.got) == 1
        assert "answered 403" in gates.world.view(rollout).stages[1].reason or gates.world.tick()


# ---- the rules


def facts(*gates: GateFact, **changes: Any) -> Facts:
    """Return facts on which a stage passes, but for its gates."""
    counts = Counts(members=4, exposed=4, healthy=4)
    return Facts(stage=0, stratum="p", population=4, counts=counts, pooled_exposed=4, gates=list(gates), **changes)


def gate(kind: str, status: int | None = 200, age_s: float | None = 1.0, error: str = "") -> GateFact:
    return GateFact(name="g", kind=GateKind(kind), status=status, age_s=age_s, error=error, passes_to=PASSES_TO)


def test_evidence_from_when_only_200_passed_decides_as_it_did() -> None:
    stored = replay.stored(facts(gate("confirm-promotion", 202)))
    assert isinstance(replay.recompute(stored), Advance)
    del stored["gates"][0]["passes_to"]
    assert isinstance(replay.recompute(stored), KeepWaiting)


@pytest.mark.parametrize(
    ("gates", "verdict"),
    [
        ((), Advance),
        ((gate("confirm-promotion"),), Advance),
        ((gate("rollout"),), Advance),
        ((gate("confirm-promotion"), gate("rollout"), gate("rollback", 404)), Advance),
        ((gate("confirm-promotion", None, None),), KeepWaiting),
        ((gate("confirm-promotion", age_s=61.0),), KeepWaiting),
        ((gate("confirm-promotion", age_s=-1.0),), KeepWaiting),
        ((gate("confirm-promotion", None, error="no answer within 10 s"),), KeepWaiting),
        ((gate("rollout", 500), gate("confirm-promotion")), KeepWaiting),
        ((gate("rollback"),), RollBack),
        ((gate("rollback", 202),), RollBack),
        ((gate("confirm-promotion", 202), gate("rollout", 201)), Advance),
        ((gate("rollout", 203),), KeepWaiting),
        ((gate("rollback", age_s=61.0),), Advance),
        ((gate("rollback", None, error="x"),), Advance),
    ],
)
def test_what_gates_do_to_a_stage_that_would_pass(gates: tuple[GateFact, ...], verdict: type) -> None:
    assert isinstance(decide.decide(facts(*gates)), verdict)
    assert isinstance(decide.decide(facts(*gates, on_fail=OnFail.PAUSE)), Pause if verdict is RollBack else verdict)


def test_a_gate_that_passes_promotes_nothing_by_itself() -> None:
    early = msgspec.structs.replace(
        facts(gate("confirm-promotion"), gate("rollout")), counts=Counts(members=4, offered=4)
    )
    assert isinstance(decide.decide(early), KeepWaiting)


GATE = st.builds(
    GateFact,
    name=st.just("g"),
    kind=st.sampled_from(GateKind),
    status=st.none() | st.integers(100, 599),
    passes_to=st.sampled_from([PASSES, PASSES_TO]),
    age_s=st.none() | st.floats(-100, 1e6),
    error=st.sampled_from(["", "away"]),
)


@given(st.lists(GATE, max_size=5))
def test_only_a_fresh_yes_of_every_gate_advances_and_the_stored_facts_decide_the_same(gates: list[GateFact]) -> None:
    judged = facts(*gates)
    verdict = decide.decide(judged)
    needed = [one for one in gates if one.kind in (GateKind.ROLLOUT, GateKind.CONFIRM_PROMOTION)]
    yes = [one.status in range(200, one.passes_to + 1) for one in needed]
    is_fresh = all(yes) and all(one.age_s is not None and 0 <= one.age_s <= 60 for one in needed)
    if asks_for_rollback(gates):
        assert isinstance(verdict, RollBack)
    else:
        assert isinstance(verdict, Advance) == is_fresh
    again = decide.decide(msgspec.convert(msgspec.json.decode(msgspec.json.encode(judged)), Facts))
    assert again == verdict


# ---- the spec


def gated_spec(webhook: Any) -> dict[str, Any]:
    return spec_of(stages=[{"name": "all", "size": {"percent": 100}, "webhook": webhook}])


def test_one_gate_or_a_list_is_read_and_written_in_normal_form() -> None:
    one = {"kind": "confirm-promotion", "url": "https://h.example/x"}
    spec = parse_spec(gated_spec(one))
    written = dump_spec(spec)["stages"][0]["webhook"]
    assert written == [
        {
            "name": "confirm-promotion-1",
            "kind": "confirm-promotion",
            "url": "https://h.example/x",
            "every": "10s",
            "timeout": "10s",
        }
    ]
    assert parse_spec(dump_spec(spec)) == spec
    assert parse_spec(gated_spec([one])) == spec
    assert dump_spec(parse_spec(spec_of()))["stages"][0]["webhook"] == []


@pytest.mark.parametrize(
    ("kind", "instead"),
    [("confirm-traffic-increase", "confirm-rollout"), ("post-rollout", "webhook create"), ("event", "webhook create")],
)
def test_kinds_of_flagger_that_are_no_gates_here_say_what_to_use_instead(kind: str, instead: str) -> None:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(gated_spec({"kind": kind, "url": "https://h.example/"}))
    (error,) = caught.value.errors
    assert error["path"] == "$.stages[0].webhook.kind"
    assert instead in error["message"]


@pytest.mark.parametrize(
    ("webhook", "place"),
    [
        ({"kind": "confirm-promotion"}, "$.stages[0].webhook.url"),
        ({"url": "https://h.example/"}, "$.stages[0].webhook.kind"),
        ({"kind": "promote", "url": "https://h.example/"}, "$.stages[0].webhook.kind"),
        ({"kind": "rollback", "url": "ftp://h.example/"}, "$.stages[0].webhook.url"),
        ({"kind": "rollback", "url": "https://u:p@h.example/"}, "$.stages[0].webhook.url"),
        ({"kind": "rollback", "url": "https://h.example/", "timeout": "1h"}, "$.stages[0].webhook.timeout"),
        ({"kind": "rollback", "url": "https://h.example/", "retries": 3}, "$.stages[0].webhook.retries"),
        ([{"kind": "rollback", "url": "https://h.example/", "name": "a"}] * 2, "$.stages[0].webhook"),
        ([{"kind": "rollback", "url": "https://h.example/"}] * 9, "$.stages[0].webhook"),
        ("https://h.example/", "$.stages[0].webhook"),
    ],
)
def test_mistakes_are_told_with_their_place(webhook: Any, place: str) -> None:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(gated_spec(webhook))
    assert place in [error["path"] for error in caught.value.errors]
