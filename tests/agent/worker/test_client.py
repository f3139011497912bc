"""The Python client: one write a request, answers in any pieces, connections that end, several threads, odd arrays."""

import mmap
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.client import InferenceError, InferenceUnreachableError, Model
from edgefleet_agent.composition.agent_parts import prepare_folders, remove_run_files
from edgefleet_agent.links.http_link import HttpLink
from edgefleet_agent.links.memory_link import MemoryLink
from edgefleet_agent.links.tensors import RequestPlans
from edgefleet_agent.paths import StatePaths
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx

X = np.ones((1, 4), np.float32)
TAIL = np.arange(3, dtype="<f4").tobytes()


def _answer(trace: str = "t1", *, status: str = "200 ", more: str = "", tail: bytes = TAIL) -> bytes:
    document = (
        b'{"model_name":"digits","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],'
        b'"parameters":{"binary_data_size":12}}]}'
    )
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nX-Edgefleet-Trace: {trace}\r\n"
        f"Inference-Header-Content-Length: {len(document)}\r\n{more}Content-Length: {len(document) + len(tail)}\r\n\r\n"
    )
    return head.encode() + document + tail


Step = Callable[[socket.socket], None]


@contextmanager
def _device(state: Path, *connections: list[Step]) -> Iterator[str]:
    """Listen where the agent of a state folder would, and do the steps of each connection in turn; each is closed after its last one."""
    paths = StatePaths(state)
    prepare_folders(paths)
    path = paths.sockets() / "infer.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for steps in connections:
                connection, _ = listener.accept()
                with connection:
                    for step in steps:
                        step(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        thread.join(10)
        assert not thread.is_alive()
    remove_run_files(paths)


def _says(*pieces: bytes) -> Step:
    """Take one request, which must have come in one piece, and send the pieces."""

    def step(connection: socket.socket) -> None:
        assert connection.recv(65536).endswith(X.tobytes())
        for piece in pieces:
            connection.sendall(piece)

    return step


def _hangs_up(connection: socket.socket) -> None:
    connection.recv(65536)


def test_an_answer_is_the_same_in_whatever_pieces_it_comes(tmp_path: Path) -> None:
    whole = _answer("abc")
    cuts = (1, 9, 40, whole.find(b"\r\n\r\n") + 2, whole.find(b"{") + 5, len(whole) - 1)
    steps = [_says(whole), _says(_answer("later")), *(_says(whole[:cut], whole[cut:]) for cut in cuts)]
    with _device(tmp_path / "s", steps) as path, Model("digits", socket=path, shm=False) as model:
        found = [(model.infer({"x": X})["y"].tolist(), model.trace_id) for _ in range(2 + len(cuts))]
        assert found[0] == ([[0.0, 1.0, 2.0]], "abc")
        assert found[1] == ([[0.0, 1.0, 2.0]], "later")
        assert found[2:] == found[:1] * len(cuts)


def test_outputs_stay_what_they_were_when_the_next_answer_comes(tmp_path: Path) -> None:
    other = np.full(3, 7, "<f4").tobytes()
    with (
        _device(tmp_path / "s", [_says(_answer()), _says(_answer(tail=other))]) as path,
        Model("m", socket=path, shm=False) as model,
    ):
        first = model.infer({"x": X})["y"]
        assert model.infer({"x": X})["y"].tolist() == [[7.0, 7.0, 7.0]]
        assert first.tolist() == [[0.0, 1.0, 2.0]]
        assert first.flags.aligned
        assert first.flags.writeable


@pytest.mark.parametrize("last", [_hangs_up, _says(_answer()[:30]), _says(_answer()[:-2])])
def test_a_kept_connection_that_ends_is_made_again_and_asked_once_more(tmp_path: Path, last: Step) -> None:
    with (
        _device(tmp_path / "s", [_says(_answer()), last], [_says(_answer("again"))]) as path,
        Model("m", socket=path, shm=False) as model,
    ):
        model.infer({"x": X})
        assert model.infer({"x": X})["y"].tolist() == [[0.0, 1.0, 2.0]]
        assert model.trace_id == "again"


def test_a_device_that_ends_both_tries_is_named(tmp_path: Path) -> None:
    with (
        _device(tmp_path / "s", [_hangs_up], [_hangs_up]) as path,
        Model("m", socket=path, shm=False) as model,
        pytest.raises(InferenceUnreachableError, match="closed the connection"),
    ):
        model.infer({"x": X})


def test_an_answer_that_says_close_is_the_last_of_its_connection(tmp_path: Path) -> None:
    closing = _answer(more="Connection: close\r\n")
    with (
        _device(tmp_path / "s", [_says(closing)], [_says(_answer())]) as path,
        Model("m", socket=path, shm=False) as model,
    ):
        model.infer({"x": X})
        model.infer({"x": X})


@pytest.mark.parametrize(
    "said", [b"SMTP ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
def test_what_is_no_answer_is_refused(tmp_path: Path, said: bytes) -> None:
    with (
        _device(tmp_path / "s", [_says(said)]) as path,
        Model("m", socket=path, shm=False) as model,
        pytest.raises(InferenceUnreachableError, match="cannot be reached"),
    ):
        model.infer({"x": X})


def test_a_device_that_is_silent_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    done = threading.Event()

    def waits(_: socket.socket) -> None:
        done.wait(10)

    with (
        _device(tmp_path / "s", [waits]) as path,
        Model("m", socket=path, timeout_s=0.05, shm=False) as model,
    ):
        with pytest.raises(InferenceUnreachableError, match="timed out"):
            model.infer({"x": X})
        done.set()


def test_a_body_that_is_too_large_is_refused_in_words(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx()), max_body_bytes=100_000).serve()
    with Model("digits", socket=rig.socket_path) as model:
        with pytest.raises(InferenceError, match="larger than the 100000 bytes") as refused:
            model.infer({"x": np.ones((1_000_000, 4), np.float32)})
        assert refused.value.status == 413
        assert model.infer({"x": X})["y"].shape == (1, 3)


def test_arrays_that_lie_oddly_mean_the_same_and_threads_take_turns(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx())).serve()
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    with Model("digits", socket=rig.socket_path) as model:
        expected = model.infer({"x": x})["y"]
        for odd in (x.astype(">f4"), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
            np.testing.assert_array_equal(model.infer({"x": odd})["y"], expected)
        wrong: list[int] = []

        def ask(row: int) -> None:
            own = slice(row, row + 1)
            wrong.extend(row for _ in range(50) if not np.array_equal(model.infer({"x": x[own]})["y"], expected[own]))

        threads = [threading.Thread(target=ask, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_thread_never_gets_the_plan_of_anothers_arrays() -> None:
    def body_bytes(plans: RequestPlans, rows: int) -> int:
        plan = plans.plan({"x": np.ones((rows, 4), np.float32)}, None)
        return plan.body_bytes - len(plan.document)

    class Interleaved(RequestPlans):
        """Another thread asks for the same arrays whenever one of these attributes is set."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if self.__dict__.get("_kept"):
                assert body_bytes(self, 5) == 80

    plans = Interleaved("%d %d")
    assert body_bytes(plans, 1) == 16
    assert body_bytes(plans, 5) == 80


def test_a_request_without_inputs_is_refused_by_the_device(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx())).serve()
    for shm in (False, None):
        with Model("digits", socket=rig.socket_path, shm=shm, timeout_s=5) as model:
            with pytest.raises(InferenceError) as refused:
                model.infer({})
            assert refused.value.status == 400


class Interrupted(socket.socket):
    """A socket whose user presses Ctrl-C while waiting."""

    def recv(self, *_: object) -> bytes:
        raise KeyboardInterrupt

    def recv_into(self, *_: object) -> int:
        raise KeyboardInterrupt


@pytest.mark.parametrize("is_shared", [False, True])
def test_an_answer_that_was_not_waited_for_is_not_that_of_the_next_request(*, is_shared: bool) -> None:
    ours, theirs = socket.socketpair()
    link: HttpLink | MemoryLink
    if is_shared:
        link = MemoryLink("/nowhere", "/", "", 1.0)
        link._region, link._capacity = mmap.mmap(-1, 4096), 4096
    else:
        link = HttpLink("/nowhere", 1.0)
    link._socket = Interrupted(fileno=ours.detach())
    with pytest.raises(KeyboardInterrupt):
        link.exchange(b"{}", [], 2) if isinstance(link, MemoryLink) else link.exchange([b"{}"], 2)
    assert not link.is_open
    theirs.close()


@pytest.mark.parametrize("shm", [False, None])
def test_nor_is_one_to_a_request_that_was_asked_before(rig: Rig, shm: bool | None) -> None:
    rig.start(bundle_bytes(classifier_onnx())).serve()
    rows = [np.eye(1, 4, place, dtype=np.float32) for place in (0, 1)]
    with Model("digits", socket=rig.socket_path, shm=shm) as model:
        expected = [model.infer({"x": x})["y"].tobytes() for x in rows]
        link = model._memory if model._memory is not None else model._link
        assert link._socket is not None
        link._socket = Interrupted(fileno=link._socket.detach())
        with pytest.raises(KeyboardInterrupt):
            model.infer({"x": rows[0]})
        assert not link.is_open
        assert model.infer({"x": rows[1]})["y"].tobytes() == expected[1]
        assert expected[0] != expected[1]


@pytest.mark.parametrize("shm", [False, None])
def test_a_forked_child_asks_on_connections_of_its_own(rig: Rig, shm: bool | None) -> None:
    rig.start(bundle_bytes(classifier_onnx())).serve()
    script = f"""
import os
import numpy
from edgefleet_agent.client import Model
model = Model("digits", socket={str(rig.socket_path)!r}, shm={shm})
def ask():
    assert model.infer({{"x": numpy.ones((1, 4), "float32")}})["y"].shape == (1, 3)
ask()
was_open = model._link.is_open, model.is_shared
model._turn.acquire()
child = os.fork()
if child == 0:
    is_kept = model._link.is_open or model.is_shared
    ask()
    os._exit(int(is_kept))
model._turn.release()
assert os.waitpid(child, 0)[1] == 0
assert was_open == (model._link.is_open, model.is_shared)
ask()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
