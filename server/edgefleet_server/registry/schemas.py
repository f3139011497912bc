"""Bodies of the registry's routes. Additive only."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import to_builtins
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.config import JsonDict

from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef, parse_model_name, parse_profile_name, parse_version
from edgefleet_protocol.manifest import Manifest
from edgefleet_server.registry.model import (
    AliasView,
    AttemptView,
    BundleView,
    JobView,
    ModelView,
    Publication,
    ReleaseView,
    SourceFile,
    SourceView,
)
from edgefleet_server.registry.rules import is_measured, verdict_of
from edgefleet_server.signing.trust import TargetView
from edgefleet_server.web.strict_types import Flag, Real, Whole

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
InputName = Annotated[str, Field(min_length=1, max_length=200)]
Length = Annotated[int, Whole(1, 2**31 - 1)]
LineageKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
LineageValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=500)]
_CLOSED: JsonDict = {"additionalProperties": False}
"""Pydantic refuses keys of another pattern, and its schema does not say so."""
_METRICS = "top1|agreement|equal|mae|mae-share|sequence|edit|detection|scores|iou|similarity"
METRIC_PATTERN = rf"^({_METRICS}|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
OUTPUT_METRIC_PATTERN = rf"^({_METRICS}|ignore)$"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BlobOut(BaseModel):
    """A stored blob."""

    sha256: str
    length: int


class SourceFileIn(_In):
    """One file of the source; its bytes are an uploaded blob."""

    path: str = Field(min_length=1, max_length=255)
    sha256: Digest
    length: Annotated[int, Whole(0)]


class SourceIn(_In):
    """The files of the model."""

    files: list[SourceFileIn] = Field(min_length=1, max_length=4096)
    kind: Literal["file", "folder"]


class DataIn(_In):
    """Digests of the uploaded data files, each optional."""

    calibration: Digest | None = None
    eval: Digest | None = None
    golden: Digest | None = None
    reference: Digest | None = None
    labels: Digest | None = None
    preprocess: Digest | None = None
    postprocess: Digest | None = None
    privacy: Digest | None = None
    recipe: Digest | None = None
    schedule: Digest | None = None


class OptionsIn(_In):
    """How to convert. shapes, values: of inputs, by name; allow_pickle: needs the server's setting of that name.

    explore: prove and measure every candidate; the bundles stay the same. metric: of the whole model; metrics: of single
    outputs. accept_data: the data is right, whatever looks wrong about it.
    budget_s: seconds for the search of a profile, null = by the size of the source. seal: encrypt the model, so that only devices
    that the release is for can read it. shap: measure which inputs matter by SHAP values too.
    """

    precision: Literal[
        "auto", "fp32", "fp16", "int8", "dynamic", "int8-weights", "int4-weights", "int16x8", "int16-weights",
    ] = "auto"  # fmt: skip
    metric: Annotated[str, Field(pattern=METRIC_PATTERN, max_length=200)] | None = None
    metrics: dict[InputName, Annotated[str, Field(pattern=OUTPUT_METRIC_PATTERN)]] = Field(
        default_factory=dict, max_length=64
    )
    max_drop: Real = Field(default=0.01, ge=0, le=1)
    shapes: dict[InputName, Annotated[list[Length], Field(min_length=1, max_length=16)]] = Field(
        default_factory=dict, max_length=64
    )
    values: dict[InputName, Annotated[Real, Field(allow_inf_nan=False)]] = Field(default_factory=dict, max_length=64)
    allow_pickle: Flag = False
    accept_data: Flag = False
    explore: Flag = False
    shap: Flag = False
    seal: Flag = False
    budget_s: Annotated[Real, Field(ge=1, le=86400)] | None = None

    def as_given(self) -> dict[str, Any]:
        """Return the options; those that came later only when set, so that older releases keep their identity."""
        later = {"accept_data", "metrics", "shapes", "values", "allow_pickle", "explore", "shap", "budget_s", "seal"}
        return {name: value for name, value in self.model_dump().items() if value or name not in later}


class ReleaseIn(_In):
    """A release to publish."""

    model: str = Field(max_length=63)
    version: str = Field(max_length=63)
    source: SourceIn
    profiles: list[str] | None = Field(default=None, max_length=64)
    profile_files: list[dict[str, Any]] = Field(default_factory=list, max_length=64)
    data: DataIn = Field(default_factory=DataIn)
    options: OptionsIn = Field(default_factory=OptionsIn)
    lineage: dict[LineageKey, LineageValue] = Field(default_factory=dict, max_length=24, json_schema_extra=_CLOSED)
    """Where the source came from: `uri`, `version`, `run_id`, `git_commit`, `dvc_rev` … Kept as the first publisher says it.

    `parent` must be another release of the model, `name@version`.
    """

    @field_validator("profile_files")
    @classmethod
    def _can_be_written(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A profile is shown to everybody: one with half a character in its title would break the list of them."""
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return value

    def to_publication(self) -> Publication:
        """Return the domain value. Raises BadIdError."""
        return Publication(
            ref=ReleaseRef(parse_model_name(self.model), parse_version(self.version)),
            kind=self.source.kind,
            files=tuple(SourceFile(f.path, parse_sha256(f.sha256), f.length) for f in self.source.files),
            profiles=None if self.profiles is None else tuple(parse_profile_name(name) for name in self.profiles),
            profile_files=tuple(self.profile_files),
            data={name: parse_sha256(d) for name, d in self.data.model_dump(exclude_none=True).items()},
            options=self.options.as_given(),
            lineage=dict(self.lineage),
        )


