"""What an archive of evidence proves, and what it does not: checked with public keys alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgefleet_cli.audit.entry_proof import EntryProof, ProvenEntry, SignedFiles, what_fails
from edgefleet_cli.audit.errors import TrailNotProvenError
from edgefleet_cli.audit.published_head import check_signed
from edgefleet_cli.compliance.errors import EvidenceFailedError, EvidenceNotProvenError
from edgefleet_cli.compliance.evidence_archive import Unpacked
from edgefleet_cli.compliance.trusted_roles import TrustedRoles
from edgefleet_cli.core.structs import Struct
from edgefleet_protocol.envelope import pae
from edgefleet_terms.audit_chain.audit_head import AuditHead, BadHeadError, head_of
from edgefleet_terms.evidence.evidence_manifest import (
    FAILURE,
    MANIFEST,
    PAYLOAD_TYPE,
    SIGNATURE,
    BadEvidenceError,
    EvidenceManifest,
    EvidenceSignature,
    manifest_of,
    signature_of,
)

_AGAIN: Final = "somebody changed the archive: compare with another copy, or make it again"
_NEVER: Final = (
    "that measured figures are right: the archive proves that the server recorded them",
    "that nothing was done outside edgefleet, or was never recorded",
)
_APPROVE: Final = "approve_rollout"
_SUCCESS: Final = range(200, 300)


class _Line(Struct, frozen=True, kw_only=True):
    """An entry of the audit trail with its way to the head, as a line of `audit/entries.jsonl` has it."""

    before: str
    entry: ProvenEntry
    path: tuple[str, ...]


@dataclass
class Verdict:
    """What a check found. wrong: what contradicts itself; then nothing in the archive is to be relied on."""

    manifest: EvidenceManifest
    root_sha256: str = ""
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def manifest_in(files: Sequence[Unpacked]) -> tuple[EvidenceManifest, bytes, EvidenceSignature]:
    """Return the manifest of an archive, its bytes and its signature, once every file is the one that it names, in its order.

    Raises EvidenceNotProvenError, EvidenceFailedError.
    """
    by_path = {one.path: one for one in files}
    if FAILURE in by_path:
        said = json.loads(by_path[FAILURE].data())
        raise EvidenceFailedError(
            "the server could not finish the evidence",
            why=str(said.get("detail", "")),
            next_step=str(said.get("next", "")),
        )
    if len(by_path) != len(files):
        raise _changed("a file stands in it twice")
    if MANIFEST not in by_path or SIGNATURE not in by_path:
        raise _changed(f"it has no {MANIFEST if MANIFEST not in by_path else SIGNATURE}: it is not whole")
    data = by_path[MANIFEST].data()
    try:
        manifest, signature = manifest_of(data), signature_of(by_path[SIGNATURE].data())
    except BadEvidenceError as error:
        raise _changed(f"its manifest or the signature of it was changed: {error}") from error
    wanted = [one.path for one in manifest.files] + [MANIFEST, SIGNATURE]
    found = [one.path for one in files]
    missing, added = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or added:
        raise _changed(f"{missing[0]} is missing" if missing else f"{added[0]} was added")
    for one in manifest.files:
        if by_path[one.path].sha256 != one.sha256 or by_path[one.path].length != one.length:
            raise _changed(f"{one.path} was changed")
    if found != wanted:
        place = next(i for i, path in enumerate(wanted) if found[i] != path)
        raise _changed(f"{found[place]} stands where {wanted[place]} should")
    return manifest, data, signature


def check_evidence(
    files: Sequence[Unpacked],
    *,
    trusted: Collection[str] = (),
    public_key: bytes | None = None,
    advance: Callable[[int], None] = lambda _count: None,
) -> Verdict:
    """Check an archive that was unpacked. trusted: SHA-256 of roots; public_key: the audit trail's, PEM, in place of a root.

    Raises EvidenceNotProvenError, EvidenceFailedError.
    """
    manifest, data, signature = manifest_in(files)
    verdict, by_path = Verdict(manifest), {one.path: one for one in files}
    roles = None
    if public_key is None or trusted:
        trust = {path.removeprefix("trust/"): one.data() for path, one in by_path.items() if path.startswith("trust/")}
        roles = TrustedRoles(trust, trusted)
        verdict.root_sha256 = roles.root_sha256
    key = (
        _given_key(public_key, signature.keyid)
        if public_key is not None
        else roles and roles.audit_key(signature.keyid)
    )
    _check_signature(key, signature, data)
    verdict.proved.append(
        f"all {len(manifest.files)} files are those that the server signed at {manifest.made_at}, unchanged and in order"
    )
    try:
        _check_bundles(verdict, by_path, roles)
        entries = _check_trail(verdict, by_path, roles, advance)
        _check_approvals(verdict, by_path, entries)
        _look_at_cards(verdict, by_path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # msgspec's are ValueErrors
        raise _changed(f"one of its files is not what its name says: {error!r}"[:200]) from error
    verdict.not_proved += [f"{one.what} is not in it: {one.why}" for one in manifest.left_out]
    verdict.not_proved += _NEVER
    return verdict


def _check_signature(key: Any, signature: EvidenceSignature, data: bytes) -> None:
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # documented, but not in __all__

    try:
        key.verify_signature(Signature(signature.keyid, signature.sig), pae(PAYLOAD_TYPE, data))
    except (UnverifiedSignatureError, VerificationError) as error:
        raise _changed("the signature of its manifest does not hold") from error


def _given_key(pem: bytes, keyid: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__

    try:
        key = SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, TypeError) as error:
        raise EvidenceNotProvenError(
            "this is no public key",
            why=str(error),
            next_step="give the PEM file that `edgectl key export-public audit` prints",
        ) from error
    if key.keyid != keyid:
        raise EvidenceNotProvenError(
            "the manifest is signed by another key",
            why=f"by {keyid[:12]}, and {key.keyid[:12]} was given",
            next_step="ask the server's owner for the audit trail's public key of that time, or give --root-sha256",
        )
    return key


def _check_bundles(verdict: Verdict, by_path: Mapping[str, Unpacked], roles: TrustedRoles | None) -> None:
    bundles = _json(by_path, "bundles.json") or []
    if roles is None:
        verdict.not_proved.append("who signed the bundles: that needs a root of trust (--root-sha256)")
        return
    signed = 0
    for one in bundles:
        name, found = f"{one['model']}@{one['version']} for {one['profile']}", roles.target(one["target"])
        if found is None:
            verdict.not_proved.append(f"the bundle {name}: nothing signed names it any more, as after a withdrawal")
        elif found.sha256 != one["sha256"]:
            verdict.wrong.append(f"the bundle {name} is signed with another digest")
        else:
            signed += 1
            whose = "its team" if found.is_team else "the server"
            verdict.proved.append(f"the bundle {name}, {one['sha256'][:16]}, is signed by {whose} as {found.role}")
    if not bundles:
        verdict.not_proved.append("any bundle: the model has none")


def _check_trail(
    verdict: Verdict, by_path: Mapping[str, Unpacked], roles: TrustedRoles | None, advance: Callable[[int], None]
) -> list[ProvenEntry]:
    """Check that each entry is under the head, and the head under the root; return the entries."""
    try:
        head = head_of(by_path["audit/head.json"].data())
    except (BadHeadError, KeyError) as error:
        verdict.wrong.append(f"the head of the audit trail is none: {error}")
        return []
    if head.size != verdict.manifest.head_size:
        verdict.wrong.append(
            f"the manifest says that the head is over {verdict.manifest.head_size} entries, not {head.size}"
        )
    entries = []
    for proof in _proofs(by_path["audit/entries.jsonl"], head):
        fails = what_fails(proof)
        if fails:
            verdict.wrong.append(fails)
            continue
        entries.append(proof.entry)
        advance(1)
    verdict.proved.append(f"{len(entries)} entries of the audit trail are under its head over {head.size} entries")
    if roles is None:
        verdict.not_proved.append("that this head was published: that needs a root of trust (--root-sha256)")
        return entries
    texts = {
        path.removeprefix("trust/"): one.data().decode() for path, one in by_path.items() if path.startswith("trust/")
    }
    roots = [texts[f"{n}.root.json"] for n in range(1, len(texts) + 1) if f"{n}.root.json" in texts]
    signed = SignedFiles(audit=texts["audit.json"], targets=texts["targets.json"], roots=tuple(roots))
    try:
        check_signed(signed, head, {roles.root_sha256})
        verdict.proved.append("this head was published and signed, so no entry below it can be changed unseen")
    except TrailNotProvenError as error:
        verdict.not_proved.append(f"that this head was published: {error.why}")
    return entries


def _proofs(file: Unpacked, head: AuditHead) -> Iterator[EntryProof]:
    import msgspec

    nothing = SignedFiles(audit="", roots=(), targets="")
    with file.open() as lines:
        for line in lines:
            found = msgspec.json.decode(line, type=_Line)
            yield EntryProof(before=found.before, entry=found.entry, head=head, path=found.path, signed=nothing)


def _check_approvals(verdict: Verdict, by_path: Mapping[str, Unpacked], entries: Sequence[ProvenEntry]) -> None:
    """Hold the approvals of rollouts against the trail: each was a request of somebody."""
    asked = {
        (one.object.rpartition("/")[2].partition(":")[0], one.actor)
        for one in entries
        if one.action == _APPROVE and one.status in _SUCCESS
    }
    for path in (path for path in by_path if path.startswith("rollouts/") and path.endswith("/rollout.json")):
        rollout = _json(by_path, path)
        for by in sorted(set(_approvers(rollout))):
            name = rollout["id"]
            if any(name == of and (actor == by or actor.startswith(f"{by} (")) for of, actor in asked):
                verdict.proved.append(f"{by} approved the rollout {name}: the request is in the audit trail")
            else:
                verdict.not_proved.append(f"that {by} approved the rollout {name}: the archive has no entry of it")


def _approvers(rollout: Mapping[str, Any]) -> Iterator[str]:
    for stage in rollout.get("stages") or ():
        for cell in stage.get("strata") or ():
            by = (cell.get("approval") or {}).get("approved_by")
            if by:
                yield by


def _look_at_cards(verdict: Verdict, by_path: Mapping[str, Unpacked]) -> None:
    """Name what a model card says in somebody's words, which nothing measured."""
    cards = [path for path in by_path if path.startswith("releases/") and path.endswith("/card.json")]
    for path in cards:
        said = said_by_people(_json(by_path, path))
        if said:
            verdict.not_proved.append(f"in {path}, as a person said it: {', '.join(said)}")
    if not cards:
        verdict.not_proved.append("a model card: no release here has one")


def said_by_people(card: Any) -> list[str]:
    """Return the names of a card's fields that a person filled in, sorted."""
    return sorted(
        str(fact["name"])
        for section in card.get("sections", ())
        for fact in section["facts"]
        if fact["origin"] == "stated"
    )


def _json(by_path: Mapping[str, Unpacked], path: str) -> Any:
    return json.loads(by_path[path].data()) if path in by_path else None


def _changed(why: str) -> EvidenceNotProvenError:
    return EvidenceNotProvenError("this evidence proves nothing", why=why, next_step=_AGAIN)
