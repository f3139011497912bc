"""A rollout that asks for what is left of an error budget: nothing opens without it, and an open stage stops once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_server.composition.objective_container import build_objectives
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.rollout.analysis import replay
from edgefleet_server.rollout.analysis.budget_facts import BudgetFact
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import Advance, Counts, Facts, KeepWaiting, Pause
from edgefleet_server.rollout.errors import LintError
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec
from tests.server.objectives.test_openslo import share
from tests.server.rollout.fleet_sim import MODEL, World, make_world, spec_of, stages


def spec(**gates: Any) -> dict[str, Any]:
    """Return a spec with gates."""
    return {"release": "digits@2.0.0", "selector": "", "gates": gates}


def test_a_spec_names_the_objective_and_what_has_to_be_left() -> None:
    read = parse_spec(spec(budget={"slo": "digits-ok"}))
    assert read.gates.budget is not None
    assert (read.gates.budget.slo, read.gates.budget.at_least) == ("digits-ok", 0.25)
    assert dump_spec(read)["gates"]["budget"] == {"slo": "digits-ok", "at_least": 0.25}
    assert "budget" not in dump_spec(parse_spec(spec()))["gates"]


@pytest.mark.parametrize(
    ("gate", "path"),
    [
        ({}, "$.gates.budget.slo"),
        ({"slo": "Digits OK"}, "$.gates.budget.slo"),
        ({"slo": "a", "at_least": 2}, "$.gates.budget.at_least"),
        ({"slo": "a", "most": 1}, "$.gates.budget.most"),
    ],
)
def test_mistakes_have_their_place(gate: dict[str, Any], path: str) -> None:
    with pytest.raises(Exception, match="invalid field") as refused:
        parse_spec(spec(budget=gate))
    assert [one["path"] for one in refused.value.errors] == [path]  # type: ignore[attr-defined]


def facts(left: float | None, *, error: str = "", is_answered: bool = False) -> Facts:
    """Return what a decision rests on where all 4 of 4 devices are healthy."""
    counts = Counts(members=4, exposed=4, healthy=4)
    budget = BudgetFact(slo="digits-ok", at_least=0.25, left=left, error=error, is_answered=is_answered)
    return Facts(
        stage=0,
        stratum="p",
        population=4,
        counts=counts,
        stage_members=4,
        stage_tried=4,
        pooled_exposed=4,
        budget=budget,
    )


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        (facts(0.25), Advance),
        (facts(None), Advance),
        (facts(0.24), Pause),
        (facts(-3.0), Pause),
        (facts(0.1, is_answered=True), KeepWaiting),
        (facts(None, error="there is no objective 'digits-ok'"), Pause),
    ],
)
def test_what_is_left_decides_and_decides_again_the_same(known: Facts, kind: type) -> None:
    made = decide(known)
    assert isinstance(made, kind), made
    again = replay.recompute(msgspec.json.encode(replay.stored(known)))
    assert replay.same(replay.outcome_of(made), replay.outcome_of(again))
    assert made.figures["budget.at_least"] == 0.25
    if kind is not Advance:
        assert made.code == "budget_low"
        assert "digits-ok" in made.reason


def test_evidence_of_before_decides_as_it_did() -> None:
    old = replay.stored(facts(0.0))
    del old["budget"]
    made = replay.recompute(old)
    assert isinstance(made, Advance)
    assert not any(name.startswith("budget") for name in made.figures)


# ---- the whole of it


class Shop:
    """A fleet that runs a release, with an objective of its model."""

    def __init__(self, world: World) -> None:
        house = world.house
        self.world = world
        self.book: ObjectiveBook = build_objectives(
            *(house.db, house.fleet, house.registry, house.telemetry, house.accuracy, house.clock, house.clock)
        )
        world.service = RolloutService(
            house.db, house.fleet, house.registry, house.clock, house.telemetry, self.book.budget
        )
        world.engine = world.replica("budget")
        world.enrol(4)
        world.settle("1.0.0")
        world.release("1.1.0")
        document = share("success") | {"metadata": {"name": "ok"}}
        document["spec"]["service"] = MODEL
        self.book.put("ok", document, "ann")
        self.seq = 0

    def answers(self, n: int, errors: int) -> None:
        """Let a device report so many requests."""
        self.seq += 1
        now_s = int(self.world.clock.now().timestamp())
        window = Window(
            t0=now_s - 60, length_s=60, model=MODEL, lane="active", sha256="a" * 64, version="1.0.0", n=n, errors=errors
        )
        device = next(iter(self.world.devices))
        told = Telemetry(device=device, boot_id="b1", seq=self.seq, ts=now_s * 1000, windows=[window])
        self.world.house.telemetry.ingest([told])
        self.world.clock.turn(minutes=1)

    def create(self, **gate: Any) -> str:
        """Start a rollout in two stages that asks for half of the budget."""
        budget = {"slo": "ok", "at_least": 0.5} | gate
        return self.world.create(gates={"budget": budget}, stages=stages(2, "100%"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    world = make_world(f"sqlite:///{tmp_path / 'db'}", tmp_path)
    yield Shop(world)
    world.house.db.dispose()


def test_nothing_opens_before_enough_is_left(shop: Shop) -> None:
    shop.answers(1000, errors=4)  # of 5 that may fail
    world = shop.world
    plan = world.service.plan(spec_of(gates={"budget": {"slo": "ok", "at_least": 0.5}}))
    assert [(one.level, one.code) for one in plan.findings if "budget" in one.code] == [("warning", "budget_low")]
    made = shop.create()
    world.go(3)
    assert {one.running for one in world.devices.values()} == {"1.0.0"}
    view = world.view(made)
    waits = [*view.waits, *(wait for stage in view.stages for wait in stage.waits)]
    assert any("20 % is left, at least 50 % is asked" in one.reason for one in waits), waits
    shop.answers(5000, errors=0)
    world.go_until_state(made, "finished")


def test_an_open_stage_stops_once_and_a_person_may_go_on(shop: Shop) -> None:
    world = shop.world
    made = shop.create()
    world.go_until(lambda: "1.1.0" in {one.running for one in world.devices.values()})
    shop.answers(1000, errors=100)
    view = world.go_until_state(made, "paused")
    assert (view.code, "budget of ok" in view.reason) == ("budget_low", True)
    decisions = world.service.reader.decisions(made)
    low = next(one for one in decisions if one.code == "budget_low")
    assert (low.verdict, low.agrees, low.evidence["budget"]["slo"]) == ("pause", True, "ok")
    world.service.resume(made, "ann", "the reason is known")
    world.go(5)
    assert world.view(made).state == "running"
    assert "1.0.0" in {one.running for one in world.devices.values()}
    shop.answers(100_000, errors=0)
    world.go_until_state(made, "finished")


def test_an_objective_that_is_not_there_is_refused(shop: Shop) -> None:
    with pytest.raises(LintError, match="there is no objective"):
        shop.create(slo="none")
    made = shop.create()
    shop.book.delete("ok")
    shop.world.go(3)
    assert {one.running for one in shop.world.devices.values()} == {"1.0.0"}
    assert shop.world.view(made).state == "running"