class ReleaseSourceOut(BaseModel):
    """What a release was made of. kind: `file` or `folder`; data: SHA-256 of its data files by what they are for; options: as published."""

    kind: str
    files: list[SourceFileIn]
    data: dict[str, str]
    options: dict[str, Any]

    @classmethod
    def of(cls, view: SourceView) -> "ReleaseSourceOut":
        """Return what the registry knows."""
        files = [SourceFileIn(path=one.path, sha256=one.sha256, length=one.length) for one in view.files]
        return cls(kind=view.kind, files=files, data=dict(view.data), options=dict(view.options))


class BundleOut(BaseModel):
    """A signed bundle: what it is, what it was proved on, how well it did. Sizes in bytes.

    verdict: passed; unproven (nothing but random input judged it, so `is_measured` is false and `metric` says nothing of its
    accuracy); prepared (its backend is not on the server). latency_shapes: of the inputs of each run that `latency_ms` is of.
    search_ended: how a search ended that left candidates untried. is_sealed: only devices that it is for can read its model.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    version: str
    profile: str
    runtime: str
    precision: str
    bytes: int | None = None
    fp32_bytes: int | None = None
    ratio: float | None = None
    bundle_bytes: int
    sha256: str
    target: str
    metric: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    latency_ms: dict[str, Any] | None = None
    peak_rss_bytes: int | None = None
    runtimes: list[dict[str, Any]] = Field(default_factory=list)
    verdict: str | None = None
    predicted: dict[str, Any] | None = None
    work: dict[str, Any] | None = None
    latency_shapes: dict[str, list[int]] | None = None
    search_ended: str | None = None
    is_measured: bool = True
    is_sealed: bool = False
    signed_at: datetime

    @classmethod
    def of(cls, view: BundleView) -> "BundleOut":
        """Return the body of a bundle."""
        known = {name: view.report[name] for name in _REPORT_FIELDS if view.report.get(name) is not None}
        measured = is_measured(view.report)
        if not measured:
            known["metric"] = {**known["metric"], "is_measured": False}
        return cls(
            model=view.ref.model,
            version=view.ref.version,
            profile=view.profile,
            runtime=view.runtime,
            precision=view.precision,
            bundle_bytes=view.length,
            sha256=view.sha256,
            target=view.target,
            signed_at=view.signed_at,
            is_measured=measured,
            is_sealed=view.is_sealed,
            **known | ({"verdict": verdict_of(view.report)} if "verdict" in known else {}),
        )


class SignatureOut(BaseModel):
    """How the trust repository names a bundle's path today. state: signed; differs (it names other bytes); missing (it does not).

    role: who signed it, in its `version`, valid until `expires`; sha256, length: of the bytes that it names.
    """

    model_config = ConfigDict(from_attributes=True)

    state: Literal["signed", "differs", "missing"]
    role: str | None = None
    version: int | None = None
    expires: datetime | None = None
    sha256: str | None = None
    length: int | None = None

    @classmethod
    def of(cls, bundle: BundleView, target: TargetView | None) -> "SignatureOut":
        """Return the signature of a bundle. target: what the repository says of its path."""
        if target is None:
            return cls(state="missing")
        is_same = (target.sha256, target.length) == (bundle.sha256, bundle.length)
        return cls(state="signed" if is_same else "differs", **asdict(target))


class BundleInsideOut(BundleOut):
    """A signed bundle with its signature and what is in it. leaves: sha256 of its leaf index, itself a blob.

    manifest: as the bundle carries it, null with `trouble` saying why it cannot be read.
    """

    leaves: str
    signature: SignatureOut
    manifest: dict[str, Any] | None
    trouble: str

    @classmethod
    def with_contents(
        cls, view: BundleView, target: TargetView | None, manifest: Manifest | None, trouble: str
    ) -> "BundleInsideOut":
        """Return the body of a bundle from the inside."""
        return cls(
            **BundleOut.of(view).model_dump(),
            leaves=view.leaves,
            signature=SignatureOut.of(view, target),
            manifest=None if manifest is None else to_builtins(manifest),
            trouble=trouble,
        )


_REPORT_FIELDS = (
    "bytes", "fp32_bytes", "ratio", "metric", "parity", "latency_ms", "peak_rss_bytes", "runtimes", "verdict",
    "predicted", "work", "latency_shapes", "search_ended",
)  # fmt: skip


class RefusedOut(BaseModel):
    """A profile for which no bundle is offered, and why. report: sha256 of its conversion report, itself a blob, "" for none."""

    profile: ProfileName
    code: str
    reason: str
    next: str
    report: str = ""

    @classmethod
    def of_jobs(cls, jobs: Sequence[JobView]) -> "list[RefusedOut]":
        """Return the bodies of the jobs that ended without a bundle."""
        return [
            cls(profile=job.profile, code=job.code, reason=job.reason, next=job.next_step, report=job.report)
            for job in jobs
            if job.state in {"refused", "failed", "cancelled"}
        ]


class SourceFileOut(BaseModel):
    """One file of what was published; its bytes are a blob."""

    model_config = ConfigDict(from_attributes=True)

    path: str
    sha256: str
    length: int


class ReleaseAttemptOut(BaseModel):
    """A publication that signed nothing, before its version was published with other content."""

    number: int
    state: str
    source_sha256: str
    files: list[SourceFileOut]
    options: dict[str, Any]
    created_at: datetime
    created_by: str
    refused: list[RefusedOut]

    @classmethod
    def of(cls, view: AttemptView) -> "ReleaseAttemptOut":
        """Return the body of an attempt."""
        return cls(
            number=view.number,
            state=view.state,
            source_sha256=view.source_sha256,
            files=[SourceFileOut.model_validate(one) for one in view.files],
            options=dict(view.options),
            created_at=view.created_at,
            created_by=view.created_by,
            refused=RefusedOut.of_jobs(view.jobs),
        )


class JobOut(BaseModel):
    """One conversion job.

    position: its place in the queue while it waits, 1 = the next one; starts_in_s: in how many seconds it is likely to begin, from
    how long jobs took lately. Both are null where that is not known.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    profile: ProfileName
    state: str
    stage: str
    message: str
    pct: float
    position: int | None = None
    starts_in_s: float | None = None

    @classmethod
    def of(cls, view: JobView) -> "JobOut":
        """Return the body of a job."""
        return cls.model_validate(view)


