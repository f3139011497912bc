"""A worker process from start to end: what it proves, what it refuses, how it dies."""

import io
import signal
import struct
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.worker.control.protocol import CheckGolden, Drain, Failed, GetStats, Golden, Loaded, Ready, Stats
from edgefleet_protocol import bundle as bundles
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_runtime.port import available
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx, crash_onnx, nan_onnx, weights
from tests.runtime.tflite_files import fully_connected

LABELS = {"labels.txt": b"zero\none\ntwo\n"}


def test_a_good_bundle_is_loaded_proved_and_served(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    loaded, golden = worker.messages[0], worker.messages[1]
    assert isinstance(loaded, Loaded)
    assert (loaded.runtime, loaded.runtime_version != "") == ("ort", True)
    assert isinstance(golden, Golden)
    assert (golden.ok, golden.checked, golden.reason) == (True, 8, "")
    assert golden.peak_rss_bytes > 10_000_000
    status, answer, _ = rig.infer([[9, 0, 0, 0], [0, 9, 0, 0]])
    assert status == 200, answer
    assert answer["parameters"] == {
        "digest": worker.start.digest,
        "slot": "A",
        "lane": "active",
        "version": "1.0.0",
    }
    y = np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
    assert y.argmax(axis=1).tolist() == [0, 1]


def test_drain_ends_with_status_0_and_removes_its_socket(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    worker.link.send(Drain(idle_grace_s=0.0))
    assert worker.exit_status() == 0
    assert not Path(worker.start.own_socket_path).exists()


def test_sigterm_drains_too(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    worker.link.process.send_signal(signal.SIGTERM)
    assert worker.exit_status() == 0


def test_a_worker_whose_socket_cannot_be_made_says_so(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    long = "/" + "d" * 120 + "/w.sock"
    for field in ("own_socket_path", "mirror_path"):
        worker = rig.start(bundle_bytes(classifier_onnx()), public=False, **{field: long})
        failed = worker.until(Failed)
        assert failed.error_class == "disk"  # of the device: the bundle is not blamed
        assert failed.reason.startswith(f"the unix socket {long} cannot be made: its path has 128 bytes")
        assert "TMPDIR" in failed.reason
        assert worker.exit_status() == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_ends_when_agentd_is_gone(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    worker.link.close()
    assert worker.exit_status() == 3


def test_stats_are_deltas_with_sketch_and_classes(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=LABELS))
    worker.serve()
    rig.infer([[9, 0, 0, 0], [0, 9, 0, 0]])
    rig.infer([[0, 0, 9, 0]])
    rig.request("POST", "/v2/models/digits/infer", b"{}")
    worker.link.send(GetStats())
    stats = worker.until(Stats)
    assert (stats.n, stats.errors, stats.bad_requests, stats.nonfinite) == (2, 0, 1, 0)
    assert LatencySketch.unpacked(stats.latency).n == 2
    assert stats.classes == [1, 1, 1]
    assert stats.rss_bytes > 0
    worker.link.send(GetStats())
    assert worker.until(Stats).n == 0


def test_a_drained_worker_sends_its_last_figures(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    rig.infer([[1, 2, 3, 4]])
    worker.link.send(Drain(idle_grace_s=0.0))
    assert worker.until(Stats).n == 1
    assert worker.next() is None


def test_golden_vectors_are_checked_while_serving(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    worker.link.send(CheckGolden())
    assert worker.until(Golden).checked == 1
    worker.link.send(CheckGolden(vectors=0))
    assert worker.until(Golden).checked == 8


def test_a_golden_mismatch_is_told_and_never_ready(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), golden_shift=0.1))
    assert isinstance(worker.next(), Loaded)
    golden = worker.next()
    assert isinstance(golden, Golden)
    assert not golden.ok
    assert "value" in golden.reason
    failed = worker.next()
    assert isinstance(failed, Failed)
    assert failed.error_class == "golden"
    assert worker.exit_status() == 1
    assert not any(isinstance(m, Ready) for m in worker.messages)


def test_a_tampered_bundle_is_refused_before_anything_is_parsed(rig: Rig) -> None:
    good = bundle_bytes(classifier_onnx())
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    worker = rig.start(bytes(bad), digest=sha256_hex(good))
    failed = worker.next()
    assert isinstance(failed, Failed)
    assert failed.error_class == "signature"
    assert sha256_hex(good) in failed.reason  # the digest of the whole file, not one of a member
    assert worker.exit_status() == 1


def test_a_bundle_of_another_version_is_refused(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), version="2.0.0"))
    failed = worker.next()
    assert isinstance(failed, Failed)
    assert failed.error_class == "signature"


def test_a_file_that_is_no_model_fails_to_load(rig: Rig) -> None:
    good = classifier_onnx()
    opened = bundles.open_bundle(io.BytesIO(bundle_bytes(good)))
    broken = bundles.write_bundle({"model.onnx": good[:40], "golden.npz": opened.read("golden.npz")}, opened.manifest)
    worker = rig.start(broken)
    failed = worker.next()
    assert isinstance(failed, Failed)
    assert failed.error_class == "load"


def test_a_native_crash_at_load_ends_only_its_own_process(rig: Rig) -> None:
    """tflite-runtime 2.14 does not verify files; a table that points outside the file is a segmentation fault."""
    if "tflite" not in {r.name for r in available()}:
        pytest.skip("tflite-runtime is not installed")
    healthy = rig.start(bundle_bytes(classifier_onnx()))
    healthy.serve()
    opened = bundles.open_bundle(io.BytesIO(bundle_bytes(fully_connected(weights().T.copy()), runtime="tflite")))
    vtable = struct.pack("<4H", 8, 12, 4, 8)
    root = struct.pack("<iiI", 16, 3, 0x7FFFFFF0)  # vtable 16 bytes before, version 3, operator codes 2 GB away
    crashing = struct.pack("<I", 24) + b"TFL3" + vtable + bytes(8) + root
    members = {"model.tflite": crashing, "golden.npz": opened.read("golden.npz")}
    worker = rig.start(bundles.write_bundle(members, opened.manifest), public=False)
    assert worker.next() is None
    assert worker.exit_status() == -signal.SIGSEGV
    assert rig.infer([[1, 2, 3, 4]])[0] == 200


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_a_tflite_bundle_is_served(rig: Rig, runtime: str) -> None:
    if runtime not in {r.name for r in available()}:
        pytest.skip(f"{runtime} is not installed")
    file = fully_connected(weights().T.copy(), signature=("x", "y"))
    worker = rig.start(bundle_bytes(file, runtime=runtime))
    worker.serve()
    loaded = worker.messages[0]
    assert isinstance(loaded, Loaded)
    assert loaded.runtime == runtime
    status, answer, _ = rig.infer([[1, 2, 3, 4]])
    assert (status, answer["outputs"][0]["data"]) == (200, [1, 2, 3])
    assert rig.request("GET", "/v2/models/digits")[1]["platform"].startswith("tensorflowlite")


def test_a_model_beyond_its_memory_limit_fails_alone(rig: Rig) -> None:
    healthy = rig.start(bundle_bytes(classifier_onnx()))
    healthy.serve()
    x = np.ones((8, 4), np.float32)
    hungry_bundle = bundle_bytes(crash_onnx(), golden_inputs=x, golden_outputs={"y": x})
    hungry = rig.start(hungry_bundle, public=False, memory_limit_bytes=600_000_000)
    while (message := hungry.next()) is not None and not isinstance(message, Failed):
        pass
    assert isinstance(message, Failed)
    assert hungry.exit_status() == 1
    assert rig.infer([[1, 2, 3, 4]])[0] == 200


def test_kill_9_of_one_worker_leaves_the_other_serving(rig: Rig) -> None:
    bundle = bundle_bytes(classifier_onnx())
    first, second = rig.start(bundle), rig.start(bundle)
    first.serve()
    second.serve()
    first.link.process.kill()
    assert first.exit_status() == -signal.SIGKILL
    assert first.next() is None
    for _ in range(20):
        assert rig.infer([[1, 2, 3, 4]])[0] == 200


def test_nonfinite_answers_are_counted_and_said(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(nan_onnx()))
    worker.serve()
    status, answer, _ = rig.infer([[-1, 1, 1, 1]])
    assert status == 200, answer
    assert answer["parameters"]["nonfinite"] >= 1
    assert None in answer["outputs"][0]["data"]
    worker.link.send(GetStats())
    stats = worker.until(Stats)
    assert (stats.n, stats.nonfinite) == (1, 1)
