"""Signing a request where the keys are: what it changes, whether its root is to be believed, and the answer.

Rule: the words of a request are the server's, and a server may be stolen. So what changes is read from the files, against a root that
this holder signed before: the root of today must be that one, or one that the holders of that one signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgefleet_ceremony.file_format import BadCeremonyFileError, canonical
from edgefleet_cli.keys.errors import BadRequestFileError, RootNotTrustedError
from edgefleet_cli.keys.holder_folder import read_file, remembered_root

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
    from tuf.api.metadata import Metadata

    from edgefleet_ceremony.signature_request import SigningAnswer, SigningRequest

_STANDS_ON: Final = "x-edgefleet-stands-on"
"""Of a remembered root: the fingerprint of the root of today that it was signed to follow."""


def read_request(path: Path) -> SigningRequest:
    """Return the request of a file. Raises BadRequestFileError."""
    from edgefleet_ceremony.signature_request import request_of

    try:
        return request_of(read_file(path))
    except BadCeremonyFileError as error:
        raise BadRequestFileError(
            f"{path} is no request for signatures",
            why=str(error),
            next_step="write it again where the server is: `edgectl key ceremony --out FILE`",
        ) from error


def fingerprint(root: Metadata[Any]) -> str:
    """Return the SHA-256 of what a root says, without its signatures."""
    import hashlib

    return hashlib.sha256(canonical(root.signed.to_dict())).hexdigest()


def check_root(request: SigningRequest, where: Path, trusted: str | None) -> str:
    """Return in words why the root of today is believed: signed by this holder or its fellows, or named by `trusted` (fingerprint).

    Raises RootNotTrustedError. For the first request that a medium sees, the caller asks the holder.
    """
    from tuf.api.metadata import Metadata

    today, targets = request.current["root"], request.current["targets"]
    own = fingerprint(today)
    try:
        today.signed.verify_delegate("root", today.signed_bytes, today.signatures)
        today.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    except Exception as error:
        raise RootNotTrustedError(
            "what the request says of today is not signed by the root of today",
            why=str(error),
            next_step="do not sign it: either it was damaged, or a server lies. Ask the other holders",
        ) from error
    if trusted is not None:
        if trusted.lower() != own:
            raise RootNotTrustedError(
                "the root of today is not the one that was named",
                why=f"its fingerprint is {own}, --trust-root says {trusted}",
                next_step="ask for the request again, and do not sign this one",
            )
        return "its fingerprint is the one that was named"
    raw = remembered_root(where)
    return "" if raw is None else _check_memory(request, Metadata[Any].from_bytes(raw), own)


def memory_of(request: SigningRequest) -> bytes:
    """Return what a medium is to remember of a request that it signs: the root that holds then, and which one that stands on."""
    from tuf.api.metadata import Metadata

    root = request.proposed.get("root", request.current["root"])
    document = {**root.to_dict(), _STANDS_ON: fingerprint(request.current["root"])}
    return Metadata[Any].from_dict(document).to_bytes()


def _check_memory(request: SigningRequest, known: Metadata[Any], own: str) -> str:
    """Check the root of today (fingerprint `own`) against the one that was signed last. Raises RootNotTrustedError."""
    today, proposed = request.current["root"], request.proposed.get("root")
    if fingerprint(known) == own:
        return "this holder signed it"
    is_same_base = known.unrecognized_fields.get(_STANDS_ON) == own
    if is_same_base and proposed is not None and fingerprint(proposed) == fingerprint(known):
        return "this holder signed the new root of this request before, on the same root of today"
    try:
        if is_same_base:
            raise ValueError("this holder signed another successor of it, and that one never came into force")
        if today.signed.version <= known.signed.version:
            raise ValueError("it is not newer than the one that this holder signed")
        known.signed.verify_delegate("root", today.signed_bytes, today.signatures)
    except Exception as error:
        raise RootNotTrustedError(
            f"this holder signed another root (version {known.signed.version}) than the one of today",
            why=f"{error if is_same_base else f'nor is it signed by the holders of that one: {error}'}; its fingerprint is {own}",
            next_step="ask the other holders whether the request before was dropped, and which root is the one of today; "
            "if they say this one: --trust-root FINGERPRINT",
        ) from error
    return f"it is signed by the holders of version {known.signed.version}, which this holder signed"


def signed_by(request: SigningRequest, signers: Sequence[CryptoSigner]) -> SigningAnswer:
    """Return the answer of these keys. Raises BadRequestFileError when none of them has a say."""
    from edgefleet_ceremony.signature_request import SigningAnswer
    from edgefleet_ceremony.signature_threshold import wanted_keys

    signatures: dict[str, list[Any]] = {}
    for role, file in request.proposed.items():
        for signer in signers:
            if signer.public_key.keyid in wanted_keys(request, role):
                signatures.setdefault(role, []).append(signer.sign(file.signed_bytes))
    if not signatures:
        raise BadRequestFileError(
            "none of these keys has a say in this request",
            why="neither the root of today nor the new one names them",
            next_step="give the medium of a holder whom the request names: `edgectl key ceremony` shows them",
        )
    return SigningAnswer(request=request.id, signatures=signatures)
