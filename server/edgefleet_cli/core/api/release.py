"""The API: releases and what becomes of their deployment. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.api.bundle import Bundle
from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class ApprovePolicyIn(Body, frozen=True, kw_only=True):
    asked_at: str


class Assigned(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    gen: int = 0
    profile: str = ""
    target: str = ""


class BaselineIn(Body, frozen=True, kw_only=True):
    since: str
    until: str | Unset | None = UNSET


class Fact(Struct, frozen=True):
    name: str = ""
    origin: str = ""
    value: str = ""


class CardSection(Struct, frozen=True):
    facts: tuple[Fact, ...] = ()
    title: str = ""


class ConverterTools(Struct, frozen=True):
    folder: str = ""
    names: tuple[str, ...] | None = None
    reads_pickles: bool = False


class DataIn(Body, frozen=True, kw_only=True):
    calibration: str | Unset | None = UNSET
    eval: str | Unset | None = UNSET
    golden: str | Unset | None = UNSET
    labels: str | Unset | None = UNSET
    postprocess: str | Unset | None = UNSET
    preprocess: str | Unset | None = UNSET
    privacy: str | Unset | None = UNSET
    recipe: str | Unset | None = UNSET
    reference: str | Unset | None = UNSET
    schedule: str | Unset | None = UNSET


class DeployIn(Body, frozen=True, kw_only=True):
    device: str | Unset | None = UNSET
    dry_run: bool | Unset = UNSET
    mode: str | Unset | None = UNSET
    salt: str | Unset = UNSET
    selector: str | Unset | None = UNSET
    share_pct: int | Unset = UNSET


class Skipped(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class Deployment(Struct, frozen=True):
    matched: int = 0
    release: str = ""
    set: tuple[Assigned, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    warning: str = ""


class DriftBaseline(Struct, frozen=True):
    answers: int = 0
    devices: int = 0
    release: str = ""
    set_at: str = ""
    set_by: str = ""
    since: str = ""
    until: str = ""


class PolicyChange(Struct, frozen=True):
    asked_at: str = ""
    asked_by: str = ""
    begins_at: str = ""
    ends: bool = False
    models: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    since: str = ""


class ReleasePolicy(Struct, frozen=True):
    change: PolicyChange | None = None
    changed_by: str = ""
    created_at: str = ""
    created_by: str = ""
    models: tuple[str, ...] = ()
    name: str = ""
    require: tuple[str, ...] = ()
    since: str = ""


class EndingPolicy(Struct, frozen=True):
    policy: ReleasePolicy | None = None


class Job(Struct, frozen=True):
    id: str = ""
    message: str = ""
    pct: float = 0.0
    position: int | None = None
    profile: str = ""
    stage: str = ""
    starts_in_s: float | None = None
    state: str = ""


class Statement(Struct, frozen=True):
    at: str | None = None
    by: str = ""
    data: str = ""
    of: str = ""
    summary: str = ""


class ModelCard(Struct, frozen=True):
    bundles: tuple[dict[str, Any], ...] = ()
    importance: dict[str, Any] = field(default_factory=dict)
    made_at: str = ""
    ref: str = ""
    sections: tuple[CardSection, ...] = ()
    stated: Statement = Statement()


class ModelCardIn(Body, frozen=True, kw_only=True):
    contact: str | Unset = UNSET
    data: str | Unset = UNSET
    intended_use: str | Unset = UNSET
    licence: str | Unset = UNSET
    limits: tuple[str, ...] | Unset = UNSET
    not_for: str | Unset = UNSET
    owner: str | Unset = UNSET
    references: tuple[str, ...] | Unset = UNSET
    summary: str | Unset = UNSET


class OptionsIn(Body, frozen=True, kw_only=True):
    accept_data: bool | Unset = UNSET
    allow_pickle: bool | Unset = UNSET
    budget_s: float | Unset | None = UNSET
    explore: bool | Unset = UNSET
    max_drop: float | Unset = UNSET
    metric: str | Unset | None = UNSET
    metrics: dict[str, str] | Unset = UNSET
    precision: str | Unset = UNSET
    seal: bool | Unset = UNSET
    shap: bool | Unset = UNSET
    shapes: dict[str, tuple[int, ...]] | Unset = UNSET
    values: dict[str, float] | Unset = UNSET


class PolicyFinding(Struct, frozen=True):
    next_step: str = ""
    policy: str = ""
    rule: str = ""
    what: str = ""


class PolicyCheck(Struct, frozen=True):
    findings: tuple[PolicyFinding, ...] = ()
    is_deployable: bool = False
    policies: tuple[str, ...] = ()
    ref: str = ""


class Refused(Struct, frozen=True):
    code: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class SourceFile(Struct, frozen=True):
    length: int = 0
    path: str = ""
    sha256: str = ""


class ReleaseAttempt(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    files: tuple[SourceFile, ...] = ()
    number: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    source_sha256: str = ""
    state: str = ""


class ReleaseDevice(Struct, frozen=True):
    active: bool = False
    device: str = ""
    display_name: str = ""
    error_class: str | None = None
    phase: str | None = None
    profile: str = ""
    state: str = ""
    status: str = ""
    wanted: bool = False


class SourceFileIn(Body, frozen=True, kw_only=True):
    length: int
    path: str
    sha256: str


class SourceIn(Body, frozen=True, kw_only=True):
    files: tuple[SourceFileIn, ...]
    kind: str


class ReleaseIn(Body, frozen=True, kw_only=True):
    data: DataIn | Unset = UNSET
    lineage: dict[str, str] | Unset = UNSET
    model: str
    options: OptionsIn | Unset = UNSET
    profile_files: tuple[dict[str, Any], ...] | Unset = UNSET
    profiles: tuple[str, ...] | Unset | None = UNSET
    source: SourceIn
    version: str


class Withdrawal(Struct, frozen=True):
    at: str = ""
    by: str = ""
    reason: str = ""


class Release(Struct, frozen=True):
    aliases: tuple[str, ...] = ()
    attempt: int = 1
    attempts: tuple[ReleaseAttempt, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    created_at: str = ""
    created_by: str = ""
    jobs: tuple[Job, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict)
    model: str = ""
    profiles_reason: str = ""
    ref: str = ""
    refused: tuple[Refused, ...] = ()
    source_sha256: str = ""
    state: str = ""
    version: str = ""
    withdrawn: Withdrawal | None = None


class ReleasePolicyIn(Body, frozen=True, kw_only=True):
    models: tuple[str, ...] | Unset = UNSET
    require: tuple[str, ...]
    since: str | Unset | None = UNSET


class ReleaseSource(Struct, frozen=True):
    data: dict[str, str] = field(default_factory=dict)
    files: tuple[SourceFileIn, ...] = ()
    kind: str = ""
    options: dict[str, Any] = field(default_factory=dict)


class RetireIn(Body, frozen=True, kw_only=True):
    older: bool | Unset = UNSET
    reason: str


class WithdrawnRelease(Struct, frozen=True):
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    attempt: int = 1
    attempts: tuple[ReleaseAttempt, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    created_at: str = ""
    created_by: str = ""
    jobs: tuple[Job, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict)
    model: str = ""
    profiles_reason: str = ""
    ref: str = ""
    refused: tuple[Refused, ...] = ()
    source_sha256: str = ""
    state: str = ""
    version: str = ""
    waits_for_team: bool = False
    withdrawn: Withdrawal | None = None
