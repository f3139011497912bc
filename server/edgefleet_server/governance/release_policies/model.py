"""Values of release policies. The dataclasses are bodies of routes: their fields are public. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class PolicyChange:
    """A weaker policy that somebody asked for. ends: the policy goes altogether; begins_at: when it holds, approved or not."""

    ends: bool
    models: Sequence[str]
    require: Sequence[str]
    since: datetime
    asked_at: datetime
    asked_by: str
    begins_at: datetime


@dataclass(frozen=True)
class ReleasePolicy:
    """A policy. models: names, `vision-*` for all that begin so, none = every model; since: releases made before are left alone.

    require: `owner`, `licence`, `card`, `importance`, `sealed`, `hold_out>=N`, `signers>=N`. change: what weakens it soon.
    """

    name: str
    models: Sequence[str]
    require: Sequence[str]
    since: datetime
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str
    change: PolicyChange | None = None


@dataclass(frozen=True)
class EndingPolicy:
    """A policy after its end was asked for or approved. policy: null when it is gone."""

    policy: ReleasePolicy | None


@dataclass(frozen=True)
class PolicyFinding:
    """What a release lacks. next_step: how to mend it."""

    policy: str
    rule: str
    what: str
    next_step: str


@dataclass(frozen=True)
class PolicyCheck:
    """How a release stands. policies: the names of those that hold for it."""

    ref: str
    is_deployable: bool
    policies: Sequence[str]
    findings: Sequence[PolicyFinding]


@dataclass(frozen=True)
class ReleaseFacts:
    """What rules ask of a release. signers: so many of its model's team have to sign, 0: the server signs; hold_out: samples.

    missing_parts: parts of its card that nobody has filled in.
    """

    ref: str
    model: str
    created_at: datetime
    owner: str = ""
    licence: str = ""
    missing_parts: Sequence[str] = ()
    hold_out: int = 0
    has_importance: bool = False
    is_sealed: bool = False
    signers: int = 0
