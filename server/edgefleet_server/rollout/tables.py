"""Tables of the rollout feature. Only `store.py` reads and writes them.

The engine's claim on a rollout is in its row: `lease_owner` until `lease_until`, and `fence`, which every claim and every
command of a person raises. A write that carries an older fence changes nothing.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Text
from sqlmodel import Field, SQLModel

from edgefleet_server.db import UtcDateTime


class Rollout(SQLModel, table=True):
    """One rollout. `next_eval_at` None: nothing can happen any more."""

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
    approved_by: str = Field(default="", max_length=80)


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
