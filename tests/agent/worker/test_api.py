"""The Open Inference Protocol as a caller sees it, on a real worker."""

import asyncio
import io
import json
import socket
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import pytest

from edgefleet_agent.client import InferenceError, InferenceUnreachableError, Model
from edgefleet_agent.worker.control.protocol import GetStats, RoutesTable, Start, Stats
from edgefleet_agent.worker.http.api import TIMEOUT_HEADER, Api
from edgefleet_agent.worker.http.server import Request
from edgefleet_agent.worker.observe.answer_log import AnswerLog
from edgefleet_agent.worker.routing.proxy import WorkerProxy
from edgefleet_agent.worker.routing.table import Routes
from edgefleet_agent.worker.runtime.engine import Engine, InlinePolicy
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import RunError
from edgefleet_runtime.postprocess import build_postprocessor
from tests.agent.worker.conftest import WAIT_S, Rig
from tests.agent.worker.models import big_onnx, bundle_bytes, classifier_onnx, crash_onnx

COLUMNS = {
    "v": 1,
    "inputs": [{"name": "x", "from": "columns", "columns": ["a", "b", "c", "d"], "missing": 0.0}],
}
IMAGE = {
    "v": 1,
    "inputs": [
        {
            "name": "x",
            "from": "image",
            "steps": [
                {"op": "decode", "mode": "grayscale"},
                {"op": "resize", "width": 2, "height": 2, "method": "area"},
                {"op": "scale", "factor": 1 / 255},
                {"op": "reshape", "shape": [1, 4]},
            ],
        }
    ],
}
TOP = {"v": 1, "outputs": [{"name": "y", "steps": [{"op": "top_k", "k": 2}]}]}
LABELS = b"zero\none\ntwo\n"


