"""Which signatures a request has, and which it lacks: the rule of TUF, which the library that devices use decides here too.

A new root needs the threshold of the old root and that of the new one (TUF specification 1.0.31, section 5.3.4); targets that of the root
that will hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuf.api.metadata import Root, Signature  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.root_fields import holder_names
from edgefleet_ceremony.signature_request import SigningAnswer, SigningRequest

OF_TODAY, OF_THE_NEW = "root of today", "new root"


@dataclass(frozen=True)
class Threshold:
    """One threshold of a request. by: which root asks for it. signed, unsigned: holders of keys, or key ids without one."""

    role: str
    by: str
    needed: int
    signed: Sequence[str]
    unsigned: Sequence[str]

    @property
    def missing(self) -> int:
        """How many signatures are still to come."""
        return max(0, self.needed - len(self.signed))


def thresholds_of(request: SigningRequest) -> list[Threshold]:
    """Return every threshold that a request has to meet, by the signatures that are valid."""
    found = []
    today, after = request.current["root"].signed, request.root_after()
    if "root" in request.proposed:
        found += [_threshold(request, "root", OF_TODAY, today), _threshold(request, "root", OF_THE_NEW, after)]
    if "targets" in request.proposed:
        by = OF_THE_NEW if "root" in request.proposed else OF_TODAY
        found.append(_threshold(request, "targets", by, after))
    return found


def is_met(request: SigningRequest) -> bool:
    """Return whether a request has all the signatures that it needs."""
    return all(one.missing == 0 for one in thresholds_of(request))


def add_signatures(request: SigningRequest, answer: SigningAnswer) -> tuple[list[str], list[str]]:
    """Add the valid signatures of an answer to a request; return which (`role by holder`), and what was refused and why."""
    added, refused = [], []
    for role, signatures in answer.signatures.items():
        for signature in signatures:
            reason = _refusal(request, role, signature)
            if reason:
                refused.append(f"{role} by {signature.keyid[:12]}: {reason}")
            else:
                request.proposed[role].signatures[signature.keyid] = signature
                added.append(f"{role} by {_names(request).get(signature.keyid, signature.keyid[:12])}")
    return added, refused


def wanted_keys(request: SigningRequest, role: str) -> frozenset[str]:
    """Return the ids of all keys whose signature counts for a role of the request."""
    if role not in request.proposed:
        return frozenset()
    roots = [request.root_after(), *([request.current["root"].signed] if role == "root" else [])]
    return frozenset(keyid for root in roots for keyid in root.roles[role].keyids)


def _refusal(request: SigningRequest, role: str, signature: Signature) -> str:
    if role not in request.proposed:
        return "the request does not ask for it"
    if signature.keyid not in wanted_keys(request, role):
        return "this key has no say in it"
    roots: list[Root] = [request.root_after(), request.current["root"].signed]
    key = next(root.keys[signature.keyid] for root in roots if signature.keyid in root.keys)
    signed = request.proposed[role].signed_bytes
    try:
        key.verify_signature(signature, signed)
    except Exception:  # noqa: BLE001 - whatever the library says of it, it does not count
        return "the signature is wrong"
    return ""


def _names(request: SigningRequest) -> dict[str, str]:
    today = holder_names(request.current["root"].signed.to_dict())
    return {**today, **holder_names(request.root_after().to_dict())}


def _threshold(request: SigningRequest, role: str, by: str, root: Root) -> Threshold:
    proposed = request.proposed[role]
    result = root.get_verification_result(role, proposed.signed_bytes, proposed.signatures)
    names = _names(request)
    signed, unsigned = (
        sorted(names.get(keyid, keyid[:12]) for keyid in found) for found in (result.signed, result.unsigned)
    )
    return Threshold(role, by, result.threshold, signed, unsigned)
