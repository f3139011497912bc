"""The API: models, their aliases and the comparison of two versions. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import Body, Struct, field


class AliasIn(Body, frozen=True, kw_only=True):
    version: str


class Alias(Struct, frozen=True):
    alias: str = ""
    model: str = ""
    ref: str = ""
    set_at: str = ""
    set_by: str = ""
    version: str = ""


class Change(Struct, frozen=True):
    after: float | str | None = None
    before: float | str | None = None
    figure: str = ""
    metric: str = ""
    name: str = ""
    said: str = ""
    tone: str = "plain"
    unit: str = ""


class ComparedVersion(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    ref: str = ""
    state: str = ""
    version: str = ""


class ProfilePair(Struct, frozen=True):
    better: int = 0
    changes: tuple[Change, ...] = ()
    missing: str = ""
    profile: str = ""
    worse: int = 0


class Comparison(Struct, frozen=True):
    after: ComparedVersion = ComparedVersion()
    before: ComparedVersion = ComparedVersion()
    model: str = ""
    profiles: tuple[ProfilePair, ...] = ()


class Model(Struct, frozen=True):
    aliases: dict[str, str] = field(default_factory=dict)
    created_at: str = ""
    latest: str | None = None
    latest_state: str | None = None
    name: str = ""
    releases: int = 0
