"""A fleet whose answers are labelled: pumps of two sites over three days, with a business figure and labels that were sent in bulk."""

import datetime as dt
from collections.abc import Sequence

from edgefleet_protocol.feedback_csv import read_rows
from edgefleet_protocol.ground_truth import Truth, added, class_part, figure_part, pack
from edgefleet_protocol.ids import ModelName, ProfileName, Version, target_path
from edgefleet_protocol.messages import Telemetry, Window
from tests.server.dashboard.fleet import ORT, Device, Fleet

RELEASE = "pump@1.0.0"


def labelled(fleet: Fleet) -> list[Device]:
    """Return four pumps that told labels of three days: two in lyon, of which a tenth is wrong, and two in osaka, of which a half is."""
    fleet.release(RELEASE, ORT)
    devices = [fleet.device(f"pump-{k}", ORT, {"site": ("lyon", "osaka")[k // 2]}) for k in range(4)]
    tell_labels(fleet, devices)
    return devices


def tell_labels(fleet: Fleet, devices: Sequence[Device]) -> None:
    """Let pumps tell labels of three days, of the first half a tenth is wrong, of the others a half; send two more in bulk."""
    digest = fleet.digests[target_path(ModelName("pump"), Version("1.0.0"), ProfileName(ORT))]
    now = fleet.house.clock.now()
    for k, device in enumerate(devices):
        for days in range(3):
            hour = int((now - dt.timedelta(days=days)).timestamp()) // 3_600
            wrong = 2 if k < len(devices) / 2 else 10
            parts = [class_part(hour, "line-1", 0, int(n < wrong)) for n in range(20)]
            parts.append(figure_part(hour, "", {"units_rejected": 1.5}))
            truth = Truth(unmatched=1, parts=added(parts))
            _tell(fleet, device, digest, truth)
    text = f"device,trace_id,label\n{devices[0].id},t1,1\nd-nobody,t2,1\n"
    fleet.parts.truth.uploads.take(ModelName("pump"), read_rows(text), "ann")


def _tell(fleet: Fleet, device: Device, digest: str, truth: Truth) -> None:
    device.seq += 1
    t0 = int(fleet.house.clock.now().timestamp()) - 900
    window = Window(t0=t0, length_s=900, model="pump", lane="active", sha256=digest, version="1.0.0", truth=pack(truth))
    sent = Telemetry(device=device.id, boot_id="b1", seq=device.seq, ts=t0 * 1_000, windows=[window])
    assert fleet.parts.telemetry.ingest([sent]) == 1
