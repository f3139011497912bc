"""What a conversion worker does to a release, without a child: it claims the oldest job, and signs a bundle or refuses."""

from __future__ import annotations

from edgefleet_protocol.ids import target_path
from edgefleet_server.access.model import Role
from edgefleet_server.conversion.model import ClaimedJob, JobState
from edgefleet_server.registry.model import BundleView
from tests.support.servers import ApiHouse, release_body


def work(house: ApiHouse) -> ClaimedJob:
    """Claim the oldest job, which must be there."""
    job, _ = house.parts.conversion.claim("w")
    assert job is not None
    return job


def refuse(house: ApiHouse, code: str = "convert.gate", reason: str = "too much is lost", report: str = "") -> None:
    """Refuse the oldest job."""
    job = work(house)
    with house.parts.db.session():
        house.parts.conversion.finish(job, JobState.REFUSED, code, reason, "change the model", report)
        house.parts.registry.refresh_state(job.spec.ref)


def sign(house: ApiHouse, data: bytes = b"") -> BundleView:
    """Sign a bundle for the oldest job, as the engine does, or keep it for the team of its model. data: of the bundle."""
    job, parts = work(house), house.parts
    ref, profile = job.spec.ref, job.spec.profile
    data = data or f"bundle of {ref} for {profile}".encode()
    target = target_path(ref.model, ref.version, profile)
    view = BundleView(
        ref, profile, target, parts.registry.put_blob_bytes(data), len(data), parts.registry.put_blob_bytes(b"l" * 32),
        "onnxruntime", "fp32", house.clock.now(),
    )  # fmt: skip
    with parts.db.session():
        is_unsigned = parts.signing.is_of_a_team(ref.model)
        if not is_unsigned:
            parts.signing.add_target(target, view.length, view.sha256, {"leaves": view.leaves})
        parts.conversion.finish(job, JobState.DONE)
        (parts.registry.unsigned.add if is_unsigned else parts.registry.accept_bundle)(view)
        parts.registry.refresh_state(ref)
    return view


def signed(house: ApiHouse, **changes: str) -> BundleView:
    """Publish `digits@1.0.0` (or what `changes` say) and sign its bundle."""
    house.put(b"a model")
    answer = house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"a model", **changes))
    assert answer.status_code == 201, answer.text
    return sign(house)
