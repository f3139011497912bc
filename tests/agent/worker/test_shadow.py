"""A shadow beside a serving worker: copies after the answer, comparison, drops, crashes; and a recording that is replayed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.worker.keeping import read_kept
from edgefleet_agent.worker.protocol import GetStats, LaneRoute, ModelRoute, RoutesTable, Stats, write_routes
from edgefleet_protocol.comparison import ShadowFigures, delta_quantile, merge_shadows
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
        mirror_path=str(rig.folder / "mirror.sock"),
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


def _compared(shadow: RunningWorker, n: int) -> ShadowFigures:
    """Return the shadow's figures once it has dealt with so many samples."""
    total = ShadowFigures()
    until = time.monotonic() + 30
    while total.compared + total.failed < n and time.monotonic() < until:
        figures = _stats(shadow).shadow
        assert figures is not None
        total = merge_shadows([total, figures])
    assert total.compared + total.failed >= n
    return total


def test_the_same_model_agrees_on_everything_and_the_kernel_runs_it_last(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA))
    for i in range(6):
        status, answer, _ = rig.infer([[float(i), 1.0, 0.5, 0.0]])
        assert (status, answer["model_version"], answer["parameters"]["lane"]) == (200, "1.0.0", "active")
        time.sleep(0.02)
    pid = shadow.link.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "900"
    figures = _compared(shadow, 6)
    assert (figures.compared, figures.failed, figures.judged, figures.agreed) == (6, 0, 6, 6)
    assert delta_quantile(figures.deltas, 1.0) == 0.0
    assert sum(figures.primary_latency[1:]) == 6
    served = _stats(active)
    assert (served.n, served.mirrored, served.mirror_dropped) == (6, 6, 0)
    assert figures.kept == 0


def test_what_differs_most_is_kept_without_raw_inputs(rig: Rig) -> None:
    _active, shadow = _pair(rig, bundle_bytes(classifier_onnx(-1.0), version="1.1.0", extra=EXTRA))
    for i in range(20):
        assert rig.infer([[1.0 + i / 5, 0.0, 0.1, 0.0]])[0] == 200
        time.sleep(0.01)
    figures = _compared(shadow, 20)
    assert (figures.agreed, figures.kept) == (0, 16)
    shadow.link.close()
    shadow.exit_status()
    # closed without a drain: what is on the disk may be older, never wrong
    kept = read_kept(rig.folder / "kept.msgpack")
    assert kept is None or all(one.inputs == {} for one in kept.kept)


def test_the_kept_file_is_written_when_the_shadow_leaves(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(classifier_onnx(-1.0), version="1.1.0", extra=EXTRA), keep_inputs=True)
    rig.infer([[3.0, 0.0, 0.1, 0.0]])
    rig.infer([[1.0, 0.0, 0.1, 0.0]])
    _compared(shadow, 2)
    shadow.drain()
    kept = read_kept(rig.folder / "kept.msgpack")
    assert kept is not None
    assert (kept.active_sha256, kept.candidate_sha256) == (active.start.digest, shadow.start.digest)
    assert [one.reason for one in kept.kept] == ["shadow_disagreement"] * 2
    assert kept.kept[0].difference > kept.kept[1].difference
    assert kept.kept[0].inputs == {"x": [[3.0, 0.0, pytest.approx(0.1), 0.0]]}
    assert kept.kept[0].answers["active"]["y"][0]["label"] == "a"


def test_a_shadow_that_does_not_read_costs_drops_and_no_answer(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA))
    os.kill(shadow.link.pid, signal.SIGSTOP)
    for _ in range(30):
        assert rig.infer(X)[0] == 200
    stats = _stats(active)
    assert (stats.n, stats.errors, stats.mirrored) == (30, 0, 30)
    assert stats.mirror_dropped == 30 - 8
    os.kill(shadow.link.pid, signal.SIGCONT)
    _compared(shadow, 8)


def test_a_shadow_that_takes_other_inputs_fails_its_samples_alone(rig: Rig) -> None:
    active, shadow = _pair(rig, bundle_bytes(big_onnx(6), version="1.1.0"))
    for _ in range(3):
        assert rig.infer(X)[0] == 200
    figures = _compared(shadow, 3)
    assert (figures.compared, figures.failed) == (0, 3)
    assert _stats(active).errors == 0


@pytest.mark.parametrize("kills", [4])
def test_a_shadow_that_dies_again_and_again_never_touches_the_primary(rig: Rig, kills: int) -> None:
    new = bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA)
    active, shadow = _pair(rig, new)
    for _ in range(kills):
        for i in range(25):
            if i == 10:
                shadow.link.process.kill()
            assert rig.infer(X)[0] == 200
        shadow.exit_status()
        shadow = rig.start(
            new,
            version="1.1.0",
            lane="candidate",
            slot="B",
            public=False,
            background=True,
            mirror_path=str(rig.folder / "mirror.sock"),
        )
        shadow.until_ready()
    time.sleep(0.6)  # after a refused connection the next one is tried half a second later
    assert rig.infer(X)[0] == 200
    assert _compared(shadow, 1).compared >= 1
    stats = _stats(active)
    assert (stats.n, stats.errors) == (kills * 25 + 1, 0)


def test_a_recording_is_replayed_by_a_child_that_is_not_resident(rig: Rig) -> None:
    active = rig.start(bundle_bytes(classifier_onnx(), extra=EXTRA))
    active.serve()
    recording = rig.folder / "recording"
    lanes = {"active": _lane(active)}
    table = ModelRoute(lanes, mode="shadow", recording=str(recording), record_samples=5)
    write_routes(rig.routes_path, RoutesTable(models={"digits": table}))
    rig.request("GET", "/v2/models/nothing")
    for i in range(8):
        assert rig.infer([[float(i), 1.0, 0.5, 0.0]])[0] == 200
    assert recording.stat().st_mode & 0o777 == 0o600
    assert _stats(active).mirrored == 5
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
    assert (stats.n, stats.shadow.compared, stats.shadow.judged) == (5, 5, 5)
    assert stats.shadow.agreed < 5
    assert read_kept(rig.folder / "kept.msgpack") is not None


def test_a_recording_that_was_cut_is_replayed_as_far_as_it_goes(rig: Rig) -> None:
    active = rig.start(bundle_bytes(classifier_onnx(), extra=EXTRA))
    active.serve()
    recording = rig.folder / "recording"
    table = ModelRoute({"active": _lane(active)}, mode="shadow", recording=str(recording), record_bytes=1200)
    write_routes(rig.routes_path, RoutesTable(models={"digits": table}))
    rig.request("GET", "/v2/models/nothing")
    for i in range(12):
        assert rig.infer([[float(i), 1.0, 0.5, 0.0]])[0] == 200
    assert recording.stat().st_size < 4000
    recording.write_bytes(recording.read_bytes()[:-7])
    child = rig.start(
        bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA),
        version="1.1.0",
        lane="candidate",
        slot="B",
        public=False,
        replay_path=str(recording),
        own_socket_path="",
    )
    stats = child.until(Stats)
    assert stats.shadow is not None
    assert 1 <= stats.shadow.compared < 12
