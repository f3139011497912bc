"""Telemetry as devices send it: one window of one model, in one message."""

from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.service import TelemetryService

BAD = {"errors": 2, "timeouts": 3, "nonfinite": 1, "crashes": 1}


def report(
    telemetry: TelemetryService, device: str, model: str, version: str, *, seq: int, now_s: float, lane: str = "active"
) -> None:
    """Ingest a window of a minute: 100 answers of 3 ms, some of them bad."""
    sketch = LatencySketch()
    for _ in range(100):
        sketch.add(0.003)
    window = Window(
        t0=int(now_s) - 60, length_s=60, model=model, lane=lane, sha256="a" * 64, version=version, n=100,
        latency=sketch.packed(), classes=[], worker_cpu_s=0.1, errors=BAD["errors"],
        timeouts=BAD["timeouts"], nonfinite=BAD["nonfinite"], crashes=BAD["crashes"],
    )  # fmt: skip
    message = Telemetry(device=device, boot_id="b", seq=seq, ts=int(now_s * 1000), windows=[window])
    assert telemetry.ingest([message]) == 1