def _tensor(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    tensor.update(changes)
    return json.dumps({"inputs": [{k: v for k, v in tensor.items() if v is not None}]}).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A rig with one serving classifier; no test ends it or looks at its figures."""
    rig = Rig(tmp_path_factory.mktemp("served"))
    rig.start(bundle_bytes(classifier_onnx())).serve()
    yield rig
    rig.close()


def test_server_and_model_metadata(served: Rig) -> None:
    assert served.request("GET", "/v2")[1]["extensions"][:2] == ["binary_tensor_data", "statistics"]
    assert served.request("GET", "/v2/health/live")[0] == 200
    assert served.request("GET", "/v2/health/ready")[1] == {"ready": True}
    status, model, _ = served.request("GET", "/v2/models/digits")
    assert (status, model["versions"], model["platform"]) == (200, ["1.0.0"], "onnx_onnxruntime")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert served.request("GET", "/v2/models/digits/versions/1.0.0/ready")[0] == 200
    assert served.request("GET", "/v2/models/digits/versions/9/ready")[0] == 404
    assert served.request("POST", "/v2/repository/index")[1][0]["state"] == "READY"


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 403),
        ("Host", "127.0.0.1.evil.example:8500", 403),
        ("Host", "localhost.evil.example", 403),
        ("Origin", "https://evil.example", 403),
        ("Origin", "http://localhost.evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost:3000", 200),
        ("Origin", "http://127.0.0.1:8080", 200),
        ("Host", "localhost:1", 200),
        ("Host", "[::1]:8500", 200),
    ],
)
def test_a_web_page_cannot_use_the_loopback_port(served: Rig, header: str, value: str, status: int) -> None:
    answer = served.request("POST", "/v2/models/digits/infer", _tensor(), {header: value})
    assert answer[0] == status
    assert ("error" in answer[1]) == (status == 403)


def test_the_unix_socket_takes_any_host(served: Rig) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served.socket_path))
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: camera.internal\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_json_inference_echoes_the_id_and_selects_outputs(served: Rig) -> None:
    body = json.loads(_tensor())
    body |= {"id": "abc", "outputs": [{"name": "y"}]}
    status, answer, _ = served.request("POST", "/v2/models/digits/infer", json.dumps(body).encode())
    assert (status, answer["id"], len(answer["outputs"])) == (200, "abc", 1)
    assert sum(answer["outputs"][0]["data"]) == pytest.approx(1)


def test_nested_data_is_accepted(served: Rig) -> None:
    flat = served.request("POST", "/v2/models/digits/infer", _tensor())[1]
    nested = served.request("POST", "/v2/models/digits/infer", _tensor(data=[[1, 2, 3, 4.0]]))[1]
    assert flat["outputs"] == nested["outputs"]


def test_binary_tensors_both_ways_through_the_client(served: Rig) -> None:
    x = np.random.default_rng(1).random((5, 4), dtype=np.float32)
    for model in (
        Model("digits", url=f"http://127.0.0.1:{served.port}"),
        Model("digits", socket=served.socket_path, version="1.0.0"),
    ):
        with model:
            y = model.infer({"x": x})["y"]
            assert (y.dtype, y.shape) == (np.float32, (5, 3))
            exponents = np.exp(x[:, :3])
            np.testing.assert_allclose(y, exponents / exponents.sum(axis=1, keepdims=True), rtol=1e-5)
            assert model.ready()
            with pytest.raises(InferenceError, match=r"must be|must have"):
                model.infer({"x": x.astype(np.float64)})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not an inference request"),
        (b"[1", "not an inference request"),
        (b"{}", "inputs"),
        (_tensor(name="z"), "not an input"),
        (_tensor(datatype="FP64"), "datatype FP32"),
        (_tensor(shape=[1, 5]), "shape [n, 4]"),
        (_tensor(shape=[4]), "shape [n, 4]"),
        (_tensor(shape=[-1, 4]), "shape [n, 4]"),
        (_tensor(data=[1, 2, 3]), "3 values"),
        (_tensor(data=[1, 2, 3, "four"]), "FP32 values"),
        (_tensor(data=[1, 2, 3, None]), "FP32 values"),
        (_tensor(data=[1, 2, 3, True]), "FP32 values"),
        (_tensor(data=None), "neither data"),
        (_tensor(parameters={"binary_data_size": 16}), "binary_data_size"),
        (b'{"inputs": []}', "lacks the inputs x"),
        (b"[" * 100_000, "not an inference request"),
    ],
)
def test_bad_inputs_are_refused_with_what_was_expected(served: Rig, body: bytes, words: str) -> None:
    status, answer, _ = served.request("POST", "/v2/models/digits/infer", body)
    assert status == 400
    assert words in answer["error"]
    assert served.infer([[1, 2, 3, 4]])[0] == 200


def test_addresses_and_methods(served: Rig) -> None:
    assert served.request("GET", "/v2/models/digits/infer")[0] == 405
    assert served.request("POST", "/v2/models/digits")[2]["allow"] == "GET"
    assert served.request("GET", "/nothing")[0] == 404
    assert served.request("GET", "/v2/models/other")[0] == 404
    assert served.request("GET", "/v2/models/digits/nothing")[0] == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
    ],
)
def test_malformed_http_is_answered_and_closed(served: Rig, data: bytes, status: bytes) -> None:
    answer = served.raw(data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'{"error":' in answer
    assert served.request("GET", "/v2")[0] == 200


def test_a_chunked_body_beyond_the_limit_is_refused(rig: Rig) -> None:
    rig.start(bundle_bytes(classifier_onnx()), max_body_bytes=1000).serve()
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert rig.raw(head + b"400\r\n" + b"a" * 1024 + b"\r\n").startswith(b"HTTP/1.1 413")


def test_pipelined_and_kept_alive_requests_are_answered_in_order(served: Rig) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = served.raw(one * 50 + last)
    assert answer.count(b"HTTP/1.1 200") == 51
    assert answer.rstrip().endswith(b"}")
    assert b"extensions" in answer.rsplit(b"HTTP/1.1", 1)[1]


def test_a_body_sent_byte_by_byte_after_100_continue(served: Rig) -> None:
    body = _tensor()
    head = (
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nConnection: close\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=WAIT_S) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        for i in range(len(body)):
            connection.sendall(body[i : i + 1])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_large_tensor_in_json_and_binary(rig: Rig) -> None:
    size = 25_600
    rig.start(bundle_bytes(big_onnx(size))).serve()
    body = {"inputs": [{"name": "x", "shape": [1, size], "datatype": "FP32", "data": [0.5] * size}]}
    status, answer, _ = rig.request("POST", "/v2/models/digits/infer", json.dumps(body).encode())
    assert status == 200
    assert set(answer["outputs"][0]["data"]) == {1.5}
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        assert model.infer({"x": np.zeros((1, size), np.float32)})["y"].sum() == size


@pytest.mark.parametrize("length", ["x", "-1", "9" * 12, "9" * 5000])
def test_a_length_of_the_json_that_is_none_is_refused(served: Rig, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    status, answer, _ = served.request("POST", "/v2/models/digits/infer", _tensor(), headers)
    assert (status, answer["error"]) == (400, "Inference-Header-Content-Length must be a number of bytes.")


def test_predict_rows_from_csv_json_and_npy(rig: Rig) -> None:
    extra = {
        "preprocess.json": json.dumps(COLUMNS).encode(),
        "postprocess.json": json.dumps(TOP).encode(),
        "labels.txt": LABELS,
    }
    rig.start(bundle_bytes(classifier_onnx(), extra=extra)).serve()
    expected = ["zero", "two"]

    def labels(body: bytes, media: str) -> list[str]:
        status, answer, _ = rig.request("POST", "/v2/models/digits/predict", body, {"Content-Type": media})
        assert status == 200, answer
        return [p["y"][0]["label"] for p in answer["predictions"]]

    assert labels(b"d,c,b,a\n0,0,0,9\n0,9,,0\n", "text/csv") == expected
    assert labels(b"9,0,0,0\n0,0,9,0\n", "text/csv; charset=utf-8") == expected
    rows = [{"a": 9, "b": 0, "c": 0, "d": 0}, {"a": 0, "b": 0, "c": 9, "d": None}]
    assert labels(json.dumps({"rows": rows}).encode(), "application/json") == expected
    assert labels(json.dumps(rows[0]).encode(), "application/json") == ["zero"]
    buffer = io.BytesIO()
    np.save(buffer, np.array([[9, 0, 0, 0], [0, 0, 9, 0]]))
    assert labels(buffer.getvalue(), "application/octet-stream") == expected
    for body, media, words, code in (
        (b"a,b\n1,2\n", "text/csv", "lacks the column c", 400),
        (b"a,b,c,d\n1,2,x,4\n", "text/csv", "must be a number", 400),
        (b"\xff\xfe\x00", "text/csv", "not CSV", 400),
        (b"nope", "application/octet-stream", "not a .npy", 400),
        (b"\xff\xd8", "image/jpeg", "does not take an image", 400),
        (b"", "text/html", "does not read text/html", 415),
    ):
        status, answer, _ = rig.request("POST", "/v2/models/digits/predict", body, {"Content-Type": media})
        assert (status, words in answer["error"]) == (code, True), answer


def test_a_matrix_of_floats_takes_rows_without_a_preprocess_file(rig: Rig, tmp_path: Path) -> None:
    rig.start(bundle_bytes(classifier_onnx(), extra={"labels.txt": LABELS})).serve()
    (tmp_path / "plain.csv").write_text("9,0,0,0\n0,0,9,0\n")
    (tmp_path / "named.csv").write_text("sepal length,sepal width,petal length,petal width\n9,0,0,0\n0,0,9,0\n")
    lists = [[9, 0, 0, 0], [0, 0, 9, 0]]
    objects = [dict(zip("abcd", row, strict=True)) for row in lists]
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        for data in (
            tmp_path / "plain.csv", tmp_path / "named.csv", lists, objects, {"rows": lists}, {"rows": objects},
            {"instances": lists}, {"instances": objects}, {"data": lists}, {"inputs": {"x": lists}},
        ):  # fmt: skip
            answer = model.predict(data)
            assert [p["y"][0]["label"] for p in answer["predictions"]] == ["zero", "two"], data
        assert model.predict([9, 0, 0, 0])["predictions"] == model.predict(objects[0])["predictions"]
        with pytest.raises(InferenceError, match=r"line 2, column 3 is empty"):
            model.predict(b"1,2,3,4\n1,2,,4\n", content_type="text/csv")
        with pytest.raises(InferenceError, match="there is no row"):
            model.predict({"rows": []})


def test_predict_runs_samples_one_by_one_where_the_model_takes_one(rig: Rig) -> None:
    rig.start(bundle_bytes(big_onnx(3))).serve()
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        answer = model.predict(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
        assert [p["y"] for p in answer["predictions"]] == [[2, 3, 4], [5, 6, 7]]
        assert model.predict([[1, 2, 3]])["predictions"] == [{"y": [2, 3, 4]}]
        rows = model.predict(b"1,2,3\n4,5,6\n", content_type="text/csv")
        assert [p["y"] for p in rows["predictions"]] == [[2, 3, 4], [5, 6, 7]]
        assert model.predict({"inputs": {"x": [[1, 2, 3]]}})["predictions"] == [{"y": [2, 3, 4]}]
        with pytest.raises(InferenceError, match="0 samples"):
            model.predict(np.zeros((0, 3), np.float32))
        with pytest.raises(InferenceError, match=r"shape \[1, 3\]"):
            model.predict([1, 2])


def test_predict_an_image(rig: Rig) -> None:
    from PIL import Image

    extra = {
        "preprocess.json": json.dumps(IMAGE).encode(),
        "postprocess.json": json.dumps(TOP).encode(),
        "labels.txt": LABELS,
    }
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=extra))
    worker.serve()
    pixels = np.zeros((20, 20), np.uint8)
    pixels[:10, 10:] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        for payload, media in ((buffer.getvalue(), "image/png"), (pixels, None)):
            answer = model.predict(payload, content_type=media)
            assert answer["predictions"][0]["y"][0]["label"] == "one"
        with pytest.raises(InferenceError, match="not a readable image"):
            model.predict(b"\x89PNG broken", content_type="image/png")
    worker.link.send(GetStats())
    assert worker.until(Stats).classes == [0, 2]


def test_a_slow_model_is_answered_504_and_counted(rig: Rig) -> None:
    x = np.ones((8, 4), np.float32)  # each run averages 27 million numbers
    outputs = {"y": x + np.float32(4)}
    slow = bundle_bytes(crash_onnx(300), golden_inputs=x, golden_outputs=outputs)
    worker = rig.start(slow, run_timeout_s=0.001)
    worker.serve()
    assert rig.infer([[1, 2, 3, 4]])[0] == 504
    worker.link.send(GetStats())
    stats = worker.until(Stats)
    assert (stats.n, stats.timeouts, stats.errors) == (1, 1, 1)


def test_what_fails_after_its_caller_gave_up_is_counted_once() -> None:
    specs = (TensorSpec(name="x", dtype="float32", shape=["n", 4]),)
    go = threading.Event()

    def fail(_inputs: object) -> NoReturn:
        go.wait(WAIT_S)
        raise RunError("broken")

    async def run() -> Stats:
        loop = asyncio.get_running_loop()
        start = Start("digits", "1.0.0", "d" * 64, "active", "A", bundle_fd=-1)
        served = SimpleNamespace(
            start=start,
            runtime=SimpleNamespace(inputs=specs, outputs=specs, run=fail),
            postprocess=build_postprocessor(None, (), specs),
        )
        engine, figures, routes = Engine(loop), WorkerStats(), Routes("", RoutesTable(), loop)
        watch = AnswerLog(start, "x", lambda _message: None)
        api = Api(cast("Any", served), engine, InlinePolicy(1e9), figures, routes, WorkerProxy(1.0), watch)
        asked = Request("POST", "/v2/models/digits/infer", [(TIMEOUT_HEADER, b"1")], _tensor())
        answer = api.handle(asked)
        assert isinstance(answer, Awaitable)
        assert (await answer).status == 504
        go.set()
        while not engine.is_idle:
            await asyncio.sleep(0.001)
        return figures.take()

    stats = asyncio.run(run())
    assert (stats.n, stats.timeouts, stats.errors) == (1, 1, 1)


def test_a_timeout_is_counted_as_an_error_in_the_same_moment() -> None:
    figures, seen = WorkerStats(), list[tuple[int, int, int]]()

    class Watched:
        """A lock that looks at the figures whenever a reader could."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            seen.append((figures._delta.n, figures._delta.timeouts, figures._delta.errors))

    figures._lock = cast("Any", Watched())
    figures.timed_out()
    assert seen == [(1, 1, 1)]


def test_a_caller_that_gives_up_is_not_worked_for(rig: Rig) -> None:
    x = np.ones((8, 4), np.float32)
    slow = bundle_bytes(crash_onnx(300), golden_inputs=x, golden_outputs={"y": x + np.float32(4)})
    worker = rig.start(slow)
    worker.serve()
    assert rig.request("POST", "/v2/models/digits/infer", _tensor(), {"X-Edgefleet-Timeout-Ms": "1"})[0] == 504
    hurried = json.dumps({**json.loads(_tensor()), "parameters": {"timeout": 1}}).encode()
    # the run of the one before still goes on: this one waits longer than its microsecond
    status, answer, _ = rig.request("POST", "/v2/models/digits/infer", hurried)
    assert (status, "timeout of 1e-06 s" in answer["error"]) == (504, True)
    worker.link.send(GetStats())
    assert worker.until(Stats).timeouts == 2


def test_client_says_when_nothing_listens(rig: Rig) -> None:
    with (
        Model("digits", socket=rig.folder / "none.sock") as model,
        pytest.raises(InferenceUnreachableError, match="cannot be reached"),
    ):
        model.metadata()
