"""Values of the registry: what a release is made of, its bundles and states."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef

DEFAULT_PROFILES = ("generic-x86_64-ort", "generic-aarch64-ort")


class ReleaseState(StrEnum):
    """Stored and public: never renamed."""

    CONVERTING = "converting"
    READY = "ready"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the published model. `path` is relative, with forward slashes; `length` in bytes."""

    path: str
    sha256: Sha256
    length: int


@dataclass(frozen=True, slots=True)
class AllowedCode:
    """Code that publishers may have run in the conversion child: metrics `pkg.mod:func` by name, and what is in a pickle."""

    metrics: Collection[str] = ()
    pickle: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """What a caller wants published. `profiles` None = let the server choose."""

    ref: ReleaseRef
    kind: str
    files: tuple[SourceFile, ...]
    profiles: tuple[ProfileName, ...] | None
    profile_files: tuple[dict[str, Any], ...]
    data: Mapping[str, Sha256]
    options: Mapping[str, Any]
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Where the source came from, as the publisher says: no part of what makes a release the same."""


@dataclass(frozen=True, slots=True)
class BundleView:
    """One signed bundle: what the fleet needs to put it into a desired document, and the report of its conversion."""

    ref: ReleaseRef
    profile: ProfileName
    target: str
    sha256: Sha256
    length: int
    """Bytes of the whole bundle (the zip)."""
    leaves: Sha256
    """sha256 of the leaf index, itself a blob."""
    runtime: str
    precision: str
    signed_at: datetime
    report: Mapping[str, Any] = field(default_factory=dict)
    sealed_key: str = field(default="", repr=False)
    """Key of the bundle, sealed to the fleet key; "": its model is not sealed."""

    @property
    def is_sealed(self) -> bool:
        """Whether only devices that were given its key can read its model."""
        return self.sealed_key != ""


@dataclass(frozen=True, slots=True)
class JobView:
    """One conversion job as the registry shows it."""

    id: str
    profile: ProfileName
    state: str
    stage: str
    message: str
    pct: float
    code: str = ""
    reason: str = ""
    next_step: str = ""
    report: str = ""
    """sha256 of the conversion's report, itself a blob; "" when there is none."""
    position: int | None = None
    """Place of a waiting job in the queue, 1 = the next one."""
    starts_in_s: float | None = None
    """When it is likely to begin, in seconds."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """A publication that signed nothing, before its version was published with other content. Numbers count from 1."""

    number: int
    state: ReleaseState
    source_sha256: Sha256
    files: tuple[SourceFile, ...]
    options: Mapping[str, Any]
    created_at: datetime
    created_by: str
    jobs: tuple[JobView, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """That a release may not be deployed any more: since when, who said so, and why."""

    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One release with its bundles and jobs. attempt: number of this publication; attempts: those before it, the newest first."""

    ref: ReleaseRef
    state: ReleaseState
    source_sha256: Sha256
    created_at: datetime
    created_by: str
    profiles_reason: str
    labels_available: bool
    lineage: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[BundleView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    aliases: tuple[str, ...] = ()
    attempt: int = 1
    attempts: tuple[AttemptView, ...] = ()
    withdrawn: Withdrawal | None = None


@dataclass(frozen=True, slots=True)
class AliasView:
    """A name of a release that moves: `model@alias` means `ref`."""

    model: str
    alias: str
    version: str
    ref: str
    set_at: datetime
    set_by: str


@dataclass(frozen=True, slots=True)
class SourceView:
    """What a release was made of. data: digests of the data files by what they are for; options: as the publisher gave them."""

    kind: str
    files: tuple[SourceFile, ...]
    data: Mapping[str, Sha256]
    options: Mapping[str, Any]
    identity: Sha256


@dataclass(frozen=True, slots=True)
class ModelView:
    """One named line of releases. aliases: the version that each stands for."""

    name: str
    created_at: datetime
    releases: int
    latest: str | None
    latest_state: str | None
    aliases: Mapping[str, str] = field(default_factory=dict)


PARENT_DATA: Final = "parent"
"""The parent's model among the data of a job, which asks both the same."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What one conversion job works on: everything that the worker needs, by digest."""

    ref: ReleaseRef
    profile: ProfileName
    profile_facts: Mapping[str, Any]
    kind: str
    files: tuple[SourceFile, ...]
    data: Mapping[str, Sha256]
    options: Mapping[str, Any]
