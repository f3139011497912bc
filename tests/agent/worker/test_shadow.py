"""A shadow beside a serving worker: copies after the answer, comparison, drops, crashes; and a recording that is replayed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.worker.control.protocol import (
    CheckGolden,
    GetStats,
    Golden,
    LaneRoute,
    ModelRoute,
    RoutesTable,
    Stats,
    write_routes,
)
from edgefleet_agent.worker.shadow.disagreements import read_kept
from edgefleet_agent.worker.shadow.mirror import CONNECT_AGAIN_S
from edgefleet_protocol.comparison import ShadowFigures, delta_quantile, merge_shadows
from edgefleet_protocol.sketch import LatencySketch
from tests.agent.worker.conftest import Rig, RunningWorker
from tests.agent.worker.models import big_onnx, bundle_bytes, classifier_onnx

X = [[1.0, 2.0, 3.0, 4.0]]
TOP_K = json.dumps({"v": 1, "outputs": [{"name": "y", "steps": [{"op": "top_k", "k": 3}]}]}).encode()
EXTRA = {"postprocess.json": TOP_K, "labels.txt": b"a\nb\nc\n"}


def _lane(worker: RunningWorker) -> LaneRoute:
    start = worker.start
    return LaneRoute(start.own_socket_path, start.version, start.digest, start.slot, mirror=start.mirror_path)


def _pair(rig: Rig, new: bytes, old: bytes | None = None, **fields: Any) -> tuple[RunningWorker, RunningWorker]:
    """Start what serves and a shadow of it, and route as agentd does."""
    active = rig.start(old if old is not None else bundle_bytes(classifier_onnx(), extra=EXTRA))
    active.serve()
    shadow = rig.start(
        new,
        version="1.1.0",
        lane="candidate",
        slot="B",
        public=False,
        background=True,
        mirror_path=str(rig.sockets / "mirror.sock"),
        kept_path=str(rig.folder / "kept.msgpack"),
        **fields,
    )
    shadow.until_ready()
    route(rig, active, shadow)
    return active, shadow


def route(rig: Rig, active: RunningWorker, shadow: RunningWorker) -> None:
    lanes = {"active": _lane(active), "candidate": _lane(shadow)}
    write_routes(rig.routes_path, RoutesTable(models={"digits": ModelRoute(lanes, mode="shadow")}))
    rig.request("GET", "/v2/models/nothing")  # makes the worker look at the new table now


def _stats(worker: RunningWorker) -> Stats:
    worker.link.send(GetStats())
    return worker.until(Stats)


def _compared(shadow: RunningWorker, n: int, into: list[ShadowFigures] | None = None) -> ShadowFigures:
    """Return the shadow's figures once it has dealt with so many more samples; added to `into` as well."""
    total = ShadowFigures()
    until = time.monotonic() + 30
    while total.compared + total.failed < n and time.monotonic() < until:
        figures = _stats(shadow).shadow
        assert figures is not None
        total = merge_shadows([total, figures])
    assert total.compared + total.failed >= n
    if into is not None:
        into.append(total)
    return total


def test_the_same_model_agrees_the_kernel_runs_it_last_and_what_does_not_read_costs_drops_alone(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA))
    total: list[ShadowFigures] = []
    for i in range(6):
        status, answer, _ = rig.infer([[float(i), 1.0, 0.5, 0.0]])
        assert (status, answer["model_version"], answer["parameters"]["lane"]) == (200, "1.0.0", "active")
        _compared(shadow, 1, into=total)
    figures = merge_shadows(total)
    pid = shadow.link.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "900"
    assert (figures.compared, figures.failed, figures.judged, figures.agreed) == (6, 0, 6, 6)
    assert (delta_quantile(figures.deltas, 1.0), figures.kept) == (0.0, 0)
    assert LatencySketch.unpacked(figures.primary_latency).n == 6
    served = _stats(active)
    assert (served.n, served.mirrored, served.mirror_dropped) == (6, 6, 0)

    shadow.link.send(CheckGolden())  # behind the last comparison: when it is answered, that one is acknowledged
    shadow.until(Golden)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(30):
        assert rig.infer(X)[0] == 200
    stopped = _stats(active)
    assert (stopped.n, stopped.errors, stopped.mirrored, stopped.mirror_dropped) == (30, 0, 30, 30 - 8)
    os.kill(pid, signal.SIGCONT)
    _compared(shadow, 8)


