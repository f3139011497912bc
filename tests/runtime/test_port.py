"""The port over all installed runtimes, on real files."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import port
from tests.runtime.tflite_files import fully_connected

W = np.arange(8, dtype=np.float32).reshape(2, 4)
X = np.array([[1, 2, 3, 4]], np.float32)
LITE = [r.name for r in port.available() if r.name in {"litert", "tflite"}]


def _onnx(nodes: list[object], inputs: list[object], outputs: list[object], opset: int = 17) -> bytes:
    graph = helper.make_graph(nodes, "t", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _info(name: str, kind: int, shape: list[int | str]) -> object:
    return helper.make_tensor_value_info(name, kind, shape)


def test_available_imports_no_runtime() -> None:
    code = (
        "import sys; from edgefleet_runtime import port; assert port.available(); "
        "assert not {'onnxruntime', 'ai_edge_litert', 'tflite_runtime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_runtime_is_said() -> None:
    with pytest.raises(port.RuntimeMissingError, match="no runtime called 'tvm'"):
        port.load("tvm", b"")


def test_ort_keeps_order_names_and_dtypes() -> None:
    model = _onnx(
        [
            helper.make_node("Cast", ["b"], ["bf"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "bf"], ["z"]),
            helper.make_node("Not", ["c"], ["y"]),
        ],
        [_info("b", TensorProto.INT64, [2]), _info("a", TensorProto.FLOAT, ["n"]), _info("c", TensorProto.BOOL, [1])],
        [_info("z", TensorProto.FLOAT, ["n"]), _info("y", TensorProto.BOOL, [1])],
    )
    loaded = port.load("ort", memoryview(model))
    assert [(s.name, s.dtype, s.shape) for s in loaded.inputs] == [
        ("b", "int64", [2]),
        ("a", "float32", ["n"]),
        ("c", "bool", [1]),
    ]
    result = loaded.run(
        {"a": np.ones(2, np.float32), "b": np.array([1, 2]), "c": np.array([True])}  # another order than declared
    )
    assert list(result) == ["z", "y"]
    assert result["z"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "missing x"),
        ({"x": X, "q": X}, "unknown q"),
        ({"x": X.astype(np.float64)}, "must be float32, got float64"),
        ({"x": X[0]}, r"shape \[1, 4\], got \[4\]"),
    ],
)
@pytest.mark.parametrize("runtime", LITE)
def test_inputs_are_checked_before_native_code(runtime: str, inputs: dict[str, port.Array], words: str) -> None:
    loaded = port.load(runtime, fully_connected(W, signature=("x", "y")))
    with pytest.raises(port.InputError, match=words):
        loaded.run(inputs)


@pytest.mark.parametrize("runtime", LITE)
def test_lite_names_come_from_signature_then_declaration_then_file(runtime: str) -> None:
    plain, signed = fully_connected(W), fully_connected(W, signature=("x", "y"))
    assert port.load(runtime, plain).inputs[0].name == "in_tensor"
    assert port.load(runtime, signed).inputs[0].name == "x"
    io = port.ModelIO(
        (TensorSpec(name="image", dtype="float32", shape=["n", 4], layout="NC"),),
        (TensorSpec(name="logits", dtype="float32", shape=["n", 2]),),
    )
    declared = port.load(runtime, plain, spec=io)
    assert declared.inputs[0] == TensorSpec(name="image", dtype="float32", shape=[1, 4], layout="NC")
    np.testing.assert_allclose(declared.run({"image": X})["logits"], X @ W.T)
    for wrong in ((TensorSpec(name="image", dtype="int8", shape=[1, 4]),), (), io.inputs * 2):
        with pytest.raises(port.ModelLoadError, match="do not describe"):
            port.load(runtime, plain, spec=port.ModelIO(wrong, io.outputs))


@pytest.mark.parametrize("runtime", LITE)
def test_lite_resizes_a_free_batch_back_and_forth(runtime: str) -> None:
    loaded = port.load(runtime, fully_connected(W, batch_free=True, signature=("x", "y")))
    assert loaded.inputs[0].shape == ["dim0", 4]
    for n in (1, 5, 2, 5, 1):
        x = np.random.default_rng(n).random((n, 4), dtype=np.float32)
        np.testing.assert_allclose(loaded.run({"x": x})["y"], x @ W.T, rtol=1e-5)


@pytest.mark.parametrize("runtime", LITE)
def test_lite_quantized_edges_stay_integers_with_their_scale(runtime: str) -> None:
    weights = np.array([[10, 20, 30, 40], [1, 1, 1, 1]], np.int8)
    loaded = port.load(runtime, fully_connected(weights, scales=(0.5, 0.1, 1.0), signature=("x", "y")))
    spec = loaded.inputs[0]
    assert (spec.dtype, spec.quantization and spec.quantization.scale) == ("int8", 0.5)
    answer = loaded.run({"x": np.array([[2, 2, 2, 2]], np.int8)})["y"]  # 1.0 each
    assert answer.dtype == np.int8
    assert answer.tolist() == [[10, 0]]


@pytest.mark.parametrize("runtime", LITE)
def test_an_answer_outlives_the_next_run(runtime: str) -> None:
    loaded = port.load(runtime, fully_connected(W, signature=("x", "y")))
    first = loaded.run({"x": X})["y"]
    kept = first.copy()
    loaded.run({"x": X * 100})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("runtime", ["ort", *LITE])
@pytest.mark.parametrize("data", [b"", b"not a model", b"TFL3" * 10])
def test_what_is_no_model_is_refused(runtime: str, data: bytes) -> None:
    with pytest.raises(port.ModelLoadError, match="cannot load the model"):
        port.load(runtime, data)


def test_ort_sequence_outputs_are_refused_with_a_cure() -> None:
    model = _onnx(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(port.ModelLoadError, match="seq") as refused:
        port.load("ort", model)
    assert "zipmap" in refused.value.next_step


def test_ort_failure_while_running_is_a_run_error() -> None:
    model = _onnx(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [_info("x", TensorProto.FLOAT, ["n"]), _info("s", TensorProto.INT64, [1])],
        [_info("y", TensorProto.FLOAT, ["m"])],
    )
    loaded = port.load("ort", model)
    with pytest.raises(port.RunError):
        loaded.run({"x": np.ones(4, np.float32), "s": np.array([3])})
    assert loaded.run({"x": np.ones(4, np.float32), "s": np.array([4])})["y"].shape == (4,)
