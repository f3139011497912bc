"""Answers of the API: signing roles, their keys and the certificate authority.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct


class Authority(Struct, frozen=True):
    """The device CA. sha256: of its certificate in DER, as a claim token pins it."""

    not_after: str = ""
    not_before: str = ""
    sha256: str = ""
    subject: str = ""


class Certificates(Struct, frozen=True):
    """Certificates of one kind that the device CA issued. next_end: when the first of the valid ones ends."""

    ended: int = 0
    kind: str = ""
    next_end: str | None = None
    revoked: int = 0
    valid: int = 0


class Role(Struct, frozen=True):
    """One TUF role: its newest file and the keys that may sign it. targets: how many paths it names. resign_at: None = by hand."""

    expires: str = ""
    keys: tuple[str, ...] = ()
    name: str = ""
    purpose: str = ""
    resign_at: str | None = None
    signed_at: str = ""
    targets: int = 0
    threshold: int = 0
    version: int = 0


class Trust(Struct, frozen=True):
    """What devices trust beside the TUF roles. is_root_here: the root key and its passphrase both lie on this server, as in a trial."""

    authority: Authority = Authority()
    certificates: tuple[Certificates, ...] = ()
    is_root_here: bool = False
