"""What each role may say: what the signing process looks at before it signs. Pure.

It is asked by a web process that may be in a thief's hands, so it reads what it signs and trusts no summary of it. It never says whether a
release is good: that only the keys of a team do, off this machine. What it keeps out is what outlives the theft.

Rules:
- A key signs for its own role. The key of `releases` also signs models from before they had keys of their own (ADR 0115). A file that was
  put back under a name that says no role signs what metadata lets it.
- Documents of the director live DOCUMENT_LIFE at most, and their numbers end where the clock is, so that a device is never locked out of
  later ones. They shut out no releases: a device remembers that.
- Metadata lives as long as its role does; its version is no lower than the last one signed here, and no higher than a recovery needs.
  The same goes for the versions that `snapshot` and `timestamp` name: a device takes none below them afterwards.
- What is signed is what was read: bytes that are not the canonical form of what they say are refused.
- `targets` and `releases` hand on only to keys of this folder; in `targets` a model may have its team's, none of them of this folder.
  `targets` names none but where the server is (ADR 0125), with a number that leaves room for higher ones and no CA but this folder's;
  `releases` and `director` name none, `audit` its one head, and the role of a model its own bundles.
- Next to metadata `audit` signs manifests of evidence (ADR 0137), made now, in a form that no client of TUF takes for metadata.
- A role that was handed over, a model's to its team or `targets` to its holders, gets no key and no signature, and `releases` does not
  delegate it.
- A key from elsewhere is in a key service, at a place that was allowed where the signing process is run apart; never a file.
- Certificates of clients are for names that devices may have, or for the server's own client of the broker.
- Root is signed only where its key lies next to the others, as in a trial. It may name keys of holders for root and `targets`, as the
  ceremony does, so in a trial this is no defence.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE, decode_hold
from edgefleet_protocol.errors import BadIdError, BadMessageError
from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX, parse_device_id, parse_model_name
from edgefleet_protocol.server_places import TARGET as PLACES_TARGET
from edgefleet_protocol.server_places import parse_announcement
from edgefleet_server.signing.errors import StatementRefusedError
from edgefleet_server.signing.keys.inventory import Inventory, KeyRecord, KeySource, KeyState
from edgefleet_server.signing.keys.signer_uris import REMOTE_SCHEMES, identified
from edgefleet_server.signing.role_lives import LIFE, highest_number, life_of
from edgefleet_server.signing.trust import MODEL_PREFIX
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE, HEAD_TARGET
from edgefleet_terms.evidence.evidence_manifest import BadEvidenceError, manifest_of

DOCUMENT_LIFE: Final = timedelta(days=7)
SLACK: Final = timedelta(hours=1)
MAX_AHEAD: Final = timedelta(days=1)
MAX_UNKNOWN: Final = 10**12
"""The highest version in a folder that has signed no snapshot yet, as after an update: a server's clock may have been wrong once."""
MAX_PLACES: Final = 10**12
"""The highest number of where the server is."""
HOLD: Final = "hold"
"""Under which name the number of the last hold is kept."""
MAX_KEYS: Final = 16

_TYPES: Final = {"root": "root", "snapshot": "snapshot", "timestamp": "timestamp"}
_HANDED_ON: Final = {"targets": frozenset({"director", "releases", AUDIT_ROLE}), "releases": frozenset[str]()}
"""To which roles these hand on, and to those of models."""
_NAMED: Final = frozenset({(AUDIT_ROLE, HEAD_TARGET), ("targets", PLACES_TARGET)})
"""What roles other than those of models may name."""
_SERVICE: Final = re.compile(SERVER_ACCOUNT_PREFIX + r"[a-z0-9][a-z0-9-]{0,58}")
_OF_MODELS: Final = re.compile(r"(\*|[^/*?\[]+)/\*/\*")


class _Document(msgspec.Struct):
    """What is looked at of a device's document. The rest binds no device for longer: each reads all of it, and refuses what is none.

    sec_floor: what devices shut out for good; no server of ours says it in a document, since a model's own role does.
    """

    device: str
    gen: Annotated[int, msgspec.Meta(ge=1)]
    issued: Annotated[datetime, msgspec.Meta(tz=True)]
    expires: Annotated[datetime, msgspec.Meta(tz=True)]
    sec_floor: dict[str, Any] = {}


