"""Answers of the API: models, their aliases and the comparison of two versions.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct, field


class Alias(Struct, frozen=True):
    """A name of a release that moves."""

    alias: str = ""
    model: str = ""
    ref: str = ""
    set_at: str = ""
    set_by: str = ""
    version: str = ""


class Change(Struct, frozen=True):
    """One figure of both versions, None where it is not known. said: the difference in words; tone: whether that is good."""

    after: float | str | None = None
    before: float | str | None = None
    figure: str = ""
    metric: str = ""
    name: str = ""
    said: str = ""
    tone: str = "plain"
    unit: str = ""


class ComparedVersion(Struct, frozen=True):
    """One of the two versions."""

    created_at: str = ""
    created_by: str = ""
    ref: str = ""
    state: str = ""
    version: str = ""


class ProfilePair(Struct, frozen=True):
    """One profile in both versions. better, worse: how many figures got so."""

    better: int = 0
    changes: tuple[Change, ...] = ()
    lacking: str = ""
    missing: str = ""
    profile: str = ""
    worse: int = 0


class Comparison(Struct, frozen=True):
    """Two versions of a model, profile by profile; no profile when neither has a bundle."""

    after: ComparedVersion = ComparedVersion()
    before: ComparedVersion = ComparedVersion()
    model: str = ""
    profiles: tuple[ProfilePair, ...] = ()


class Model(Struct, frozen=True):
    """A named line of releases."""

    aliases: dict[str, str] = field(default_factory=dict)
    created_at: str = ""
    latest: str | None = None
    latest_state: str | None = None
    name: str = ""
    releases: int = 0