class WithdrawalOut(BaseModel):
    """That a release may not be deployed any more."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime
    by: str
    reason: str


class ReleaseOut(BaseModel):
    """A release with its bundles, refusals and jobs.

    attempt: the number of this publication of its version; attempts: those before it, which signed nothing, the newest first.
    withdrawn: since when, by whom and why it may not be deployed any more, null when it may.
    """

    ref: str
    model: str
    version: str
    state: str
    source_sha256: str
    created_at: datetime
    created_by: str
    profiles_reason: str
    bundles: list[BundleOut]
    refused: list[RefusedOut]
    jobs: list[JobOut]
    labels_available: bool
    aliases: list[str] = []
    lineage: dict[str, str] = Field(default_factory=dict)
    attempt: int = 1
    attempts: list[ReleaseAttemptOut] = []
    withdrawn: WithdrawalOut | None = None

    @classmethod
    def of(cls, view: ReleaseView) -> "ReleaseOut":
        """Return the body of a release."""
        return cls(
            ref=str(view.ref),
            model=view.ref.model,
            version=view.ref.version,
            state=view.state,
            source_sha256=view.source_sha256,
            created_at=view.created_at,
            created_by=view.created_by,
            profiles_reason=view.profiles_reason,
            bundles=[BundleOut.of(bundle) for bundle in view.bundles],
            refused=RefusedOut.of_jobs(view.jobs),
            jobs=[JobOut.of(job) for job in view.jobs],
            labels_available=view.labels_available,
            aliases=list(view.aliases),
            lineage=dict(view.lineage),
            attempt=view.attempt,
            attempts=[ReleaseAttemptOut.of(one) for one in view.attempts],
            withdrawn=None if view.withdrawn is None else WithdrawalOut.model_validate(view.withdrawn),
        )


class WithdrawnReleaseOut(ReleaseOut):
    """The withdrawn release. also: the older releases that were withdrawn with it, `name@version`."""

    also: list[str] = Field(default_factory=list)
    waits_for_team: bool = False
    """Whether devices hear of it only once the team of the model has signed it."""


class ModelOut(BaseModel):
    """A named line of releases."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    created_at: datetime
    releases: int
    latest: str | None
    latest_state: str | None
    aliases: dict[str, str] = {}

    @classmethod
    def of(cls, view: ModelView) -> "ModelOut":
        """Return the body of a model."""
        return cls.model_validate(view)


class AliasIn(_In):
    """The version that an alias shall stand for."""

    version: str = Field(max_length=63)


class AliasOut(BaseModel):
    """A name of a release that moves."""

    model_config = ConfigDict(from_attributes=True)

    model: str
    alias: str
    version: str
    ref: str
    set_at: datetime
    set_by: str

    @classmethod
    def of(cls, view: AliasView) -> "AliasOut":
        """Return the body of an alias."""
        return cls.model_validate(view)
