"""A request for the signatures of a model's team, and the answer of one of them: what the server proposes for the role `m.<model>`.

A request holds root and targets of today, the role as it is and as it is to be, whole. So who signs it compares the files, and believes
no word of the server's. Its id is a digest of what is to be signed and by whom: an answer can belong to no other request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from securesystemslib.signer import Key, Signature  # type: ignore[attr-defined]  # documented, but not in __all__
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    Targets,
)

from edgefleet_ceremony.file_format import (
    BadCeremonyFileError,
    canonical,
    key_id,
    moment_of,
    read_document,
    write_document,
)
from edgefleet_ceremony.public_part import MAX_HOLDERS, SCHEMES
from edgefleet_protocol.digest import sha256_hex

TEAM_REQUEST_FORMAT: Final = "edgefleet-team-request/1"
TEAM_ANSWER_FORMAT: Final = "edgefleet-team-answer/1"
MODEL_ROLE_PREFIX: Final = "m."
ID_DIGITS: Final = 16


class TeamAct(StrEnum):
    """What a team is asked for. Stored and public: never renamed."""

    TEAM = "team"
    """To take a model over, or to sign it with other keys: what the role names stays."""
    RELEASE = "release"
    WITHDRAW = "withdraw"
    RENEW = "renew"


@dataclass(frozen=True, kw_only=True)
class TeamKeys:
    """The keys of a team and how many of them must sign."""

    keys: Mapping[str, Key]
    threshold: int

    def delegation(self, model: str) -> DelegatedRole:
        """Return how targets delegate the bundles of the model to this team."""
        return DelegatedRole(
            role_of(model), sorted(self.keys), self.threshold, terminating=True, paths=[f"{model}/*/*"]
        )

    def verifier(self, model: str) -> Targets:
        """Return targets that delegate to this team and nothing else: what the library of devices verifies signatures with."""
        return Targets(version=1, delegations=Delegations(dict(self.keys), {role_of(model): self.delegation(model)}))


@dataclass(frozen=True, kw_only=True)
class TeamRequest:
    """What is to be signed. team: whose signatures count. version: of the release, "" for other acts.

    root, targets: of today, signed. current: the role as it is, None before the first; proposed: with the signatures so far.
    """

    model: str
    act: TeamAct
    version: str
    made_at: datetime
    team: TeamKeys
    root: Metadata[Root]
    targets: Metadata[Targets]
    current: Metadata[Targets] | None
    proposed: Metadata[Targets]

    @property
    def id(self) -> str:
        """The digest of what is to be signed and by whom, short."""
        team = {"keys": sorted(self.team.keys), "threshold": self.team.threshold}
        return sha256_hex(canonical({"signed": self.proposed.signed.to_dict(), "team": team}))[:ID_DIGITS]

    @property
    def role(self) -> str:
        """The name of the role."""
        return role_of(self.model)


@dataclass(frozen=True, kw_only=True)
class TeamAnswer:
    """Signatures of one of the team."""

    request: str
    signatures: Sequence[Signature]


def role_of(model: str) -> str:
    """Return the name of the role that names the bundles of a model."""
    return f"{MODEL_ROLE_PREFIX}{model}"


def team_of(targets: Targets, model: str) -> TeamKeys | None:
    """Return the team of a model, None where targets delegate it to none: then the server signs it."""
    delegations = targets.delegations
    found = (delegations.roles or {}).get(role_of(model)) if delegations is not None else None
    if delegations is None or found is None:
        return None
    return TeamKeys(
        keys={keyid: delegations.keys[keyid] for keyid in found.keyids if keyid in delegations.keys},
        threshold=found.threshold,
    )


def models_with_keys_of(targets: Targets, model: str, team: TeamKeys) -> list[str]:
    """Return the other models whose teams, by targets, have a key of this team.

    Metadata does not say which role it is of: what such a key signs for one model could be shown as the other's.
    """
    found = (targets.delegations.roles or {}) if targets.delegations is not None else {}
    return sorted(
        name.removeprefix(MODEL_ROLE_PREFIX)
        for name, one in found.items()
        if name.startswith(MODEL_ROLE_PREFIX) and name != role_of(model) and team.keys.keys() & set(one.keyids)
    )


def signed_and_unsigned(request: TeamRequest) -> tuple[list[str], list[str]]:
    """Return the ids of keys that signed, by TUF's own rules, and of those that did not."""
    result = request.team.verifier(request.model).get_verification_result(
        request.role, request.proposed.signed_bytes, request.proposed.signatures
    )
    return sorted(result.signed), sorted(result.unsigned)


def is_met(request: TeamRequest) -> bool:
    """Return whether enough of the team have signed."""
    return len(signed_and_unsigned(request)[0]) >= request.team.threshold