_DOCUMENT: Final = msgspec.json.Decoder(_Document)  # a third of the time of all of it, and a rollout has 100,000


@dataclass(frozen=True, slots=True)
class MetadataFacts:
    """What is known when metadata is to be signed. last: the version of a role that was signed here last, 0 for none.

    cas: certificates (PEM) of this folder's device CAs; handed_over: roles that others sign for good.
    """

    inventory: Inventory
    last: Callable[[str], int]
    now: datetime
    cas: frozenset[str] = frozenset()
    handed_over: frozenset[str] = frozenset()


def named_versions(content: bytes) -> dict[str, int]:
    """Return the versions that a snapshot names, by role. content: as `check_metadata` let it pass."""
    named = json.loads(content, strict=False)["meta"]
    return {name.removesuffix(".json"): int(one["version"]) for name, one in named.items()}


def is_role(role: str) -> bool:
    """Return whether it is the name of a role."""
    try:
        return role in LIFE or (
            role.startswith(MODEL_PREFIX) and bool(parse_model_name(role.removeprefix(MODEL_PREFIX)))
        )
    except BadIdError:
        return False


def check_role(role: str) -> None:
    """Refuse a role that is none: names of files are made of it. Raises StatementRefusedError."""
    if not is_role(role):
        raise _refused(role, "there is no such role")


def check_kept(role: str, handed_over: frozenset[str]) -> None:
    """Refuse a role that others sign for good. Raises StatementRefusedError."""
    if role in handed_over:
        whose = "its team" if role.startswith(MODEL_PREFIX) else "its holders"
        raise _refused(role, f"it is signed by {whose}, and this key folder signs it no more")


def check_destroyed(role: str) -> None:
    """Refuse to destroy the keys of a role that is never handed over. Raises StatementRefusedError."""
    check_role(role)
    if role not in {"root", "targets"} and not role.startswith(MODEL_PREFIX):
        raise _refused(role, "its keys are never handed over, so they are not destroyed")


def check_given(record: KeyRecord, places: Collection[str] | None = None) -> None:
    """Refuse a key that lies elsewhere and is described as another one. places: URIs that are allowed, None for all.

    Raises StatementRefusedError.
    """
    check_role(record.role)
    if record.uri.partition(":")[0] not in REMOTE_SCHEMES:
        raise _refused(record.role, "a key that is given is in a key service or a token, not in a file")
    if places is not None and record.uri not in places:
        raise _refused(
            record.role,
            f"{record.uri[:80]!r} is not allowed as the place of a key; who runs the signing process names it with --allow-uri",
        )
    if record.role == "root" or record.source is not KeySource.GIVEN or record.state is not KeyState.PREPARED:
        raise _refused(record.role, "such a key is not taken in")
    try:
        is_its_own = identified(record).keyid == record.keyid
    except (ValueError, TypeError) as error:
        raise _refused(record.role, "its public part is none") from error
    if not is_its_own:
        raise _refused(record.role, f"the key {record.keyid[:12]} has the id of another")


def check_key(record: KeyRecord, role: str) -> None:
    """Refuse a key that is another role's. Raises StatementRefusedError."""
    is_older_model = record.role == "releases" and role.startswith(MODEL_PREFIX)
    is_restored = record.source is KeySource.FOUND and record.role not in LIFE and MODEL_PREFIX not in record.role
    if record.role != role and not is_older_model and not is_restored:
        raise _refused(role, f"the key {record.keyid[:12]} is the one of {record.role}")


def check_subject(subject: str) -> bool:
    """Refuse a client's certificate for a name that nobody may have; return whether it is a device's. Raises StatementRefusedError."""
    if _SERVICE.fullmatch(subject):
        return False
    try:
        parse_device_id(subject)
    except BadIdError as error:
        raise StatementRefusedError(f"no certificate is issued for {subject[:80]!r}: {error.message}") from error
    return True


def check_evidence(manifest: bytes, now: datetime) -> None:
    """Refuse what is no manifest of evidence, or one of another time. Raises StatementRefusedError."""
    try:
        found = manifest_of(manifest)
        made_at = datetime.fromisoformat(found.made_at)
        parse_model_name(found.model)
    except (BadEvidenceError, BadIdError, ValueError) as error:
        raise _refused(AUDIT_ROLE, f"the manifest of evidence is none: {error}") from error
    if made_at.tzinfo is None or abs(now - made_at) > SLACK:
        raise _refused(AUDIT_ROLE, f"the evidence says that it was made at {found.made_at[:40]}, which is not now")


