"""What `/metrics` says of rollouts: states, moves, documents and the lag of looks, each counted once it is committed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import Phase
from edgefleet_server.composition.container import Parts, build_parts
from edgefleet_server.observability.prometheus import Metrics
from edgefleet_server.process.lifecycle.engine_work import build_engine
from tests.server.rollout.fleet_sim import Habit, World, make_world, stages
from tests.support.apps import shared_app


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose rollouts are made and ticked by the parts of a process."""
    made = make_world(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a")
    yield made
    made.house.db.dispose()


@pytest.fixture
def parts(world: World) -> Iterator[Parts]:
    """The parts of a process on the world's database; its engine ticks the world."""
    found = build_parts(world.house.settings, world.clock, is_turned=True)
    world.service = found.rollout
    world.engine = build_engine(found)._rollouts
    yield found
    found.db.dispose()


def figures(metrics: Metrics, name: str) -> dict[str, float]:
    """Return the samples of a figure by their labels, as text."""
    lines = re.findall(rf"^edgefleet_rollout{name}(?:{{(.*)}})? (\S+)$", metrics.text().decode(), re.MULTILINE)
    return {labels.replace('"', ""): float(value) for labels, value in lines}


def test_moves_and_documents_of_a_rollout_are_counted(world: World, parts: Parts) -> None:
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%"))
    world.go_until_state(rollout, "finished")
    moved = figures(parts.metrics, "_transitions_total")
    assert moved["kind=rollout,to=validating"] == moved["kind=rollout,to=running"] == 1
    assert moved["kind=rollout,to=finished"] == 1
    assert moved["kind=stage,to=passed"] == 2
    assert moved["kind=assignment,to=healthy"] == 4
    assert sum(moved.values()) == len(world.events(rollout)), "each event once"
    assert figures(parts.metrics, "_documents_total") == {"what=offer": 4}


def test_what_is_taken_back_is_counted(world: World, parts: Parts) -> None:
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.habits["1.1.0"] = Habit(fails_at=Phase.PROBATION)
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until_state(rollout, "rolled_back")
    assert figures(parts.metrics, "_documents_total") == {"what=offer": 4, "what=rollback": 4}


def test_what_was_not_committed_is_not_counted(world: World, parts: Parts) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")

    def change_one_s_mind() -> None:
        with parts.db.session():
            world.create(stages=stages("100%"))
            raise EdgefleetError("changed my mind")

    with pytest.raises(EdgefleetError, match="changed my mind"):
        change_one_s_mind()
    assert figures(parts.metrics, "_transitions_total") == {}


def test_how_late_a_look_was_is_observed(world: World, parts: Parts) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.create(stages=stages("100%", soak="1h"))
    world.clock.turn(seconds=7)
    world.engine.tick()
    assert figures(parts.metrics, "_evaluation_lag_seconds_sum") == {"look=first": 7.0}
    assert figures(parts.metrics, "_evaluation_lag_seconds_bucket")["le=10.0,look=first"] == 1
    world.clock.turn(seconds=5)
    world.engine.tick()
    assert figures(parts.metrics, "_evaluation_lag_seconds_sum") == {"look=first": 7.0, "look=later": 3.0}


def test_rollouts_are_told_by_state(world: World, parts: Parts) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.create(stages=stages("100%"))
    text = TestClient(shared_app(parts)).get("/metrics").text
    assert 'edgefleet_rollouts{state="running"} 1.0' in text
    assert 'edgefleet_rollouts{state="paused"} 0.0' in text
