"""Decisions that engines made and stored: the rules of the same version must make them again from their evidence, to the last figure.

A golden file is an entry of `GET /rollouts/{id}/decisions` without what names the rollout. Files are added, never edited: after
RULE_VERSION was raised, those of the version before still come out as they did, and new ones are added that the new rules made.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from edgefleet_server.rollout.analysis import decide, plain_rules, replay
from edgefleet_server.rollout.analysis.replay import Outcome
from tests.conftest import ROOT
from tests.server.rollout.fleet_sim import World, stages

FILES = sorted((ROOT / "golden" / "decisions").glob("*.json"))
OTHERWISE = (
    "the rules decide otherwise than they did about evidence that is stored as decided by rules {version}: "
    "`edgectl rollout explain` would call every such decision in a real fleet wrong. If that is wanted, raise RULE_VERSION in rules.py, "
    "leave this file as it is, and add files that the new rules made; else mend the rules, or let the evidence say what it was judged by."
)


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def stored_outcome(golden: dict[str, Any]) -> Outcome:
    return msgspec.convert({name: golden[name] for name in ("verdict", "code", "reason", "figures")}, Outcome)


def of_today() -> list[Path]:
    return [file for file in FILES if read(file)["rule_version"] == replay.RULE_VERSION]


def changed() -> list[str]:
    """Return the files of today's version whose evidence today's rules decide otherwise."""
    goldens = {file.stem: read(file) for file in of_today()}
    return [
        name
        for name, golden in goldens.items()
        if not replay.same(replay.outcome_of(replay.recompute(golden["evidence"])), stored_outcome(golden))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stored_decision_comes_out_as_it_did(file: Path) -> None:
    golden = read(file)
    again = replay.outcome_of(replay.recompute(golden["evidence"]))
    # figures may differ by the last digits in which the mathematical libraries of two machines do
    assert replay.same(again, stored_outcome(golden)), (OTHERWISE.format(version=golden["rule_version"]), again)


@pytest.mark.parametrize("version", range(1, replay.RULE_VERSION + 1))
def test_there_are_decisions_of_every_version(version: int) -> None:
    assert len([file for file in FILES if read(file)["rule_version"] == version]) >= 12


def test_there_is_evidence_of_each_verdict_by_the_rules_of_today() -> None:
    goldens = [read(file) for file in of_today()]
    assert len(goldens) >= 12
    assert {one["verdict"] for one in goldens} == {"advance", "hold", "pause", "roll_back"}
    assert {one["rule"] for one in goldens} >= {"evidence", "all_healthy"}


@pytest.mark.parametrize(
    ("of", "name", "value"),
    [
        (plain_rules, "MAX_LOST", 0),
        (decide, "SILENT_CAP_PCT", 60),
        (plain_rules, "FEW_EXPOSED", 2),
        (decide, "CONFIDENCE", 0.9),
        (plain_rules, "GUARD_CLASSES", ()),
        (plain_rules, "SMALL_CLASSES", ()),
    ],
)
def test_a_changed_rule_is_noticed(monkeypatch: pytest.MonkeyPatch, of: ModuleType, name: str, value: Any) -> None:
    assert changed() == []
    monkeypatch.setattr(of, name, value)
    assert changed() != [], f"no stored evidence notices another {name}"


@pytest.mark.parametrize(
    "change", ["code = 'more_evidence'", "reason = 'just so'", "verdict = 'hold'", "figures = '{}'"]
)
def test_a_stored_decision_that_was_changed_no_longer_agrees(world: World, change: str) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%"))
    world.go_until_state(rollout, "finished")
    (before,) = [one for one in world.decisions(rollout) if one.verdict == "advance"]
    assert before.agrees
    assert (before.recomputed.code, before.recomputed.rule_version) == (before.code, replay.RULE_VERSION)
    stored = {"id": before.id, "verdict": before.verdict, "code": before.code, "reason": before.reason}
    with world.house.db.session() as session:
        session.execute(text(f"UPDATE rollout_decision SET {change} WHERE id = :id"), stored)
    assert not next(one for one in world.decisions(rollout) if one.id == before.id).agrees
    with world.house.db.session() as session:  # what is audited at the end is the rollout as it was
        undone = "UPDATE rollout_decision SET verdict = :verdict, code = :code, reason = :reason, figures = :figures WHERE id = :id"
        session.execute(text(undone), stored | {"figures": json.dumps(dict(before.figures))})