def check_document(payload_type: str, payload: bytes, now: datetime, last_hold: int = 0) -> int:
    """Refuse what the director may not sign; return its number. last_hold: of the last hold signed here. Raises StatementRefusedError."""
    return check_documents(payload_type, [payload], now, last_hold)[0]


def check_documents(payload_type: str, payloads: Sequence[bytes], now: datetime, last_hold: int = 0) -> list[int]:
    """Refuse documents of which the director may not sign one; return their numbers. Raises StatementRefusedError."""
    if payload_type not in (DESIRED_TYPE, HOLD_TYPE):
        raise _refused("director", f"it signs no {payload_type[:80]!r}")
    is_hold, latest = payload_type == HOLD_TYPE, now + DOCUMENT_LIFE + SLACK
    highest = _highest(last_hold, now) if is_hold else highest_number(now)
    numbers = []
    for payload in payloads:
        number, expires = _read_hold(payload) if is_hold else _read_document(payload)
        if expires > latest:
            raise _refused("director", f"the document would live until {expires:%Y-%m-%d %H:%M}, longer than a week")
        if number > highest:
            raise _refused("director", f"the number {number} leaves no higher ones")
        numbers.append(number)
    return numbers


def _read_document(payload: bytes) -> tuple[int, datetime]:
    try:
        document = _DOCUMENT.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refused("director", f"not a desired document: {error}") from error
    if document.sec_floor:
        raise _refused("director", "the document would shut out releases for good, which only the role of a model does")
    return document.gen, document.expires


def _read_hold(payload: bytes) -> tuple[int, datetime]:
    try:
        hold = decode_hold(payload)
    except BadMessageError as error:
        raise _refused("director", error.message) from error
    return hold.seq, hold.expires