def add_team_signatures(request: TeamRequest, answer: TeamAnswer) -> tuple[list[str], list[str]]:
    """Add the valid signatures of an answer to a request; return the ids of their keys, and what was refused and why."""
    added, refused = [], []
    for one in answer.signatures:
        key = request.team.keys.get(one.keyid)
        try:
            if key is None:
                raise ValueError("this key is not the team's")
            key.verify_signature(one, request.proposed.signed_bytes)
        except Exception as error:  # noqa: BLE001 - whatever the library says of it, it does not count
            refused.append(f"{one.keyid[:12]}: {error if key is None else 'the signature is wrong'}")
            continue
        request.proposed.signatures[one.keyid] = one
        added.append(one.keyid)
    return added, refused


def team_request_bytes(request: TeamRequest) -> bytes:
    """Return the file."""
    return write_document(
        {
            "format": TEAM_REQUEST_FORMAT,
            "id": request.id,
            "model": request.model,
            "act": request.act.value,
            "version": request.version,
            "made_at": request.made_at.isoformat(),
            "team": {
                "keys": {keyid: key.to_dict() for keyid, key in request.team.keys.items()},
                "threshold": request.team.threshold,
            },
            "root": request.root.to_dict(),
            "targets": request.targets.to_dict(),
            "current": None if request.current is None else request.current.to_dict(),
            "proposed": request.proposed.to_dict(),
        }
    )


def team_request_of(data: bytes) -> TeamRequest:
    """Return the request of a file. Nothing of it is verified but its form, its id and those of keys. Raises BadCeremonyFileError."""
    found = read_document(data, TEAM_REQUEST_FORMAT)
    try:
        request = TeamRequest(
            model=str(found["model"]),
            act=TeamAct(found["act"]),
            version=str(found["version"]),
            made_at=moment_of(found["made_at"]),
            team=_team(found["team"]),
            root=_file(found["root"], Root),
            targets=_file(found["targets"], Targets),
            current=None if found["current"] is None else _file(found["current"], Targets),
            proposed=_file(found["proposed"], Targets),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RepositoryError) as error:
        raise BadCeremonyFileError(f"it cannot be read: {error}") from error
    if request.id != found.get("id"):
        raise BadCeremonyFileError("its id does not belong to what is to be signed: it was changed on its way")
    return request


def team_answer_bytes(answer: TeamAnswer) -> bytes:
    """Return the file."""
    signatures = [one.to_dict() for one in answer.signatures]
    return write_document({"format": TEAM_ANSWER_FORMAT, "request": answer.request, "signatures": signatures})


def team_answer_of(data: bytes) -> TeamAnswer:
    """Return the answer of a file. No signature is verified. Raises BadCeremonyFileError."""
    found = read_document(data, TEAM_ANSWER_FORMAT)
    signatures = found.get("signatures")
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MAX_HOLDERS:
        raise BadCeremonyFileError(f"it must hold 1 to {MAX_HOLDERS} signatures")
    try:
        made = [Signature.from_dict(dict(one)) for one in signatures]
    except (KeyError, TypeError, ValueError) as error:
        raise BadCeremonyFileError("one of its signatures cannot be read") from error
    return TeamAnswer(request=str(found.get("request", ""))[:ID_DIGITS], signatures=made)


def checked_team(keys: Sequence[Key], threshold: int) -> TeamKeys:
    """Return the keys of a team, each under the id that it must have. Raises BadCeremonyFileError."""
    named = {key.keyid: key for key in keys}
    if len(named) != len(keys):
        raise BadCeremonyFileError("two keys of a team are the same")
    if not 1 <= threshold <= len(keys) <= MAX_HOLDERS:
        raise BadCeremonyFileError(
            f"a threshold of {threshold} does not go with {len(keys)} keys (at most {MAX_HOLDERS})"
        )
    for keyid, key in named.items():
        if SCHEMES.get(key.scheme) != key.keytype:
            raise BadCeremonyFileError(f"keys must be of {' or '.join(SCHEMES)}, not {key.scheme[:40]!r}")
        if key_id(key.keytype, key.scheme, key.keyval) != keyid:
            raise BadCeremonyFileError(f"another key lies under the id {keyid[:12]}")
    return TeamKeys(keys=named, threshold=threshold)


def _team(document: Any) -> TeamKeys:
    keys = [Key.from_dict(str(keyid), dict(one)) for keyid, one in document["keys"].items()]
    return checked_team(keys, int(document["threshold"]))


def _file(document: Any, kind: type[Root] | type[Targets]) -> Metadata[Any]:
    found = Metadata[Any].from_dict(document)
    if not isinstance(found.signed, kind):
        raise BadCeremonyFileError("one of its files is of another role")
    canonical(found.signed.to_dict())  # what cannot be signed cannot be compared either
    return found
