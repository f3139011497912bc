"""Inference over shared memory: the same answers as over HTTP, and callers that lie, hang up, are too many, or meet a swap."""

import mmap
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.captures.prediction_log import Block, unpack_block
from edgefleet_agent.client import InferenceError, Model
from edgefleet_agent.links import memory_link
from edgefleet_agent.links.memory_link import MemoryLink
from edgefleet_agent.worker.control.protocol import (
    AnswersTold,
    Drain,
    GetStats,
    ModelRoute,
    Predictions,
    RoutesTable,
    SetCapture,
    Stats,
    TellAnswers,
    write_routes,
)
from edgefleet_protocol.memory_frames import (
    BYTES_HEADER,
    MAX_REGIONS,
    MIN_REGION_BYTES,
    REPLY,
    REQUEST,
    UPGRADE,
    region_bytes,
)
from tests.agent.worker.conftest import WAIT_S, Rig, RunningWorker
from tests.agent.worker.models import big_onnx, bundle_bytes, classifier_onnx, nan_onnx
from tests.agent.worker.test_neighbours import _lane

X = np.random.default_rng(3).random((5, 4), dtype=np.float32)


def _wide_onnx(width: int) -> bytes:
    """Return x [n, 4] → y [n, width]."""
    weights = np.random.default_rng(1).random((4, width), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _positive_onnx() -> bytes:
    """Return x [n, 4] → y [1, m]: the places of its positive numbers, as many as there are; and √x: NaN for the others."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["places"]),
        helper.make_node("Reshape", ["places", "flat"], ["row"]),
        helper.make_node("Cast", ["row"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["x"], ["root"]),
    ]
    graph = helper.make_graph(
        nodes,
        "positive",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "m"]),
            helper.make_tensor_value_info("root", TensorProto.FLOAT, ["n", 4]),
        ],
        [numpy_helper.from_array(np.array([1, -1], np.int64), "flat")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A rig whose only worker serves `digits`, for tests that leave it as it was."""
    rig = Rig(tmp_path_factory.mktemp("memory"))
    rig.start(bundle_bytes(classifier_onnx())).serve()
    yield rig
    assert rig.workers[0].link.process.poll() is None
    rig.close()


@pytest.fixture
def worker(rig: Rig) -> RunningWorker:
    """A worker of the test's own that serves `digits`."""
    made = rig.start(bundle_bytes(classifier_onnx()))
    made.serve()
    return made


@contextmanager
def _caller(path: Path, wanted: int = MIN_REGION_BYTES) -> Iterator[tuple[socket.socket, mmap.mmap, int]]:
    """Yield connection, region and descriptor of a caller that may do what it wants."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(str(path))
        head = f"GET /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
        connection.sendall(f"{head}{BYTES_HEADER}: {wanted}\r\n\r\n".encode())
        data, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        assert data.startswith(b"HTTP/1.1 101"), data
        (descriptor,) = descriptors
        try:
            with closing(mmap.mmap(descriptor, os.fstat(descriptor).st_size)) as region:
                yield connection, region, descriptor
        finally:
            os.close(descriptor)


def _still_answers(rig: Rig) -> None:
    with Model("digits", socket=rig.socket_path) as model:
        assert model.infer({"x": X})["y"].shape == (5, 3)
        assert model.is_shared


def test_answers_are_those_of_http_bit_for_bit_and_count_alike(rig: Rig, worker: RunningWorker) -> None:
    with Model("digits", socket=rig.socket_path, shm=False) as plain, Model("digits", socket=rig.socket_path) as shared:
        for rows in (1, 5, 3000):
            x = np.random.default_rng(rows).random((rows, 4), dtype=np.float32)
            for _ in range(3):
                a, b = plain.infer({"x": x}), shared.infer({"x": x})
                assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in a.items()} == {
                    k: (v.dtype, v.shape, v.tobytes()) for k, v in b.items()
                }
        assert (plain.is_shared, shared.is_shared) == (False, True)
        first = shared.trace_id
        shared.infer({"x": X}, outputs=["y"])
        assert first is not None
        assert shared.trace_id not in {None, first}
        refusals = []
        for model in (plain, shared):
            with pytest.raises(InferenceError) as refused:
                model.infer({"x": X.astype(np.float64)})
            refusals.append((refused.value.status, refused.value.message))
        assert refusals[0] == refusals[1]
        assert shared.predict([[1.0, 2.0, 3.0, 4.0]])["predictions"]
    worker.link.send(GetStats())
    stats = worker.until(Stats)
    assert (stats.n, stats.bad_requests, stats.errors) == (20, 2, 0)


def test_what_is_asked_again_is_answered_by_the_values_of_now(rig: Rig) -> None:
    rig.start(bundle_bytes(_positive_onnx()), max_body_bytes=MIN_REGION_BYTES).serve()
    chance = np.random.default_rng(5)
    with Model("digits", socket=rig.socket_path, shm=False) as plain, Model("digits", socket=rig.socket_path) as shared:
        for turn in range(120):
            x = chance.normal(size=((1, 2, 7)[turn % 3], 4)).astype(np.float32)
            asked = {
                0: x,
                1: x.T.copy().T,  # the same values, in another order of memory
                2: np.repeat(x, 2, axis=1)[:, ::2],
            }[turn % 5 % 3]
            outputs = ["y"] if turn % 11 == 0 else None
            a, b = plain.infer({"x": asked}, outputs=outputs), shared.infer({"x": asked}, outputs=outputs)
            assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in a.items()} == {
                k: (v.dtype, v.shape, v.tobytes()) for k, v in b.items()
            }
            c = plain.infer({"x": x}, outputs=["y", "root"])  # read in full each time
            assert all(c[name].tobytes() == value.tobytes() for name, value in b.items())
            for mine in b.values():
                assert mine.flags.writeable
                mine[...] = 9  # an answer is the caller's own, not the region's
        assert shared.is_shared


def test_answers_to_many_callers_are_counted_once_and_logged_in_their_order(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()), log_predictions=True)
    worker.serve()
    traces: list[set[str]] = [set() for _ in range(4)]

    def ask(place: int) -> None:
        with Model("digits", socket=rig.socket_path, shm=place > 0) as model:
            for _ in range(200):
                model.infer({"x": X})
                traces[place].add(str(model.trace_id))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [row for block in _blocks(worker, 800) for row in block.rows]
    worker.link.send(GetStats())
    stats = worker.until(Stats)
    assert (stats.n, stats.errors) == (800, 0)
    assert {row.trace_id for row in rows} == set().union(*traces)
    assert len(rows) == sum(map(len, traces)) == 800
    assert all(row.after_ms >= 0 for row in rows)


def _blocks(worker: RunningWorker, rows: int) -> list[Block]:
    blocks: list[Block] = []
    while sum(len(block.rows) for block in blocks) < rows:
        blocks.append(unpack_block(worker.until(Predictions).body))
    return blocks


def test_an_answer_can_be_flagged_at_once(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()))
    worker.serve()
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    worker.link.send(SetCapture(key, b"s" * 32, "d-1", 0.0, 60.0))
    worker.link.send(GetStats())
    worker.until(Stats)
    with Model("digits", socket=rig.socket_path) as model:
        for _ in range(20):
            model.infer({"x": X})
            assert model.trace_id is not None
            assert model.flag(model.trace_id)
        assert model.is_shared


def test_what_was_answered_is_told_when_agentd_asks(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx()), log_predictions=True)
    worker.serve()
    with Model("digits", socket=rig.socket_path) as model:
        for number in range(1, 4):
            for _ in range(number):
                model.infer({"x": X})
            worker.link.send(TellAnswers(number))
            told = worker.next()
            assert isinstance(told, Predictions)
            assert (told.n, worker.next()) == (number, AnswersTold(number))
        assert model.is_shared


def test_a_shadow_gets_copies_of_what_is_asked_through_memory(rig: Rig, worker: RunningWorker) -> None:
    with Model("digits", socket=rig.socket_path) as model:
        for _ in range(3):
            model.infer({"x": X})
        recording = rig.folder / "recorded.msgpack"
        route = ModelRoute({"active": _lane(worker)}, mode="shadow", recording=str(recording), record_samples=5)
        write_routes(rig.routes_path, RoutesTable(models={"digits": route}))
        end_s = time.monotonic() + WAIT_S
        while not recording.exists() and time.monotonic() < end_s:
            model.infer({"x": X})
        assert recording.exists()
        assert model.is_shared


def test_a_model_that_is_busy_for_another_caller_is_waited_for(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx())).serve()
    stop = threading.Event()

    def predict() -> None:
        with Model("digits", socket=rig.socket_path, shm=False) as model:
            while not stop.is_set():
                model.predict(np.ones((2000, 4), np.float32).tolist())  # runs in the engine's thread

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        with Model("digits", socket=rig.socket_path) as model:
            expected = model.infer({"x": X})["y"].tobytes()
            for _ in range(200):
                assert model.infer({"x": X})["y"].tobytes() == expected
            assert model.is_shared
    finally:
        stop.set()
        thread.join()


def test_large_bodies_get_a_larger_region_and_large_answers_come_whole(rig: Rig) -> None:
    rig.start(bundle_bytes(big_onnx(100_000))).serve()
    x = np.random.default_rng(0).random((1, 100_000), dtype=np.float32)
    with Model("digits", socket=rig.socket_path) as model:
        np.testing.assert_array_equal(model.infer({"x": x})["y"], x + np.float32(1))
        assert model.is_shared


def test_an_answer_that_does_not_fit_into_the_region_follows_on_the_socket(rig: Rig) -> None:
    rig.start(bundle_bytes(_wide_onnx(200_000))).serve()
    with Model("digits", socket=rig.socket_path) as shared, Model("digits", socket=rig.socket_path, shm=False) as plain:
        for _ in range(3):
            np.testing.assert_array_equal(shared.infer({"x": X})["y"], plain.infer({"x": X})["y"])
            assert shared.is_shared


def test_what_is_not_finite_is_said_and_counted(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(nan_onnx()))
    worker.serve()
    with Model("digits", socket=rig.socket_path) as model:
        for x in (X, -X, X):
            y = model.infer({"x": x})["y"]
            assert np.isnan(y).any() == (x is not X)
    worker.link.send(GetStats())
    assert worker.until(Stats).nonfinite == 1


@pytest.mark.parametrize(
    "rung",
    [
        REQUEST.pack(10, MIN_REGION_BYTES + 1),
        REQUEST.pack(11, 10),
        REQUEST.pack(0, 10),
        REQUEST.pack(2**32 - 1, 2**32 - 1),
        b"abc",
        REQUEST.pack(1, 1) * 2,
        b"x" * 100_000,
    ],
)
def test_a_caller_that_breaks_the_rules_is_cut_off(served: Rig, rung: bytes) -> None:
    with _caller(served.socket_path) as (connection, _, _):
        try:
            connection.sendall(rung)
            assert connection.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    _still_answers(served)


def test_a_region_keeps_its_size_and_is_a_callers_own(served: Rig) -> None:
    with _caller(served.socket_path) as (_, mine, descriptor), _caller(served.socket_path) as (_, other, _):
        for size in (0, 4096, 10 * MIN_REGION_BYTES):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        mine[:6] = b"secret"
        assert other[:] == bytes(MIN_REGION_BYTES)
    _still_answers(served)


def test_a_caller_that_keeps_its_descriptor_keeps_no_memory_of_the_worker(served: Rig) -> None:
    with _caller(served.socket_path, 32 * 1024 * 1024) as (connection, region, descriptor):
        region[:6] = b"secret"
        assert os.fstat(descriptor).st_blocks > 0
        connection.shutdown(socket.SHUT_RDWR)
        end_s = time.monotonic() + WAIT_S
        while os.fstat(descriptor).st_blocks and time.monotonic() < end_s:
            time.sleep(0.01)
        assert os.fstat(descriptor).st_blocks == 0
        assert region[:6] == bytes(6)
    _still_answers(served)


def test_rubbish_in_the_region_is_refused_as_over_http(served: Rig) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}'
    with _caller(served.socket_path) as (connection, region, _):
        for document, size in ((len(body), len(body) + 12), (5, len(body)), (len(body), len(body) + 16)):
            region[: len(body)] = body
            # descriptors that come with a request are nobody's business
            socket.send_fds(connection, [REQUEST.pack(document, size)], [0, 1])
            status = int.from_bytes(connection.recv(200)[:2], "little")
            assert status == (200 if size == len(body) + 16 else 400)
    _still_answers(served)


def test_a_request_with_the_sizes_of_the_last_one_is_still_read(served: Rig) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}'
    other = body.replace(b'"x"', b'"z"')
    with _caller(served.socket_path) as (connection, region, _):
        for head in (body, body, other, body, other):
            region[: len(body) + 16] = head + X[0].tobytes()
            connection.sendall(REQUEST.pack(len(head), len(head) + 16))
            status = int.from_bytes(connection.recv(200)[:2], "little")
            assert status == (200 if head is body else 400)
    _still_answers(served)


def test_a_caller_that_writes_while_its_request_runs_harms_only_itself(served: Rig) -> None:
    stop = threading.Event()
    with _caller(served.socket_path) as (connection, region, _):

        def scribble() -> None:
            while not stop.is_set():
                region[:4096] = os.urandom(4096)

        thread = threading.Thread(target=scribble)
        thread.start()
        for _ in range(50):
            connection.sendall(REQUEST.pack(120, 4096))
            assert connection.recv(200)
        stop.set()
        thread.join()
    _still_answers(served)


def test_one_caller_too_many_is_sent_to_the_socket(served: Rig) -> None:
    models = [Model("digits", socket=served.socket_path) for _ in range(MAX_REGIONS + 1)]
    answers = [model.infer({"x": X})["y"].tobytes() for model in models]
    assert len(set(answers)) == 1
    assert [model.is_shared for model in models] == [True] * MAX_REGIONS + [False]
    for model in models:
        model.close()
    _still_answers(served)


def test_more_than_the_device_takes_is_refused_in_words(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx()), max_body_bytes=200_000).serve()
    with Model("digits", socket=rig.socket_path) as model:
        with pytest.raises(InferenceError, match="larger than the 200000 bytes"):
            model.infer({"x": np.ones((40_000, 4), np.float32)})
        assert model.infer({"x": X})["y"].shape == (5, 3)


def test_no_shared_memory_over_tcp(served: Rig) -> None:
    head = (
        f"GET /v2/models/digits HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: {UPGRADE}\r\n\r\n"
    )
    assert served.raw(head.encode()).startswith(b"HTTP/1.1 200")
    with pytest.raises(ValueError, match="needs the unix socket"):
        Model("digits", shm=True)


def test_another_models_worker_is_asked_itself(rig: Rig, worker: RunningWorker) -> None:
    other = rig.start(bundle_bytes(classifier_onnx(2.0), name="other"), model="other", public=False)
    other.serve()
    routes = {"digits": ModelRoute({"active": _lane(worker)}), "other": ModelRoute({"active": _lane(other)})}
    write_routes(rig.routes_path, RoutesTable(models=routes))
    with Model("other", socket=rig.socket_path) as model:
        model.infer({"x": X})
        assert model.is_shared
    worker.link.send(GetStats())
    assert worker.until(Stats).forwarded == 0


def test_a_worker_that_is_killed_while_its_region_is_mapped(rig: Rig, worker: RunningWorker) -> None:
    with Model("digits", socket=rig.socket_path) as model:
        before = model.infer({"x": X})["y"]
        rig.start(bundle_bytes(classifier_onnx())).serve()
        worker.link.process.kill()
        worker.link.process.wait(WAIT_S)
        for _ in range(3):
            np.testing.assert_array_equal(model.infer({"x": X})["y"], before)
        assert model.is_shared


def test_no_request_is_lost_in_a_swap(rig: Rig, worker: RunningWorker) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []
    counts: list[int] = []

    def ask(expected: npt.NDArray[np.float32]) -> None:
        count = 0
        with Model("digits", socket=rig.socket_path) as model:
            while not stop.is_set():
                try:
                    np.testing.assert_array_equal(model.infer({"x": X})["y"], expected)
                except (AssertionError, Exception) as error:  # noqa: BLE001 - whatever it is fails the test
                    failed.append(error)
                count += 1
                stop.wait(0.002)
        counts.append(count)

    with Model("digits", socket=rig.socket_path, shm=False) as plain:
        expected = plain.infer({"x": X})["y"]
    threads = [threading.Thread(target=ask, args=(expected,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        old = rig.workers[-1]
        rig.start(bundle_bytes(classifier_onnx())).serve()
        old.link.send(Drain())
        assert old.exit_status() == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert min(counts) > 20


def test_a_caller_that_stood_still_until_its_region_was_emptied_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_link, "IDLE_S", 0.0)
    ours, theirs = socket.socketpair()

    class StoodStill(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size, flags)
            theirs.close()
            return data

    link = MemoryLink("/nowhere", "/", "", WAIT_S)
    for has_ended in (False, True):
        link._socket = StoodStill(fileno=os.dup(ours.fileno())) if has_ended else ours.dup()
        link._region, link._capacity = mmap.mmap(-1, 4096), 4096
        theirs.send(REPLY.pack(200, 0, 0, 2, 2))
        reply = link.exchange(b"{}", [], 2)
        assert (reply is None) == has_ended
    link.close()
    ours.close()


def test_a_system_without_shared_memory_takes_the_socket(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "mmap")
    with Model("digits", socket=served.socket_path, shm=True) as model:
        assert model.infer({"x": X})["y"].shape == (5, 3)
        assert not model.is_shared


def test_a_region_is_a_power_of_two() -> None:
    assert region_bytes(1) == MIN_REGION_BYTES
    assert region_bytes(MIN_REGION_BYTES + 1) == 2 * MIN_REGION_BYTES
