"""The API: signing roles, their keys and the certificate authority. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import Struct


class Authority(Struct, frozen=True):
    not_after: str = ""
    sha256: str = ""
    subject: str = ""


class Certificates(Struct, frozen=True):
    ended: int = 0
    kind: str = ""
    next_end: str | None = None
    revoked: int = 0
    valid: int = 0


class Role(Struct, frozen=True):
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
    authority: Authority = Authority()
    certificates: tuple[Certificates, ...] = ()
    is_root_here: bool = False
