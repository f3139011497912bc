"""Triggers and retrainings in the states that pages show: for the pages of retraining, and for everything that must be reachable there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from edgefleet_server.access.model import Role
from edgefleet_server.retraining.tables import RetrainingRun
from tests.server.dashboard.fleet import ORT, Fleet

API = "/api/v1"
SIGNALS = [
    {"name": "input.mean", "said": "PSI 0.62, its mean moved by +1.8 standard deviations", "moved": 9, "of": 12},
    {"name": "confidence", "said": "PSI 0.31, answers are less sure", "moved": 7, "of": 12},
]
ALERT = {
    "on": "drift", "words": "9 of 12 devices see inputs that moved: input.mean, confidence", "alert": None, "rule": "model_drift",
    "subject": "digits", "since": "2026-11-25T09:00:00Z", "signals": SIGNALS, "devices": [], "evidence": ["PSI 0.62 over 6 h"],
}  # fmt: skip


def retrained(fleet: Fleet) -> dict[str, str]:
    """Return the ids of retrainings by their states. Each is of a model of its own; the triggers are named after the models."""
    found: dict[str, str] = {}
    found["awaiting_approval"] = begun(fleet, "awaits", approval=True)
    found["collecting"] = begun(fleet, "collects", collected={"asked": 12, "answered": 5, "records": 412})
    found["queued"] = begun(fleet, "queues", state="queued", collected={"asked": 12, "answered": 11, "records": 873})
    found["training"] = begun(
        fleet, "trains", state="training", says="box-3 trains", holder="box-3", attempts=2, progress="epoch 7 of 12, loss 0.183",
        collected={"asked": 12, "answered": 11, "records": 873}, data_set=data_set(),
    )  # fmt: skip
    found["rolling_out"] = begun(
        fleet, "rolls", state="rolling_out", says="rolls@1.0.1 is being rolled out", holder="box-3", attempts=1, data_set=data_set(),
        release="rolls@1.0.1", rollout="r-1",
    )  # fmt: skip
    found["promoted"] = ended(
        fleet, "digits", state="promoted", says="digits@1.1.0 is on all devices", holder="box-3", attempts=1, data_set=data_set(),
        release="digits@1.1.0", rollout="r-2", drift_state="gone", drift_words="no device reports drift since the rollout ended",
    )  # fmt: skip
    why = 'Traceback (most recent call last):\n  File "retrain.py", line 41, in <module>\nMemoryError: 4.1 GB'
    trouble = {
        "code": "training.failed",
        "why": why,
        "next_step": "give the runner more memory, then `edgectl retrain start fails-drift`",
    }
    found["failed"] = ended(
        fleet, "fails", state="failed", says="it failed: the training ended with exit code 1", holder="box-3", attempts=1, error=trouble,
        data_set=data_set(),
    )  # fmt: skip
    found["stopped"] = ended(
        fleet, "stops", state="stopped", says="the rollout was rolled back: 4 of 20 devices failed", attempts=1, data_set=data_set(),
        release="stops@1.0.1", rollout="r-3", drift_state="still_there", drift_words="9 of 12 devices still drift",
    )  # fmt: skip
    return found


def data_set() -> dict[str, Any]:
    """Return a data set as it is stored."""
    counts = {"drift": 512, "low_confidence": 301, "label 3": 40, "label 7": 20}
    return {
        "digest": "ab" * 32,
        "records": 873,
        "labelled": 640,
        "counts": counts,
        "where": "s3://fleet/retraining/digits",
    }


def begun(fleet: Fleet, model: str, *, approval: bool = False, **stored: Any) -> str:
    """Make a model with a trigger, start it, and let its retraining stand as it is stored. Return its id."""
    if model not in fleet.parts.registry.model_names():
        fleet.release(f"{model}@1.0.0", ORT)
    client = fleet.house.client(Role.ADMIN)
    body: dict[str, Any] = {"name": f"{model}-drift", "model": model, "on": "drift", "approval": approval}
    made = client.post(f"{API}/triggers", json=body)
    assert made.status_code == 201, made.text
    run = client.post(f"{API}/triggers/{model}-drift:start", json={"reason": "fog"})
    assert run.status_code == 201, run.text
    return stands(fleet, run.json()["id"], **stored)


def ended(fleet: Fleet, model: str, **stored: Any) -> str:
    """Do the same with one that has ended."""
    run = begun(fleet, model, **stored)
    now = fleet.house.clock.now()
    return stands(fleet, run, ended_at=now, drift_at=now if "drift_state" in stored else None)


def stands(fleet: Fleet, run: str, **stored: Any) -> str:
    """Let a retraining stand as it is stored."""
    now = fleet.house.clock.now()
    with fleet.parts.db.session() as session:
        row = session.get(RetrainingRun, run)
        assert row is not None
        row.cause = {**ALERT, **stored.pop("cause", {})}
        row.plan = {**row.plan, "rollout": {"selector": "site=hall", "strategy": "canary"}}
        if row.attempts or stored.get("attempts"):
            row.began_at = now - timedelta(minutes=20)
        for name, value in stored.items():
            setattr(row, name, value)
        session.add(row)
    return run