def test_the_worst_are_kept_and_written_when_the_shadow_leaves(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(classifier_onnx(-1.0), version="1.1.0", extra=EXTRA), keep_inputs=True)
    for x in (3.0, 1.0):
        rig.infer([[x, 0.0, 0.1, 0.0]])
    figures = _compared(shadow, 2)
    assert (figures.agreed, figures.kept) == (0, 2)
    shadow.drain()
    kept = read_kept(rig.folder / "kept.msgpack")
    assert kept is not None
    assert (kept.active_sha256, kept.candidate_sha256) == (active.start.digest, shadow.start.digest)
    assert [one.reason for one in kept.kept] == ["disagreement"] * 2
    assert kept.kept[0].difference > kept.kept[1].difference
    assert kept.kept[0].inputs == {"x": [[3.0, 0.0, pytest.approx(0.1), 0.0]]}
    assert kept.kept[0].answers["active"]["y"][0]["label"] == "a"


def test_a_shadow_with_other_inputs_and_one_that_dies_never_touch_what_serves(rig: Rig) -> None:
    active, other = _pair(rig, bundle_bytes(big_onnx(6), version="1.1.0"))
    for _ in range(3):
        assert rig.infer(X)[0] == 200
    figures = _compared(other, 3)
    assert (figures.compared, figures.failed) == (0, 3)
    for i in range(25):
        if i == 10:
            other.link.process.kill()
        assert rig.infer(X)[0] == 200
    other.exit_status()
    fresh = rig.start(
        bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA),
        version="1.1.0",
        lane="candidate",
        slot="B",
        public=False,
        mirror_path=other.start.mirror_path,
    )
    fresh.until_ready()
    time.sleep(CONNECT_AGAIN_S)  # after a refused connection the next one is tried that much later
    assert rig.infer(X)[0] == 200
    assert _compared(fresh, 1).compared == 1
    stats = _stats(active)
    assert (stats.n, stats.errors) == (29, 0)


def test_a_recording_is_replayed_as_far_as_it_goes_by_a_child_that_is_not_resident(rig: Rig) -> None:
    active = rig.start(bundle_bytes(classifier_onnx(), extra=EXTRA))
    active.serve()
    recording = rig.folder / "recording"
    table = ModelRoute({"active": _lane(active)}, mode="shadow", recording=str(recording), record_samples=5)
    write_routes(rig.routes_path, RoutesTable(models={"digits": table}))
    rig.request("GET", "/v2/models/nothing")
    for i in range(8):
        assert rig.infer([[float(i), 1.0, 0.5, 0.0]])[0] == 200
    assert recording.stat().st_mode & 0o777 == 0o600
    assert _stats(active).mirrored == 5
    recording.write_bytes(recording.read_bytes()[:-7])  # a kill in the middle of a write
    child = rig.start(
        bundle_bytes(classifier_onnx(-1.0), version="1.1.0", extra=EXTRA),
        version="1.1.0",
        lane="candidate",
        slot="B",
        public=False,
        replay_path=str(recording),
        own_socket_path="",
        kept_path=str(rig.folder / "kept.msgpack"),
    )
    stats = child.until(Stats)
    assert child.exit_status() == 0
    assert stats.shadow is not None
    assert (stats.n, stats.shadow.compared, stats.shadow.judged) == (4, 4, 4)
    assert stats.shadow.agreed < 4
    assert read_kept(rig.folder / "kept.msgpack") is not None
