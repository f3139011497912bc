"""Answers of the API: releases and what becomes of their deployment.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct, field

from edgefleet_cli.core.api.bundle import Bundle


class Assigned(Struct, frozen=True):
    """One device whose desired document names the release now; gen 0 in a dry run."""

    device: str = ""
    gen: int = 0
    profile: str = ""
    target: str = ""


class Skipped(Struct, frozen=True):
    """One device that matched but cannot run the release, why, and what to do."""

    device: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class Deployment(Struct, frozen=True):
    """What a deployment did, or would do when it was a dry run."""

    matched: int = 0
    release: str = ""
    set: tuple[Assigned, ...] = ()
    skipped: tuple[Skipped, ...] = ()


class Job(Struct, frozen=True):
    """One conversion job."""

    id: str = ""
    message: str = ""
    pct: float = 0.0
    profile: str = ""
    stage: str = ""
    state: str = ""


class Refused(Struct, frozen=True):
    """A profile for which no bundle is offered, and why."""

    code: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class ReleaseDevice(Struct, frozen=True):
    """One device that runs a release or should."""

    active: bool = False
    device: str = ""
    error_class: str | None = None
    phase: str | None = None
    profile: str = ""
    state: str = ""
    status: str = ""
    wanted: bool = False


class Release(Struct, frozen=True):
    """A release with its bundles, refusals and jobs."""

    aliases: tuple[str, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    created_at: str = ""
    created_by: str = ""
    jobs: tuple[Job, ...] = ()
    labels_available: bool = False
    lineage: dict[str, str] = field(default_factory=dict)
    model: str = ""
    profiles_reason: str = ""
    ref: str = ""
    refused: tuple[Refused, ...] = ()
    source_sha256: str = ""
    state: str = ""
    version: str = ""
