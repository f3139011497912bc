"""What happens in one simulated rollout, and how it ended, as data: one scenario, one story. Chances are 0 to 1, times in seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rollout and everything that goes wrong around it.

    devices: by profile. loss, duplicate, reorder: of each message, both ways. replica_crash: of each tick of a replica, before its
    commit or after it; replica_stall: a replica that stops for longer than its lease. device_crash: a day and device. skew_s: each
    device's clock is off by up to this. bad: share of devices on which the release fails, in one of `classes`; slow, dead, away:
    shares of devices that miss deadlines, that die at the switch, that are not there for a while. gone, flaps, tight, refuses, idle,
    pinned: shares that are never there, whose connection comes and goes, that lack memory for a candidate now and then, that refuse
    the rollout's documents, that run nothing at the start, that take no part. late: of the bad ones, the share that proves the
    release before it fails. liars: share of devices that lie, each in one of the ways in `lies`: it reports a failure of that class
    once, or hides one that there is (hide). joiners: devices that come later; leavers: that lose their label or are revoked;
    redeployed: that somebody gives another version. labels: the values of which each device has one; without: profiles without a bundle.
    person: what they do each time the rollout waits for them, then they abort it with a rollback.
    approval: what they say each time a stage asks for their word: approve, deny, or "" for nothing; or a list, and then nothing.
    commands: `[seconds, verb]`, verb of pause, resume, abort, abort_rollback, promote, undo, approve, deny.
    beat_s: a device reports at least so often. look_s: a report is looked at so much later, with those that came meanwhile.
    """

    seed: int = 0
    devices: dict[str, int] = msgspec.field(default_factory=lambda: {"rpi": 8})
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    replicas: int = 3
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    replica_crash: float = 0.0
    replica_stall: float = 0.0
    device_crash: float = 0.0
    skew_s: float = 0.0
    bad: float = 0.0
    classes: tuple[str, ...] = ("crash", "golden", "load", "nonfinite")
    slow: float = 0.0
    dead: float = 0.0
    away: float = 0.0
    gone: float = 0.0
    flaps: float = 0.0
    tight: float = 0.0
    refuses: float = 0.0
    idle: float = 0.0
    pinned: float = 0.0
    late: float = 0.0
    liars: float = 0.0
    lies: tuple[str, ...] = ("crash", "golden", "signature", "hide")
    joiners: int = 0
    leavers: int = 0
    redeployed: int = 0
    labels: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    without: tuple[str, ...] = ()
    person: tuple[str, ...] = ("abort_rollback",)
    approval: str | tuple[str, ...] = "approve"
    commands: tuple[tuple[float, str], ...] = ()
    beat_s: float = 900.0
    look_s: float = 0.0


@dataclass
class Result:
    """How a simulated rollout ended. failovers_s: how long a rollout waited for another replica after one crashed."""

    state: str
    reason: str
    took_s: float
    ticks: int
    commits: int
    refused: int
    crashes: int
    device_crashes: int
    exposed: int
    devices: dict[str, int]
    stages: dict[str, str]
    broken: list[str]
    failovers_s: list[float] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    def as_json(self, *, story: bool = False) -> dict[str, Any]:
        """Return it as `edgectl sim -o json` prints it."""
        figures = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "transcript"}
        figures["failovers_s"] = round(max(self.failovers_s, default=0.0), 1)
        return figures | ({"transcript": self.transcript} if story else {})


STAGES: list[dict[str, Any]] = [
    {"name": "canary", "size": {"count": 2}, "soak": "10m"},
    {"name": "half", "size": {"percent": 50, "min": 2}, "soak": "10m"},
    {"name": "rest", "size": {"percent": 100}, "soak": "1m"},
]


def spec_of(scenario: Scenario) -> dict[str, Any]:
    """Return the whole spec of a scenario's rollout."""
    usual = {
        "release": "digits@2.0.0",
        "selector": "",
        "stages": STAGES,
        "device": {"ack_deadline": "2h", "download_deadline": "1h", "apply_deadline": "10m", "verify_deadline": "10m"},
        "on_inconclusive": {"after": "12h", "do": "rollback"},
    }
    if "strategy" in scenario.spec:
        del usual["stages"]
    return usual | scenario.spec


CANDIDATE_STAGES: list[list[dict[str, Any]]] = [
    [{"name": "shadow", "size": {"count": 2}, "mode": "shadow", "soak": "20m"}, *STAGES],
    [
        {"name": "green", "size": {"percent": 100}, "mode": "shadow", "soak": "20m"},
        {"name": "switch", "size": {"percent": 100}, "soak": "1m", "approval": {"timeout": "6h"}},
    ],
    [
        {"name": "ab", "size": {"percent": 50, "min": 2}, "mode": "split", "share_pct": 50, "soak": "30m"},
        {"name": "winner", "size": {"percent": 100}, "soak": "1m", "approval": {"timeout": "6h"}},
    ],
]
"""Stages next to what serves before it serves, as the strategies have them, but for their days of soak."""


def drawn(seed: int, *, trouble: float = 0.3) -> Scenario:
    """Return the scenario of a seed: `trouble` is the chance of loss, of doubling and of reordering of each message."""
    chance = random.Random(seed)
    kind = chance.choice(("good", "good", "bad", "mixed"))
    fleets = ({"rpi": 8}, {"rpi": 5, "jet": 3}, {"rpi": 12}, {"rpi": 2, "jet": 4, "x86": 3})
    return Scenario(
        seed=seed,
        devices=chance.choice(fleets),
        replicas=chance.choice((1, 2, 3)),
        loss=trouble,
        duplicate=trouble,
        reorder=trouble,
        replica_crash=chance.choice((0.0, 0.05, 0.2)),
        replica_stall=chance.choice((0.0, 0.05)),
        device_crash=chance.choice((0.0, 2.0, 20.0)),
        skew_s=chance.choice((0.0, 30.0, 86_400.0)),
        bad={"good": 0.0, "bad": chance.choice((0.3, 1.0)), "mixed": 0.1}[kind],
        slow=chance.choice((0.0, 0.1)) if kind == "mixed" else 0.0,
        dead=chance.choice((0.0, 0.1)) if kind == "mixed" else 0.0,
        away=chance.choice((0.0, 0.2)),
        joiners=chance.choice((0, 0, 2)),
        person=tuple(chance.choice(("resume", "promote", "abort", "abort_rollback")) for _ in range(2)),
        spec=chance.choice(({}, {}, {"stages": chance.choice(CANDIDATE_STAGES)})),
        approval=chance.choice(("approve", "approve", "deny", "")),
        liars=chance.choice((0.0, 0.0, 0.05, 0.2)),
    )