def check_metadata(role: str, content: bytes, facts: MetadataFacts) -> int:
    """Refuse metadata that a role may not sign; return its version. content: its signed part. Raises StatementRefusedError."""
    check_role(role)
    check_kept(role, facts.handed_over)
    try:
        signed = json.loads(content, strict=False)  # canonical JSON leaves the line ends of a PEM as they are
        is_canonical = (encode_canonical(signed) or "").encode() == content
        kind, version, expires = signed["_type"], signed["version"], _time(signed["expires"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
        raise _refused(role, f"it is no metadata: {type(error).__name__}") from error
    if not is_canonical:
        raise _refused(role, "it is not written as metadata is signed")
    if kind != _TYPES.get(role, "targets"):
        raise _refused(role, f"it is metadata of type {str(kind)[:40]!r}")
    if expires > facts.now + life_of(role) + SLACK:
        raise _refused(role, f"it would live until {expires:%Y-%m-%d %H:%M}, longer than {life_of(role).days} days")
    if not isinstance(version, int) or isinstance(version, bool):
        raise _refused(role, "its version is no number")
    _check_version(role, version, facts)
    try:
        if kind == "targets":
            _check_targets(role, signed, facts)
        elif kind == "root":
            _check_root(signed, facts.inventory)
        else:
            _check_named(role, signed, facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise _refused(role, f"it is no metadata: {type(error).__name__}") from error
    return version


def _check_version(role: str, version: int, facts: MetadataFacts) -> None:
    last = facts.last(role)
    if version < max(last, 1):
        raise _refused(
            role, f"version {version} is older than {last}, which was signed here; wait until the clock is right"
        )
    if role == "root":
        known = last or facts.inventory.root_version
        highest = known + 1 if known else MAX_UNKNOWN
    else:
        highest = _highest_of(role, facts)
    if version > highest:
        raise _refused(role, f"version {version} would leave devices out of those to come")


def _highest(last: int, now: datetime) -> int:
    return max(int((now + MAX_AHEAD + SLACK).timestamp()), last + 1)


def _highest_of(role: str, facts: MetadataFacts) -> int:
    return _highest(facts.last(role), facts.now) if facts.last("snapshot") else MAX_UNKNOWN


def _check_named(role: str, signed: Mapping[str, Any], facts: MetadataFacts) -> None:
    """Refuse versions that no metadata will ever reach: devices take no lower ones after them."""
    for name, named in signed["meta"].items():
        version = named["version"]
        if isinstance(version, bool) or not 1 <= version <= _highest_of(name.removesuffix(".json"), facts):
            raise _refused(role, f"version {version} of {name[:80]!r} would leave devices out of those to come")
    if role == "timestamp" and set(signed["meta"]) != {"snapshot.json"}:
        raise _refused(role, "it names more than the snapshot")


def _check_root(signed: Mapping[str, Any], inventory: Inventory) -> None:
    for name in ("snapshot", "timestamp"):
        for keyid in signed["roles"][name]["keyids"]:
            _check_own_key("root", keyid, signed["keys"][keyid], inventory)


def _check_targets(role: str, signed: Mapping[str, Any], facts: MetadataFacts) -> None:
    targets: Mapping[str, Any] = signed["targets"]
    if role.startswith(MODEL_PREFIX):
        own = f"{role.removeprefix(MODEL_PREFIX)}/"
        foreign = [path for path in targets if not path.startswith(own)]
    else:
        foreign = [path for path in targets if (role, path) not in _NAMED]
    if foreign:
        raise _refused(role, f"it names {foreign[0][:80]!r}")
    if role == "targets" and PLACES_TARGET in targets:
        _check_places(targets[PLACES_TARGET]["custom"], facts.cas)
    delegations = signed.get("delegations")
    if not delegations:
        return
    if role not in _HANDED_ON:
        raise _refused(role, "it hands on to other roles")
    ours: set[str] = set()
    teams: set[str] = set()
    for one in delegations["roles"]:
        is_team = role == "targets" and one["name"].startswith(MODEL_PREFIX)
        if not is_team:
            check_kept(one["name"], facts.handed_over)
        _check_delegation(role, one)
        (teams if is_team else ours).update(one["keyids"])
    for keyid in ours:
        _check_own_key(role, keyid, delegations["keys"][keyid], facts.inventory)
    known = {one.public for one in facts.inventory.keys}
    for keyid in teams:
        if facts.inventory.key(keyid) is not None or delegations["keys"][keyid]["keyval"].get("public") in known:
            raise _refused(role, f"it gives a model to its team with the key {keyid[:12]}, which is of this key folder")


def _check_places(custom: Any, cas: frozenset[str]) -> None:
    try:
        found = parse_announcement(custom)
    except BadMessageError as error:
        raise _refused("targets", error.message) from error
    if found.number > MAX_PLACES:
        raise _refused("targets", f"number {found.number} of where the server is leaves no room for later ones")
    if any(one.strip() not in cas for one in found.cas):
        raise _refused("targets", "it lets devices trust a CA that is none of this key folder")


def _check_delegation(role: str, one: Mapping[str, Any]) -> None:
    name, keyids, threshold, paths = one["name"], one["keyids"], one["threshold"], one["paths"]
    if name.startswith(MODEL_PREFIX):
        is_right = paths == [f"{name.removeprefix(MODEL_PREFIX)}/*/*"]
    elif name not in _HANDED_ON[role]:
        raise _refused(role, f"it hands on to {name[:80]!r}")
    elif name == "releases":
        is_right = all(_OF_MODELS.fullmatch(path) for path in paths)
    else:
        is_right = paths == [f"{name}/*"]
    if not is_right or one["terminating"] is not True:
        raise _refused(role, f"it gives {name[:80]} paths that are not its own")
    if not 1 <= threshold <= len(keyids):
        raise _refused(role, f"it lets {name[:80]} be signed by {threshold} of {len(keyids)} keys")


def _check_own_key(role: str, keyid: str, key: Mapping[str, Any], inventory: Inventory) -> None:
    record = inventory.key(keyid)
    if record is None or record.state is KeyState.REVOKED or key["keyval"].get("public") != record.public:
        raise _refused(role, f"it hands on to the key {keyid[:12]}, which is none of this key folder")


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _refused(role: str, why: str) -> StatementRefusedError:
    name = role if is_role(role) else repr(role[:80])
    return StatementRefusedError(f"the signing process signs nothing of the kind for {name}: {why}")
