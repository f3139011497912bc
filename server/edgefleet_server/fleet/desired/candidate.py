"""Candidates, which run next to the active version: which documents name one, and how it gets there. Pure.

Rules:
- A measurement needs no active bundle, may be of the active one, and never takes the place of a shadow or a split. Asked for
  again, it is another attempt: the device measures once for each.
- Otherwise a document gets a candidate only for a model that it has an active bundle of, and never the active bundle itself.
- The salt of a split is made of the release's name unless one is given: the same keys go to the candidate on every device,
  and still do when the share is changed later. A larger share only adds keys to the candidate's lane, a smaller one only
  takes some away.
- Whatever makes another bundle active (`deploy`, a rollout) ends the candidate of that model.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from edgefleet_protocol.desired import ModelDesired, Ref
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.model import CandidateOrder, SignedDesired
from edgefleet_server.registry.model import BundleView

Written = tuple[SignedDesired, bool] | str
"""A device's document and whether it was signed again, or why it has no such candidate."""


@dataclass(frozen=True)
class CandidateRequest:
    """A bundle to run as the candidate of a model, or no more (`end`)."""

    model: ModelName
    ref: Ref
    order: CandidateOrder


def salt_of(release: str, given: str = "") -> str:
    """Return the salt of a release's split."""
    return given or hashlib.sha256(b"split\0" + release.encode()).hexdigest()[:16]


def with_candidate(models: Mapping[str, ModelDesired], request: CandidateRequest) -> dict[str, ModelDesired] | str:
    """Return the document's models with the request carried out, or why that cannot be; the same models when nothing changes."""
    known = models.get(request.model)
    if request.order.mode == "measure":
        return _with_measurement(models, request, known)
    if request.order.mode == "end" and known is not None and known.active is None:
        return {model: desired for model, desired in models.items() if model != request.model}
    if known is None or known.active is None:
        return f"no version of {request.model} is active there"
    ref, order = request.ref, request.order
    has_it = known.candidate is not None and known.candidate.sha256 == ref.sha256
    if order.mode == "end":
        if not has_it:
            return "it does not run beside the active version there"
        return {**models, request.model: ModelDesired(active=known.active)}
    if known.active.sha256 == ref.sha256:
        return "it is the active version there"
    candidate = known.candidate if has_it else ref
    after = msgspec.structs.replace(
        known, candidate=candidate, mode=order.mode, share_pct=order.share_pct, salt=order.salt
    )
    return {**models, request.model: after}


def _with_measurement(
    models: Mapping[str, ModelDesired], request: CandidateRequest, known: ModelDesired | None
) -> dict[str, ModelDesired] | str:
    before = known.candidate if known is not None else None
    if known is not None and known.mode in ("shadow", "split"):
        return f"a {known.mode} of another release runs there; end that first"
    attempt = before.attempt + 1 if before is not None and before.sha256 == request.ref.sha256 else 1
    ref = msgspec.structs.replace(request.ref, attempt=attempt)
    active = known.active if known is not None else None
    return {**models, request.model: ModelDesired(active=active, candidate=ref, mode="measure")}


def candidate_requests(
    bundles: Mapping[DeviceId, BundleView], order: CandidateOrder
) -> dict[DeviceId, CandidateRequest]:
    """Return what each device's document is to say."""
    requests = {}
    for device, bundle in bundles.items():
        ref = Ref(target=bundle.target, sha256=bundle.sha256, length=bundle.length)
        salt = salt_of(str(bundle.ref), order.salt) if order.mode == "split" else ""
        requests[device] = CandidateRequest(bundle.ref.model, ref, replace(order, salt=salt))
    return requests


def candidate_events(
    written: Mapping[DeviceId, Written], bundles: Mapping[DeviceId, BundleView], order: CandidateOrder, by: str
) -> list[NewEvent]:
    """Return one event for each document that was signed again."""
    events = []
    for device, done in written.items():
        if isinstance(done, str) or not done[1]:
            continue
        ref = bundles[device].ref
        detail = {"release": str(ref), "gen": done[0].gen, "by": by, "mode": order.mode, "share_pct": order.share_pct}
        events.append(NewEvent("desired", device, ref.model, detail=detail))
    return events
