"""Answers of the API: claims, and devices that wait for an approval.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class NewClaim(Struct, frozen=True):
    """A claim token just made; `token` is in this answer and nowhere else. approval: its devices wait for an operator."""

    approval: bool = False
    expires_at: str = ""
    id: str = ""
    token: str = ""


class ClaimTokens(Struct, frozen=True):
    """New claim tokens."""

    tokens: tuple[NewClaim, ...] = ()


class Claim(Struct, frozen=True):
    """A claim token without its secret, the devices it enrolled, and how many keys wait for an operator's word."""

    approval: bool = False
    created_at: str = ""
    created_by: str = ""
    devices: tuple[str, ...] = ()
    expires_at: str = ""
    id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    profile: str | None = None
    uses: int = 0
    uses_left: int = 0


class Decided(Struct, frozen=True):
    """A key that was decided about, now or before; device: its id when it was let in."""

    device: str = ""
    id: str = ""
    state: str = ""


class Undecided(Struct, frozen=True):
    """A key that could not be decided about, why, and what to do."""

    id: str = ""
    next: str = ""
    reason: str = ""


class Decisions(Struct, frozen=True):
    """What became of the keys that were meant."""

    done: tuple[Decided, ...] = ()
    matched: int = 0
    skipped: tuple[Undecided, ...] = ()


class Pending(Struct, frozen=True):
    """A key that waits or waited. id: its fingerprint; heard_at: when it last asked; device: what became of it, "" = none."""

    asked_at: str = ""
    claim: str = ""
    decided_at: str | None = None
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
