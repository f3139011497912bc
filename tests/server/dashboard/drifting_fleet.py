"""A fleet whose model drifts at one site: for the pages of drift, and for everything that must be reachable from them."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any

from edgefleet_protocol.drift.reference import MEMBER, write_reference
from edgefleet_protocol.ids import ProfileName, ReleaseRef, target_path
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.conversion.model import JobState
from edgefleet_server.registry.model import Publication, SourceFile
from tests.server.dashboard.fleet import ORT, Device, Fleet
from tests.server.dashboard.shelf import bundled
from tests.server.telemetry.drifting import counted, message, reference, window

MADE = reference(20_000)
SITES = ("berlin", "lyon", "osaka")


def pumps(
    fleet: Fleet, shift: Callable[[int], Mapping[str, float]] | None = None, report: Mapping[str, Any] | None = None
) -> list[Device]:
    """Return twelve devices, four at each site, that report two hours of pump@1.0.0.

    shift: of each; else those of lyon run warm. report: of the conversion.
    """
    ref, profile, registry = ReleaseRef.parse("pump@1.0.0"), ProfileName(ORT), fleet.parts.registry
    file = SourceFile("pump.onnx", registry.put_blob_bytes(b"a pump"), len(b"a pump"))
    registry.publish(Publication(ref, "file", (file,), (profile,), (), {}, {}), "test")
    bundled(fleet, ref, profile, members={MEMBER: write_reference(MADE)})
    if report is not None:
        job = fleet.parts.conversion.claim("test")[0]
        assert job is not None
        fleet.parts.conversion.finish(job, JobState.DONE, report=registry.put_blob_bytes(json.dumps(report).encode()))
    devices = [fleet.device(f"pump-{k}", ORT, {"site": SITES[k // 4]}) for k in range(12)]
    start = fleet.house.clock.now() - dt.timedelta(hours=2)
    digest = fleet.digests[target_path(ref.model, ref.version, profile)]
    for k, device in enumerate(devices):
        moved = shift(k) if shift is not None else {"temperature": 1.0} if 4 <= k < 8 else {}
        for hour in range(2):
            device.seq += 1
            sums = counted(MADE, 150, k * 1000 + hour, shift=moved)
            at = start + dt.timedelta(hours=hour, minutes=45)
            told = window(MADE, digest, sums, at, length_s=900, covered_s=3600, classes=(90, 60))
            fleet.parts.telemetry.ingest([message(device.id, device.seq, told)])
    return devices


def say(fleet: Fleet, device: Device, signal: str = "temperature") -> None:
    """Let a device say that a signal of its pump drifts."""
    device.seq += 1
    now_s = int(fleet.house.clock.now().timestamp())
    detail = {"signal": signal, "kind": "numeric", "scale": "1h", "psi": 0.41, "shift_z": 1.02, "since": now_s - 600}
    event = Event(
        device=device.id,
        boot_id="b1",
        seq=device.seq,
        ts=now_s * 1000,
        kind=EventKind.DRIFT,
        model="pump",
        reason=f"{signal} differs from its reference: PSI 0.41 over 1h, its mean moved by +1.02 standard deviations",
        detail=detail,
    )
    fleet.parts.fleet.receiver.take_events([event])
