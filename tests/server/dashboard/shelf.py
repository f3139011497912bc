"""Releases as the conversion worker leaves them: real bundles, jobs that ended, and devices that report how the bundles do."""

from collections.abc import Mapping
from typing import Any

import msgspec

from edgefleet_protocol.blocks import LEAF_BYTES, leaf_index
from edgefleet_protocol.bundle import write_bundle
from edgefleet_protocol.ids import ProfileName, ReleaseRef, target_path
from edgefleet_protocol.messages import Phase, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.conversion.model import JobState
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.registry.model import BundleView, Publication, SourceFile
from tests.server.dashboard.fleet import LITERT, ORT, Device, Fleet
from tests.support.samples import MANIFEST

METRIC = {"name": "top1", "value": 0.975, "baseline": 0.978, "drop": 0.003, "n": 360, "data": "evaluation data"}
WORK = {
    "nodes": 4,
    "macs": {"conv.int8": 90_000},
    "weight_bytes": 9000,
    "activation_bytes": 4000,
    "largest_bytes": 2048,
}
REPORT = {
    "bytes": 40_960, "fp32_bytes": 163_840, "ratio": 0.25, "metric": METRIC, "latency_ms": {"p50": 0.81, "p95": 0.93},
    "peak_rss_bytes": 52_428_800, "runtimes": [{"name": "onnxruntime", "version": "1.32.0"}], "verdict": "passed",
    "work": WORK,
}  # fmt: skip


def shelve(
    fleet: Fleet,
    ref: str,
    *profiles: str,
    refuse: Mapping[str, str] | None = None,
    size: int = 900,
    lineage: Mapping[str, str] | None = None,
    report: str = "",
    **changes: Any,
) -> ReleaseRef:
    """Publish a release and end its jobs: a signed bundle for each profile, but those that are refused with a reason.

    report: digest of a stored report of the conversion.
    """
    parsed, registry = ReleaseRef.parse(ref), fleet.parts.registry
    refused = dict(refuse or {})
    source = registry.put_blob_bytes(f"source of {ref}".encode())
    file = SourceFile("digits.onnx", source, len(f"source of {ref}"))
    names = tuple(ProfileName(name) for name in (*profiles, *refused))
    options = {"precision": "auto", "max_drop": 0.01, "metric": None}
    told = Publication(parsed, "file", (file,), names, (), {"eval": source}, options, lineage=dict(lineage or {}))
    registry.publish(told, "ann")
    while (job := fleet.parts.conversion.claim("test")[0]) is not None:
        if job.spec.profile in refused:
            reason = refused[job.spec.profile]
            fleet.parts.conversion.finish(job, JobState.REFUSED, "convert.metric", reason, "give more calibration data")
        else:
            bundled(fleet, parsed, job.spec.profile, size=size, **changes)
            fleet.parts.conversion.finish(job, JobState.DONE, report=report)
    registry.refresh_state(parsed)
    return parsed


def bundled(
    fleet: Fleet,
    ref: ReleaseRef,
    profile: ProfileName,
    *,
    size: int = 900,
    members: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> None:
    """Store and sign a bundle. members: in addition to those that each has."""
    manifest = msgspec.structs.replace(
        MANIFEST, model=ref.model, version=ref.version, profile=profile, members={}, source_sha256="b" * 64
    )
    inside = {
        "model.onnx": b"m" * size,
        "labels.txt": b"zero\none\n",
        "golden.npz": b"golden of " + ref.version.encode(),
        **(members or {}),
    }
    data, registry = write_bundle(inside, manifest), fleet.parts.registry
    target = target_path(ref.model, ref.version, profile)
    with fleet.parts.db.session():
        sha256, leaves = registry.put_blob_bytes(data), registry.put_blob_bytes(leaf_index(data))
        named = {"model": ref.model, "version": ref.version, "profile": profile}
        fleet.parts.signing.add_target(target, len(data), sha256, {"leaves": leaves, "leaf_bytes": LEAF_BYTES, **named})
        view = BundleView(
            ref=ref, profile=profile, target=target, sha256=sha256, length=len(data), leaves=leaves, runtime="ort",
            precision="int8", signed_at=fleet.parts.clock.now(), report={**REPORT, **changes},
        )  # fmt: skip
        registry.accept_bundle(registry.with_forecast(view))
    fleet.digests[target] = sha256


def measured(
    fleet: Fleet, device: Device, ref: str, *, p50_ms: float, errors: int = 0, n: int = 200, profile: str = ORT
) -> None:
    """Let a device report three windows of its bundle."""
    parsed = ReleaseRef.parse(ref)
    sha256 = fleet.digests[target_path(parsed.model, parsed.version, ProfileName(profile))]
    sketch = LatencySketch()
    for index in range(n):
        sketch.add(p50_ms * (1 if index < 0.9 * n else 1.6) / 1000)
    for _ in range(3):
        device.seq += 1
        now_s = int(fleet.house.clock.now().timestamp())
        window = Window(
            t0=now_s, length_s=60, model=parsed.model, lane="active", sha256=sha256,
            version=parsed.version, n=n, errors=errors, latency=sketch.packed(), worker_rss_bytes=48 * 1024 * 1024,
        )  # fmt: skip
        told = Telemetry(device=device.id, boot_id="b1", seq=device.seq, ts=now_s * 1000, windows=[window])
        fleet.parts.telemetry.ingest([told])


def stocked(fleet: Fleet) -> None:
    """Publish two versions of digits, one of them refused for a profile, and give them to three devices that report figures."""
    shelve(fleet, "digits@1.0.0", ORT)
    fleet.house.clock.turn(hours=1)
    better: dict[str, Any] = {
        "metric": {
            "name": "top1",
            "value": 0.985,
            "baseline": 0.978,
            "drop": -0.007,
            "n": 360,
            "data": "evaluation data",
        }
    }
    shelve(fleet, "digits@1.1.0", ORT, refuse={LITERT: "top1 fell by 0.0412"}, size=2000, bytes=61_440, **better)
    devices = [fleet.device(f"cam{n}") for n in range(3)]
    for number, device in enumerate(devices):
        ref = "digits@1.0.0" if number == 0 else "digits@1.1.0"
        fleet.parts.fleet.deployer.deploy(ReleaseRef.parse(ref), device=device.id)
        device.report(Phase.COMMITTED)
        measured(fleet, device, ref, p50_ms=4.0 if number == 0 else 3.0, errors=8 if number == 0 else 0)
    fleet.house.clock.turn(minutes=1)  # what was learnt when they were published is not kept longer
    presence = {str(one.id): fleet.parts.fleet.reader.device(one.id).status for one in devices}
    assert set(presence.values()) == {DeviceStatus.ONLINE}, presence
