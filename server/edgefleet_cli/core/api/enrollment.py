"""The API: claims, and devices that wait for an approval. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class NewClaim(Struct, frozen=True):
    approval: bool = False
    expires_at: str = ""
    id: str = ""
    token: str = ""


class ClaimTokens(Struct, frozen=True):
    install: str | None = None
    tokens: tuple[NewClaim, ...] = ()


class Claim(Struct, frozen=True):
    approval: bool = False
    created_by: str = ""
    devices: tuple[str, ...] = ()
    display_name: str = ""
    expires_at: str = ""
    id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    profile: str | None = None
    uses: int = 0
    uses_left: int = 0


class Decided(Struct, frozen=True):
    device: str = ""
    id: str = ""
    state: str = ""


class Undecided(Struct, frozen=True):
    id: str = ""
    next: str = ""
    reason: str = ""


class Decisions(Struct, frozen=True):
    done: tuple[Decided, ...] = ()
    matched: int = 0
    skipped: tuple[Undecided, ...] = ()


class EnrollmentIn(Body, frozen=True, kw_only=True):
    approval: bool | Unset | None = UNSET
    count: int | Unset = UNSET
    display_name: str | Unset = UNSET
    labels: dict[str, str] | Unset = UNSET
    name_prefix: str | Unset | None = UNSET
    profile: str | Unset | None = UNSET
    ttl_s: int | Unset = UNSET
    uses: int | Unset = UNSET


class Pending(Struct, frozen=True):
    asked_at: str = ""
    claim: str = ""
    decided_by: str = ""
    device: str = ""
    expires_at: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    heard_at: str = ""
    id: str = ""
    key_sha256: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    profile: str = ""
    reason: str = ""
    state: str = ""


class RejectIn(Body, frozen=True, kw_only=True):
    claim: str | Unset | None = UNSET
    ids: tuple[str, ...] | Unset | None = UNSET
    reason: str | Unset = UNSET
    selector: str | Unset | None = UNSET
