"""The fleet that a generated client is tried on: what people cannot do through the API is done here, as devices and the engine do it.

Besides the staged fleet of the pages' tests there are a model that no rollout wants yet (seeds), one for rollouts by hand (leaves), a
release with the report of its conversion (gauge), and two boards that wait to be let in.
"""

import json
import threading
from pathlib import Path
from types import TracebackType

from msgspec import UNSET

from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.desired import Ref, Task
from edgefleet_protocol.messages import PredictionLine, Sample, Telemetry, Watched, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.fleet.moves.rules import Wanted
from tests.server.dashboard.fleet import ORT, Device, Fleet, staged
from tests.server.dashboard.shelf import REPORT, shelve
from tests.server.fleet.house import FACTS, KeyedDevice

EVERY_S = 0.05
RESULTS = {"diag": b"\x1f\x8b not quite a tar", "logs": b"line 1\nline 2\n"}
BUNDLE = {
    "model": "gauge", "version": "1.0.0", "profile": ORT, "runtime": "ort", "precision": "int8", "bundle_bytes": 41_000, "path": "",
    "sha256": "c" * 64, "target": f"gauge/1.0.0/{ORT}.bundle", "candidate": "int8", "parity": {}, **REPORT,
}  # fmt: skip
REPORTED = {
    "v": 1, "model": "gauge", "version": "1.0.0", "key": "", "source": {"sha256": "b" * 64}, "data": {"judged_on": "evaluation data"},
    "profiles": [{"profile": ORT, "candidates": [], "bundle": BUNDLE}],
}  # fmt: skip


def plan_move(fleet: Fleet) -> None:
    """Let the server have a place, and a plan to go to another. The fleet was made with a broker_port."""
    fleet.parts.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    fleet.parts.fleet.moves.plan(Wanted(device_port=9443), "ann")


def client_fleet(folder: Path) -> tuple[Fleet, str]:
    """Return a fleet and its good rollout."""
    fleet = Fleet(folder, webhook_networks=("127.0.0.0/8",), broker_port=8883)
    fleet.parts.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    stored = fleet.parts.registry.put_blob_bytes(json.dumps(REPORTED).encode())
    shelve(fleet, "gauge@1.0.0", ORT, report=stored)
    good, _ = staged(fleet)
    fleet.parts.predictions.set("digits", "test", ratio=1.0, inputs=False, keep_days=30)
    fleet.parts.alarm.engine.tick()  # its failed updates are alerts
    fleet.parts.access.record("test", "create_rollout", "/api/v1/rollouts", 201, "r1")
    fleet.parts.access.chain.make_head()
    fleet.release("seeds@1.0.0", ORT)
    fleet.release("leaves@1.0.0", ORT)
    claim = fleet.parts.fleet.enrolment.create_claims(approval=True, uses=5, created_by="test")[0]
    for _ in range(2):
        try:
            fleet.parts.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
        except ApprovalPendingError:
            continue
        raise AssertionError("a claim that needs approval let a device in")
    return fleet, good


class Answering:
    """Until the block ends, devices do what their documents ask and the engine looks at rollouts, a second each time."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._answered: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="devices")
        self._trouble: Exception | None = None

    def __enter__(self) -> "Answering":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._trouble is not None:
            raise self._trouble

    def _run(self) -> None:
        try:
            while not self._stop.wait(EVERY_S):
                self._fleet.tick(seconds=1)  # what is kept for a few seconds gets old
                for device in self._fleet.by_id.values():
                    self._look(device)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the block
            self._trouble = error

    def _look(self, device: Device) -> None:
        document = device.desired()
        for task in document.tasks:
            if self._is_new(task.id):
                self._answer(device, task)
        if document.telemetry.predictions_until is not UNSET and self._is_new(f"watched {device.id}"):
            line = PredictionLine(
                model="digits", version="1.1.0", lane="active", trace_id="t1", at=1_764_000_000_000, latency_us=1_500,
                labels=["seven", "one"], scores=[0.9, 0.1],
            )  # fmt: skip
            self._fleet.parts.telemetry.ingest_watched(
                [Watched(device=device.id, boot_id="b1", seq=1, ts=0, state="on", seen=1, lines=[line])]
            )
        wish = document.models.get("digits")
        if wish is not None and wish.active and wish.candidate and self._is_new(f"{wish.candidate} {device.id}"):
            self._compare(device, {"active": wish.active, "candidate": wish.candidate})

    def _is_new(self, what: str) -> bool:
        """Return whether this is seen for the first time."""
        is_new = what not in self._answered
        self._answered.add(what)
        return is_new

    def _compare(self, device: Device, lanes: dict[str, Ref]) -> None:
        """Tell of a hundred inputs that both answered, 97 of them alike."""
        now_s, sketch = int(self._fleet.house.clock.now().timestamp()), LatencySketch()
        for n in range(100):
            sketch.add(0.004 + n / 50_000)
        figures = ShadowFigures(offered=100, compared=100, judged=100, agreed=97, primary_latency=sketch.packed())
        windows = [
            Window(
                t0=now_s, length_s=60, model="digits", lane=lane, sha256=ref.sha256, version=ref.target.split("/")[1], n=100,
                latency=sketch.packed(), shadow=figures if lane == "candidate" else None,
            )
            for lane, ref in lanes.items()
        ]  # fmt: skip
        told = Telemetry(device=device.id, boot_id="b2", seq=1, ts=now_s * 1000, windows=windows)
        self._fleet.parts.telemetry.ingest([told])

    def _answer(self, device: Device, task: Task) -> None:
        if task.kind != "capture":
            self._fleet.parts.fleet.tasks.take_result(device.id, task.id, RESULTS[task.kind])
            return
        record = Sample(
            device=device.id, boot_id="b1", seq=1, ts=0, task=task.id, record="r1", left=0, model="digits", reason="random",
            sha256="a" * 64, sealed=b"sealed", taken=1_764_000_000_000, key="k" * 16, label=7, seen=40,
        )  # fmt: skip
        self._fleet.parts.telemetry.ingest_samples([record])
