"""A request for signatures, and the answer of one holder: files that are carried between the server and machines without a network.

A request holds the files of today and those to be signed, whole, so that a holder sees what changes without believing the server's words.
Its id is a digest of what is to be signed: an answer can belong to no other request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Metadata,
    Root,
    Signature,
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
from edgefleet_ceremony.root_fields import OFFLINE_ROLES
from edgefleet_protocol.digest import sha256_hex

REQUEST_FORMAT: Final = "edgefleet-signing-request/1"
ANSWER_FORMAT: Final = "edgefleet-signing-answer/1"
ID_DIGITS: Final = 16
MAX_SIGNATURES: Final = 64


@dataclass(frozen=True, kw_only=True)
class SigningRequest:
    """What is to be signed. current: root and targets as they are. proposed: one of them or both, with the signatures so far."""

    purpose: str
    made_at: datetime
    current: Mapping[str, Metadata[Any]]
    proposed: Mapping[str, Metadata[Any]]

    @property
    def id(self) -> str:
        """The digest of what is to be signed, short."""
        return sha256_hex(canonical({role: one.signed.to_dict() for role, one in self.proposed.items()}))[:ID_DIGITS]

    def root_after(self) -> Root:
        """Return the root that holds when all is signed."""
        found = self.proposed.get("root", self.current["root"]).signed
        assert isinstance(found, Root)
        return found


@dataclass(frozen=True, kw_only=True)
class SigningAnswer:
    """Signatures of one holder by role."""

    request: str
    signatures: Mapping[str, Sequence[Signature]]


def request_bytes(request: SigningRequest) -> bytes:
    """Return the file."""
    return write_document(
        {
            "format": REQUEST_FORMAT,
            "id": request.id,
            "purpose": request.purpose,
            "made_at": request.made_at.isoformat(),
            "current": {role: one.to_dict() for role, one in request.current.items()},
            "proposed": {role: one.to_dict() for role, one in request.proposed.items()},
        }
    )


def request_of(data: bytes) -> SigningRequest:
    """Return the request of a file. Nothing of it is verified but its form, its id and those of keys. Raises BadCeremonyFileError."""
    found = read_document(data, REQUEST_FORMAT)
    current, proposed = _files(found.get("current")), _files(found.get("proposed"))
    if set(current) != set(OFFLINE_ROLES) or not proposed:
        raise BadCeremonyFileError("it must hold root and targets as they are, and what is to be signed")
    request = SigningRequest(
        purpose=str(found.get("purpose", ""))[:200],
        made_at=moment_of(found.get("made_at")),
        current=current,
        proposed=proposed,
    )
    if request.id != found.get("id"):
        raise BadCeremonyFileError("its id does not belong to what is to be signed: it was changed on its way")
    return request


def answer_bytes(answer: SigningAnswer) -> bytes:
    """Return the file."""
    signatures = {role: [one.to_dict() for one in signed] for role, signed in answer.signatures.items()}
    return write_document({"format": ANSWER_FORMAT, "request": answer.request, "signatures": signatures})


def answer_of(data: bytes) -> SigningAnswer:
    """Return the answer of a file. No signature is verified. Raises BadCeremonyFileError."""
    found = read_document(data, ANSWER_FORMAT)
    signatures = found.get("signatures")
    if not isinstance(signatures, dict) or not signatures or not set(signatures) <= set(OFFLINE_ROLES):
        raise BadCeremonyFileError(f"it must hold signatures of {' or '.join(OFFLINE_ROLES)}")
    if sum(len(signed) if isinstance(signed, list) else 1 for signed in signatures.values()) > MAX_SIGNATURES:
        raise BadCeremonyFileError(f"it holds more than {MAX_SIGNATURES} signatures")
    try:
        made = {role: [Signature.from_dict(dict(one)) for one in signed] for role, signed in signatures.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise BadCeremonyFileError("one of its signatures cannot be read") from error
    return SigningAnswer(request=str(found.get("request", ""))[:ID_DIGITS], signatures=made)


def _files(documents: Any) -> dict[str, Metadata[Any]]:
    kinds = {"root": Root, "targets": Targets}
    if not isinstance(documents, dict) or not set(documents) <= set(kinds):
        raise BadCeremonyFileError("its TUF files cannot be read")
    found: dict[str, Metadata[Any]] = {}
    for role, document in documents.items():
        try:
            found[role] = Metadata[Any].from_dict(document)
        except (ValueError, KeyError, TypeError, AttributeError, RepositoryError) as error:
            raise BadCeremonyFileError(f"its file of {role} cannot be read: {error}") from error
        if not isinstance(found[role].signed, kinds[role]):
            raise BadCeremonyFileError(f"its file of {role} is of another role")
        _check_keys(role, found[role].signed)
    return found


def _check_keys(role: str, signed: Root | Targets) -> None:
    """Refuse a key under the id of another: holders compare ids, and the library that devices use takes any id for any key."""
    canonical(signed.to_dict())  # what cannot be signed cannot be shown or compared either
    delegations = signed.delegations if isinstance(signed, Targets) else None
    keys = signed.keys if isinstance(signed, Root) else delegations.keys if delegations is not None else {}
    for keyid, key in keys.items():
        if key_id(key.keytype, key.scheme, key.keyval) != keyid:
            raise BadCeremonyFileError(f"its file of {role} holds another key under the id {keyid[:12]}: a server lies")
    delegated = (delegations.roles or {}).values() if delegations is not None else ()
    words = [
        keyid
        for one in (*delegated, *(signed.roles.values() if isinstance(signed, Root) else ()))
        for keyid in one.keyids
    ]
    words += [word for one in delegated for word in (one.name, *(one.paths or ()))]
    if not all(isinstance(one, str) for one in words):
        raise BadCeremonyFileError(f"its file of {role} has names, ids of keys or paths that are no text")
