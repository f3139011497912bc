"""NVIDIA's own HTTP client, unchanged, against a worker: metadata, inference in JSON and binary, statistics, index, errors."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edgefleet_agent.worker.control.protocol import LaneRoute, ModelRoute, RoutesTable, write_routes
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx

LABELS = b"zero\none\ntwo\n"
X = np.array([[9, 0, 0, 0], [0, 0, 9, 0]], np.float32)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two models on one device: `digits` holds the public listeners, `other` is one hop away."""
    rig = Rig(tmp_path_factory.mktemp("triton"))
    workers = [
        rig.start(bundle_bytes(classifier_onnx(), extra={"labels.txt": LABELS})),
        rig.start(bundle_bytes(classifier_onnx(2.0), name="other"), model="other", public=False),
    ]
    models = {}
    for worker in workers:
        worker.serve()
        start = worker.start
        lane = LaneRoute(start.own_socket_path, start.version, start.digest, start.slot)
        models[start.model] = ModelRoute({"active": lane})
    write_routes(rig.routes_path, RoutesTable(models=models))
    yield rig
    rig.close()


@pytest.fixture
def client(device: Rig) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{device.port}", concurrency=2)
    yield made
    made.close()


def given(*, binary: bool, x: np.ndarray = X) -> list[triton.InferInput]:  # type: ignore[type-arg]
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return [tensor]


def test_health_metadata_configuration_and_index(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("other", "1.0.0")
    assert not client.is_model_ready("digits", "9")
    assert not client.is_model_ready("ghost")
    server = client.get_server_metadata()
    assert server["name"] == "edgefleet"
    assert {"binary_tensor_data", "statistics", "classification"} <= set(server["extensions"])
    for name in ("digits", "other"):
        model = client.get_model_metadata(name)
        assert (model["name"], model["versions"], model["platform"]) == (name, ["1.0.0"], "onnx_onnxruntime")
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        config = client.get_model_config(name, "1.0.0")
        assert (config["max_batch_size"], config["output"][0]["data_type"]) == (0, "TYPE_FP32")
    rows = client.get_model_repository_index()
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        ("digits", "1.0.0", "READY"),
        ("other", "1.0.0", "READY"),
    ]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("model", ["digits", "other"])
def test_inference_in_every_mixture_of_binary_and_json(
    client: triton.InferenceServerClient, model: str, sent: bool, wanted: bool
) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=wanted)]
    for request_id in ("", "r 7"):
        result = client.infer(model, given(binary=sent), outputs=outputs, request_id=request_id)
        y = result.as_numpy("y")
        assert (y.shape, y.dtype) == ((2, 3), np.float32)
        assert y.argmax(axis=1).tolist() == [0, 2]
        assert y.sum(axis=1) == pytest.approx([1, 1])
        answer = result.get_response()
        assert (answer["model_name"], answer["model_version"], answer.get("id", "")) == (model, "1.0.0", request_id)


def test_all_outputs_a_version_and_many_at_once(client: triton.InferenceServerClient) -> None:
    assert client.infer("digits", given(binary=True), model_version="1.0.0").as_numpy("y").shape == (2, 3)
    pending = [client.async_infer("digits", given(binary=i % 2 == 0)) for i in range(10)]
    assert all(each.get_result().as_numpy("y").shape == (2, 3) for each in pending)


@pytest.mark.parametrize("binary", [True, False])
def test_classes_in_the_place_of_values(client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=binary, class_count=2)]
    found = client.infer("digits", given(binary=True), outputs=outputs).as_numpy("y")
    words = [[(w.decode() if isinstance(w, bytes) else w).split(":") for w in row] for row in found]
    assert [row[0][1:] for row in words] == [["0", "zero"], ["2", "two"]]
    assert all(float(row[0][0]) >= float(row[1][0]) for row in words)


def test_statistics_of_one_model_and_of_all(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("other")["model_stats"][0]
    client.infer("other", given(binary=True))
    after = client.get_inference_statistics("other", "1.0.0")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["last_inference"] >= before["last_inference"] > 0 or before["last_inference"] == 0
    spent = after["inference_stats"]
    stages = [spent[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert spent["compute_infer"]["ns"] > 0
    assert abs(spent["success"]["ns"] - sum(stages)) < 10
    rows = client.get_inference_statistics()["model_stats"]
    assert [row["name"] for row in rows] == ["digits", "other"]


def test_errors_come_as_the_clients_exception_with_our_words(client: triton.InferenceServerClient) -> None:
    def refused(status: str, words: str, *arguments: object, **more: object) -> None:
        with pytest.raises(InferenceServerException) as told:
            client.infer(*arguments, **more)
        assert told.value.status() == status
        assert words in told.value.message()

    refused("404", "no model ghost", "ghost", given(binary=True))
    refused("404", "has no version 9", "digits", given(binary=True), model_version="9")
    refused("400", "must have the shape", "digits", given(binary=True, x=np.zeros((1, 5), np.float32)))
    wrong = triton.InferInput("x", [1, 4], "FP64")
    wrong.set_data_from_numpy(np.zeros((1, 4)))
    refused("400", "datatype FP32", "digits", [wrong])
    refused("400", "not one of this model", "digits", given(binary=True), outputs=[triton.InferRequestedOutput("z")])
    refused("415", "gzip", "digits", given(binary=True), request_compression_algorithm="gzip")
    shared = triton.InferInput("x", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    refused("400", "shared memory", "digits", [shared])
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="desired document"):
            call("digits")
    with pytest.raises(InferenceServerException, match="there is nothing at"):
        client.get_trace_settings()


def test_the_client_sees_what_other_callers_see(client: triton.InferenceServerClient, device: Rig) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]})
    plain = device.request("POST", "/v2/models/digits/infer", body.encode())[1]["outputs"][0]["data"]
    assert client.infer("digits", given(binary=True)).as_numpy("y").ravel().tolist() == pytest.approx(plain)
