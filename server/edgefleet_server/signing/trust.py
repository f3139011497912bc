"""What can be shown of the keys and of what they signed: roles, versions, ends, key ids. Pure; no private material comes near it.

Showing needs neither keys nor the library that signs: the stored files say it all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from edgefleet_ceremony.root_fields import holder_names, offline_roles

ORDER: Final = ("root", "targets", "releases", "director", "audit", "snapshot", "timestamp")
MODEL_PREFIX: Final = "m."
PURPOSES: Final = {
    "root": "which keys the other roles have",
    "targets": "which roles sign releases and what devices should run",
    "releases": "which role signs the bundles of which model",
    "director": "what each device should run",
    "audit": "the newest head of the audit trail",
    "snapshot": "which versions of these belong together",
    "timestamp": "which snapshot is the latest",
}
OF_MODEL: Final = "the bundles of one model"


@dataclass(frozen=True)
class KeyView:
    """One key of a role. algorithm: the scheme of its signatures; uri: where its private part is, "" when that is not known here.

    state: prepared, active, retired or revoked; made: None when that is not known here; public: the public key, PEM.
    """

    keyid: str
    algorithm: str
    uri: str
    state: str
    made: datetime | None
    public: str


@dataclass(frozen=True)
class RoleView:
    """One TUF role: its newest file and the keys that may sign it. targets: how many paths it names. resign_at: None = by hand."""

    name: str
    version: int
    signed_at: datetime
    expires: datetime
    resign_at: datetime | None
    threshold: int
    keys: Sequence[str]
    targets: int
    purpose: str
    """What it says, in a few words."""
    key_details: Sequence[KeyView] = ()
    """Its keys: those that may sign first, then those to come and those that were."""
    is_offline: bool = False
    """Whether its keys are with holders off the server: what changes it waits for their signatures."""
    holders: Sequence[str] = ()
    """Names of the holders of its keys, where root says them."""


@dataclass(frozen=True)
class TargetView:
    """A bundle as TUF names it. role: the one that signed it; version, expires: of its file."""

    path: str
    role: str
    version: int
    expires: datetime
    sha256: str
    length: int


@dataclass(frozen=True)
class CertificatesView:
    """Certificates of one kind that the device CA issued. next_end: when the first of the valid ones ends."""

    kind: str
    valid: int
    revoked: int
    ended: int
    next_end: datetime | None


@dataclass(frozen=True)
class RefusedCertificates:
    """What brokers must refuse. serials: lower-case hex; devices: ids without any other certificate; crl: the serials, signed (PEM).

    expires: the `nextUpdate` of `crl`. OpenSSL refuses every certificate once that is over. cas: the CAs that are trusted (PEM), each
    with a list in `crl`; empty: the one that the broker was started with.
    """

    serials: frozenset[str]
    devices: frozenset[str]
    crl: bytes
    expires: datetime
    cas: bytes = b""


@dataclass(frozen=True)
class BrokerTrust:
    """What a broker goes by that no server runs, to be written into files as it is.

    crl: the list of revoked certificates, one of each CA (PEM); trusted_cas: the CAs, two while the CA is rotated (PEM).
    issued_at, expires_at: `thisUpdate` and `nextUpdate` of the list; from expires_at on a broker refuses everybody. revoked: how many
    it names.
    """

    crl: str
    trusted_cas: str
    issued_at: datetime
    expires_at: datetime
    revoked: int


@dataclass(frozen=True)
class CaChoice:
    """Which CA issues a device's certificate. by_next: the one that is to follow, where there is one.

    before_s: the certificate begins before this moment (unix s), so that its device is asked to renew it as well; 0: as usual.
    """

    by_next: bool = False
    before_s: int = 0


USUAL_CA: Final = CaChoice()


@dataclass(frozen=True)
class AuthorityView:
    """The device CA. sha256: of its certificate in DER, as a claim token pins it."""

    subject: str
    sha256: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class TrustView:
    """Everything that devices trust. is_root_here: the root key and its passphrase both lie on this server, as in a trial."""

    roles: Sequence[RoleView]
    model_roles: Sequence[RoleView]
    authority: AuthorityView
    certificates: Sequence[CertificatesView]
    is_root_here: bool
    first_root_sha256: str
    """SHA-256 of the first root file: what a machine pins that verifies what this server signs."""


@dataclass(frozen=True)
class StoredFile:
    """The newest file of a role as the database has it."""

    version: int
    data: bytes
    made_at: datetime


def roles_of(files: Mapping[str, StoredFile], resign_at: Mapping[str, datetime]) -> list[RoleView]:
    """Return the roles in the order of trust, models by name. resign_at: when each that the server signs is due."""
    signed = {name: json.loads(file.data)["signed"] for name, file in files.items()}
    keys = _keys_by_role(signed.values())
    names = [name for name in ORDER if name in signed] + sorted(name for name in signed if name not in ORDER)
    offline, holders = offline_roles(signed.get("root", {})), holder_names(signed.get("root", {}))
    if offline:
        offline |= {"root"}
    delegated = (signed.get("targets", {}).get("delegations") or {}).get("roles") or ()
    offline |= {role["name"] for role in delegated if role["name"].startswith(MODEL_PREFIX)}
    return [
        replace(
            _role(name, signed[name], files[name], keys.get(name, (1, ())), resign_at.get(name)),
            is_offline=name in offline,
            holders=sorted({holders[key] for key in keys.get(name, (1, ()))[1] if key in holders}),
        )
        for name in names
    ]


def target_of(path: str, role: str, file: StoredFile) -> TargetView | None:
    """Return how a role names a bundle, None when it does not."""
    signed = json.loads(file.data)["signed"]
    found = signed.get("targets", {}).get(path)
    if found is None:
        return None
    return TargetView(path, role, file.version, _moment(signed["expires"]), found["hashes"]["sha256"], found["length"])


def _role(
    name: str,
    signed: Mapping[str, Any],
    file: StoredFile,
    keys: tuple[int, Sequence[str]],
    resign_at: datetime | None,
) -> RoleView:
    return RoleView(
        name=name,
        version=file.version,
        signed_at=file.made_at,
        expires=_moment(signed["expires"]),
        resign_at=resign_at,
        threshold=keys[0],
        keys=sorted(keys[1]),
        targets=len(signed.get("targets") or ()),
        purpose=OF_MODEL if name.startswith(MODEL_PREFIX) else PURPOSES.get(name, ""),
    )


def _keys_by_role(documents: Any) -> dict[str, tuple[int, Sequence[str]]]:
    """Return (threshold, key ids) of each role, as root and delegations say."""
    found: dict[str, tuple[int, Sequence[str]]] = {}
    for signed in documents:
        roles = signed.get("roles") or {}
        found |= {name: (int(role["threshold"]), role["keyids"]) for name, role in roles.items()}
        delegated = (signed.get("delegations") or {}).get("roles") or ()
        found |= {role["name"]: (int(role["threshold"]), role["keyids"]) for role in delegated}
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
