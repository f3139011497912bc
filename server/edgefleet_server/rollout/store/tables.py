"""Tables of the rollout feature. Only the modules of `store` read and write them.

The controller's claim on a rollout is in its row: `lease_owner` until `lease_until`, and `fence`, which every claim and every
command of a person raises. A write that carries an older fence changes nothing.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Text, text
from sqlmodel import Field, SQLModel

from edgefleet_server.db.database import UtcDateTime


class Rollout(SQLModel, table=True):
    """One rollout. `next_eval_at` None: nothing can happen any more; `makers`: ids of the people who made it or moved it on."""

    __tablename__ = "rollout"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(default="", max_length=80)
    model: str = Field(max_length=63, index=True)
    version: str = Field(max_length=63)
    selector: str = Field(sa_column=Column(Text, nullable=False))
    spec: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    salt: str = Field(max_length=64)
    state: str = Field(max_length=24, index=True)
    code: str = Field(default="", max_length=40)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    created_by: str = Field(max_length=80)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    is_braked: bool = Field(default=False, index=True)
    lease_owner: str = Field(default="", max_length=80)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    fence: int = Field(default=0, sa_type=BigInteger)
    next_eval_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True, index=True)
    makers: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False, server_default=text("'[]'")))


class RolloutCell(SQLModel, table=True):
    """One stage of one stratum. `cut`: decimal text, since it goes up to 2^64."""

    __tablename__ = "rollout_cell"

    rollout_id: str = Field(primary_key=True, max_length=32)
    stage: int = Field(primary_key=True)
    stratum: str = Field(primary_key=True, max_length=800)
    state: str = Field(max_length=16)
    cut: str = Field(default="0", max_length=20)
    population: int = Field(default=0)
    digest: str = Field(default="", max_length=64)
    opened_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    soak_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    resumed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    verdict: str | None = Field(default=None, max_length=16)
    code: str = Field(default="", max_length=40)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    strength: str | None = Field(default=None, max_length=16)
    bound: str = Field(default="", max_length=160)
    asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    approved_by: str = Field(default="", max_length=80, sa_column_kwargs={"server_default": ""})
    intake: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})


class RolloutMember(SQLModel, table=True):
    """One device of a rollout whose membership is a snapshot: it matched the selector when the rollout was made."""

    __tablename__ = "rollout_member"

    rollout_id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)


class RolloutAssignment(SQLModel, table=True):
    """One device in one rollout. `previous`: target, sha256 and length of what it ran before, null = nothing."""

    __tablename__ = "rollout_assignment"

    rollout_id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63, index=True)
    stage: int
    stratum: str = Field(max_length=800)
    state: str = Field(max_length=16)
    attempt: int = Field(default=0)
    gen: int = Field(default=0, sa_type=BigInteger)
    is_joiner: bool = Field(default=False)
    is_accepted: bool = Field(default=False)
    previous: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    offered_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    exposed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    entered_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    switched_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    deadline: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    back_gen: int = Field(default=0, sa_type=BigInteger)
    back_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    back_done_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    error_class: str = Field(default="", max_length=16)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    retries: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    retry_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    unanswered_s: float = Field(default=0.0, sa_column_kwargs={"server_default": text("0")})
    failed_before: str = Field(default="", max_length=16, sa_column_kwargs={"server_default": ""})


class RolloutDecision(SQLModel, table=True):
    """One decision with all that it rested on. `evidence` is the encoded `Facts`; `fence` of the tick that made it."""

    __tablename__ = "rollout_decision"

    id: int | None = Field(default=None, primary_key=True)
    rollout_id: str = Field(max_length=32, index=True)
    at: datetime = Field(sa_type=UtcDateTime)
    stage: int
    stratum: str = Field(max_length=800)
    verdict: str = Field(max_length=16)
    code: str = Field(max_length=40)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    rule: str = Field(max_length=16)
    rule_version: int
    figures: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    evidence: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    actor: str = Field(default="engine", max_length=80)
    fence: int = Field(default=0, sa_type=BigInteger)


class RolloutGateCall(SQLModel, table=True):
    """A webhook gate of one cell, and what it last answered. `place`: its number in the stage's list.

    `answer` is a `gating.Answered`; `lease_until` keeps others from calling it at the same time; `next_at`: when to call again.
    """

    __tablename__ = "rollout_gate_call"

    rollout_id: str = Field(primary_key=True, max_length=32)
    stage: int = Field(primary_key=True)
    stratum: str = Field(primary_key=True, max_length=800)
    place: int = Field(primary_key=True)
    kind: str = Field(max_length=24)
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    calls: int = Field(default=0)
    next_at: datetime = Field(sa_type=UtcDateTime, index=True)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class RolloutConfirmation(SQLModel, table=True):
    """A question whether failures are confirmed. `body`: an encoded `Confirmation` without its proof.

    `proof`: an encoded `Proof`, written by the one that made it, at any time; `lease_until` keeps others from making it at the same time.
    """

    __tablename__ = "rollout_confirmation"

    rollout_id: str = Field(primary_key=True, max_length=32)
    stratum: str = Field(primary_key=True, max_length=800)
    number: int = Field(primary_key=True)
    verdict: str = Field(max_length=16, index=True)
    needs_proof: bool
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    proof: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class RolloutQuality(SQLModel, table=True):
    """What was measured of one device in a stage for the quality gate.

    `spans`: metric to [before, after, control before, control after].
    """

    __tablename__ = "rollout_quality"

    rollout_id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)
    stratum: str = Field(max_length=800)
    stage: int = Field(primary_key=True)
    control_id: str = Field(default="", max_length=63)
    began_at: datetime = Field(sa_type=UtcDateTime)
    taken_at: datetime = Field(sa_type=UtcDateTime)
    spans: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    drift: float | None = Field(default=None)
    control_drift: float | None = Field(default=None)
    is_serving: bool = Field(default=True)


class RolloutMinute(SQLModel, table=True):
    """The running minute of one stage with a rate: see `ramp`."""

    __tablename__ = "rollout_minute"

    rollout_id: str = Field(primary_key=True, max_length=32)
    stage: int = Field(primary_key=True)
    began_at: datetime = Field(sa_type=UtcDateTime)
    per_min: int
    offered: int = Field(default=0)
    failed: int = Field(default=0)


class DownloadLease(SQLModel, table=True):
    """One download that may be under way, `length` bytes long: see `leases`."""

    __tablename__ = "download_lease"

    rollout_id: str = Field(primary_key=True, max_length=32)
    device_id: str = Field(primary_key=True, max_length=63)
    site: str = Field(default="", max_length=127, index=True)
    length: int = Field(sa_type=BigInteger)
    taken_at: datetime = Field(sa_type=UtcDateTime)


class DownloadLine(SQLModel, table=True):
    """The one row (id 1) that every tick locks before it counts leases. booked_until: see `leases`, rule 5."""

    __tablename__ = "download_line"

    id: int = Field(primary_key=True)
    booked_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
