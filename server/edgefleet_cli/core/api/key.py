"""The API: signing roles, their keys and the certificate authority. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class Threshold(Struct, frozen=True):
    by: str = ""
    missing: int = 0
    needed: int = 0
    role: str = ""
    signed: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()


class SigningRequest(Struct, frozen=True):
    changes: tuple[str, ...] = ()
    document: str = ""
    ended_at: str | None = None
    id: str = ""
    made_at: str = ""
    purpose: str = ""
    state: str = ""
    thresholds: tuple[Threshold, ...] = ()


class AnswersTaken(Struct, frozen=True):
    added: tuple[str, ...] = ()
    destroyed: tuple[str, ...] = ()
    request: SigningRequest = SigningRequest()


class Authority(Struct, frozen=True):
    not_after: str = ""
    sha256: str = ""
    subject: str = ""


class BrokerTrust(Struct, frozen=True):
    crl: str = ""
    expires_at: str = ""
    issued_at: str = ""
    revoked: int = 0
    trusted_cas: str = ""


class Certificates(Struct, frozen=True):
    ended: int = 0
    kind: str = ""
    next_end: str | None = None
    revoked: int = 0
    valid: int = 0


class Key(Struct, frozen=True):
    algorithm: str = ""
    keyid: str = ""
    made: str | None = None
    public: str = ""
    state: str = ""
    uri: str = ""


class RoleRotation(Struct, frozen=True):
    before: tuple[str, ...] = ()
    keyid: str = ""
    role: str = ""


class KeysRotated(Struct, frozen=True):
    at: str = ""
    revoked: tuple[str, ...] = ()
    roles: tuple[RoleRotation, ...] = ()
    root_version: int | None = None


class RecoveryDone(Struct, frozen=True):
    everything: bool = False
    models: tuple[str, ...] = ()
    version: int = 0


class RecoveryIn(Body, frozen=True, kw_only=True):
    models: tuple[str, ...] | Unset = UNSET
    version: int | Unset = UNSET


class RecoveryModel(Struct, frozen=True):
    devices: int = 0
    model: str = ""
    named_by: tuple[str, ...] = ()


class RoleChange(Struct, frozen=True):
    becomes: int = 0
    name: str = ""
    version: int = 0


class RecoveryWord(Struct, frozen=True):
    asked_at: str | None = None
    device: str = ""
    roles: int = 0
    said_at: str = ""
    version: int = 0


class Recovery(Struct, frozen=True):
    lost_models: tuple[str, ...] = ()
    models: tuple[RecoveryModel, ...] = ()
    roles: tuple[RoleChange, ...] = ()
    version: int = 0
    words: tuple[RecoveryWord, ...] = ()


class RevokeKeyIn(Body, frozen=True, kw_only=True):
    algorithm: str | Unset = UNSET
    keyid: str | Unset = UNSET
    public_key: str | Unset = UNSET
    uri: str | Unset = UNSET


class Role(Struct, frozen=True):
    expires: str = ""
    is_offline: bool = False
    key_details: tuple[Key, ...] = ()
    keys: tuple[str, ...] = ()
    name: str = ""
    purpose: str = ""
    resign_at: str | None = None
    signed_at: str = ""
    targets: int = 0
    threshold: int = 0
    version: int = 0


class RotateKeyIn(Body, frozen=True, kw_only=True):
    algorithm: str | Unset = UNSET
    public_key: str | Unset = UNSET
    uri: str | Unset = UNSET


class SigningAnswersIn(Body, frozen=True, kw_only=True):
    answers: tuple[str, ...]


class SigningProgress(Struct, frozen=True):
    documents: int = 0
    keyid: str = ""
    waiting: int = 0


class SigningRequestIn(Body, frozen=True, kw_only=True):
    new_keys: tuple[str, ...] | Unset = UNSET
    parts: tuple[str, ...] | Unset = UNSET
    renew: tuple[str, ...] | Unset = UNSET
    replace: str | Unset = UNSET
    threshold: int | Unset | None = UNSET


class TeamAnswerIn(Body, frozen=True, kw_only=True):
    answer: str


class TeamIn(Body, frozen=True, kw_only=True):
    keys: tuple[str, ...]
    new_models: str | Unset = UNSET
    threshold: int | Unset = UNSET


class TeamRequest(Struct, frozen=True):
    act: str = ""
    changes: tuple[str, ...] = ()
    document: str = ""
    ended_at: str | None = None
    id: str = ""
    made_at: str = ""
    model: str = ""
    needed: int = 0
    signed: tuple[str, ...] = ()
    state: str = ""
    unsigned: tuple[str, ...] = ()
    version: str = ""


class Trust(Struct, frozen=True):
    authority: Authority = Authority()
    certificates: tuple[Certificates, ...] = ()
    first_root_sha256: str = ""
    is_root_here: bool = False
