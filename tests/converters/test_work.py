"""Counts of what one run does, against counts by hand; the same in any thread, on any run, for open dimensions and branches."""

import io
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.cost.count_step import count_step
from edgefleet_converters.cost.onnx_work import onnx_work
from edgefleet_converters.cost.tflite_work import tflite_work
from edgefleet_converters.errors import TransformError
from edgefleet_protocol.bundle import open_bundle
from tests.converters import tflite_graphs
from tests.converters.graphs import classifier, model_of, run, save

RANDOM = np.random.default_rng(0)


def ones(*shape: int) -> Any:
    """Return float32 values of a shape."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def counted(model: onnx.ModelProto, **inputs: Any) -> dict[str, Any]:
    """Return the work of a model."""
    return onnx_work(model.SerializeToString(), inputs)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_gemm_counts_as_by_hand_for_the_length_that_is_run(batch: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    work = counted(classifier(features=16, classes=4), x=ones(batch, 16))
    assert work == {
        "nodes": 3, "macs": {"matmul.float": batch * (16 * 32 + 32 * 4)}, "products": {"matmul.float": 2}, "integers": {},
        "weight_bytes": 4 * (16 * 32 + 32 + 32 * 4 + 4),
        "activation_bytes": 4 * batch * (16 + 32 + 32 + 32 + 32 + 4), "largest_bytes": 4 * batch * 64,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [], "the profile of the run was left behind"


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], dict[str, int]]] = {
    "conv": (
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), {"w": ones(8, 3, 3, 3)}, {"x": ones(1, 3, 10, 10)},
        {"conv.float": 100 * 8 * 3 * 9},
    ),
    "conv of one channel is not depthwise": (
        helper.make_node("Conv", ["x", "w"], ["y"]), {"w": ones(8, 1, 3, 3)}, {"x": ones(1, 1, 10, 10)},
        {"conv.float": 64 * 8 * 9},
    ),
    "depthwise": (
        helper.make_node("Conv", ["x", "w"], ["y"], group=8), {"w": ones(8, 1, 3, 3)}, {"x": ones(1, 8, 10, 10)},
        {"depthwise.float": 64 * 8 * 9},
    ),
    "transposed": (
        helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"w": ones(4, 6, 2, 2)}, {"x": ones(1, 4, 5, 5)},
        {"conv.float": 25 * 4 * 6 * 4},
    ),
    "batched matmul": (
        helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": ones(2, 5, 7)}, {"x": ones(2, 3, 5)},
        {"matmul.float": 2 * 3 * 5 * 7},
    ),
    "transposed gemm": (
        helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), {"w": ones(7, 5)}, {"x": ones(5, 3)},
        {"matmul.float": 3 * 5 * 7},
    ),
    "einsum": (
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), {"w": ones(5, 7)}, {"x": ones(2, 3, 5)},
        {"matmul.float": 2 * 3 * 5 * 7},
    ),
    "lstm": (
        helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=6), {"w": ones(1, 24, 5), "r": ones(1, 24, 6)},
        {"x": ones(4, 2, 5)}, {"recurrent.float": 4 * 2 * (24 * 5 + 24 * 6)},
    ),
    "no multiplications": (helper.make_node("Relu", ["x"], ["y"]), {}, {"x": ones(3, 3)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operator_counts_as_by_hand(name: str) -> None:
    node, tensors, inputs, macs = CASES[name]
    (given,) = inputs
    rank = {"conv": 4, "lstm": 4}.get(name, inputs[given].ndim)
    model = model_of([node], tensors, {given: list(inputs[given].shape)}, {"y": [f"d{i}" for i in range(rank)]})
    work = counted(model, **inputs)
    assert work["macs"] == macs
    assert work["weight_bytes"] == sum(array.nbytes for array in tensors.values())


def test_between_dequantize_and_quantize_the_numbers_are_small() -> None:
    scale, zero = np.float32(0.1), np.int8(0)
    tensors = {"w": RANDOM.integers(-9, 9, (16, 8)).astype(np.int8), "s": scale, "z": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]), helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]), helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]), helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]  # fmt: skip
    work = counted(model_of(nodes, tensors, {"x": [1, 16]}, {"y": [1, 8]}), x=ones(1, 16))
    assert work == {
        "nodes": 1, "macs": {"matmul.int8": 128}, "products": {"matmul.int8": 1}, "integers": {}, "weight_bytes": 128,
            "activation_bytes": 24, "largest_bytes": 24,
    }  # fmt: skip
    weights_only = [nodes[2], helper.make_node("MatMul", ["x", "wd"], ["y"])]
    work = counted(model_of(weights_only, tensors, {"x": [1, 16]}, {"y": [1, 8]}), x=ones(1, 16))
    assert (work["macs"], work["weight_bytes"]) == ({"matmul.float": 128}, 512)


@pytest.mark.parametrize(("chosen", "macs"), [(True, {"matmul.float": 16 * 8}), (False, {})])
def test_only_the_branch_that_is_taken_counts(chosen: bool, macs: dict[str, int]) -> None:
    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            [node], "b", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [1, 8])]
        )

    taken = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch(helper.make_node("MatMul", ["x", "w"], ["p"])),
        else_branch=branch(helper.make_node("Identity", ["v"], ["q"])),
    )  # fmt: skip
    ends = {"c": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, [1, 16]), "y": (TensorProto.FLOAT, [1, 8])}
    c, x, y = (helper.make_tensor_value_info(name, *facts) for name, facts in ends.items())
    weights = [numpy_helper.from_array(ones(16, 8), "w"), numpy_helper.from_array(ones(1, 8), "v")]
    graph = helper.make_graph([taken], "g", [c, x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert counted(model, c=np.array(chosen), x=ones(1, 16))["macs"] == macs


def test_a_model_that_does_not_run_is_not_counted() -> None:
    with pytest.raises(ValueError, match="onnxruntime"):
        counted(classifier(), x=ones(1, 3))


@pytest.mark.slow
def test_the_compiled_form_counts_what_the_source_counts(tmp_path: Path) -> None:
    source, out = save(classifier(features=16, classes=4), tmp_path), tmp_path / "out"
    reports = [
        run(source, out / profile, [profile], precision="fp32")[0]
        for profile in ("generic-x86_64-ort", "generic-x86_64-litert")
    ]
    works = [report.bundles[0].work for report in reports]
    assert [work["macs"] for work in works] == [{"matmul.float": 16 * 32 + 32 * 4}] * 2
    assert works[1]["weight_bytes"] == works[0]["weight_bytes"]
    for report in reports:
        manifest = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes())).manifest
        assert manifest.report["work"] == report.bundles[0].work
        assert json.loads(json.dumps(report.bundles[0].work)) == report.bundles[0].work


def test_a_tflite_file_counts_from_its_own_shapes() -> None:
    work = tflite_work(tflite_graphs.classifier(features=16, classes=4))
    assert work["macs"] == {"matmul.float": 16 * 4}
    for cut in (b"", b"TFL3", tflite_graphs.classifier()[:200]):
        with pytest.raises(ValueError, match="read"):
            tflite_work(cut)


def test_a_run_that_would_be_told_at_length_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(classifier(), tmp_path)
    np.savez(tmp_path / "x.npz", x=ones(2, 16))
    args = {
        "model": str(model), "format": "onnx", "samples": str(tmp_path / "x.npz"),
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 16]}],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        assert count_step(args)["work"]["nodes"] == 3
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        monkeypatch.setattr("edgefleet_converters.cost.count_step.MAX_ACCOUNT_BYTES", 500)
        with pytest.raises(TransformError, match="counted"):
            count_step(args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_integers_make_slower_is_counted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    scale = {"s": np.float32(0.1), "z": np.uint8(128)}

    def work_of(*nodes: onnx.NodeProto, **tensors: Any) -> dict[str, Any]:
        return counted(model_of(list(nodes), scale | tensors, {"x": [2, 8]}, {"y": [2, 8]}), x=ones(2, 8))

    rounded = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]

    def between(node: onnx.NodeProto) -> dict[str, Any]:
        found: dict[str, Any] = work_of(*rounded[:2], node, *rounded[2:])["integers"]
        return found

    assert between(helper.make_node("Softmax", ["xd"], ["m"])) == {"softmax": 16}
    assert between(helper.make_node("Mul", ["xd", "xd"], ["m"])) == {"round": 16}
    assert between(helper.make_node("Add", ["xd", "xd"], ["m"])) == {}, "an integer kernel as fast"
    assert between(helper.make_node("Erf", ["xd"], ["m"])) == {"round": 32}, "made float32 in front, integers behind"
    product = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "w", "qz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["f", "qs"], ["y"]),
    ]
    found = work_of(*product, w=np.ones((8, 8), np.int8))
    assert (found["integers"], found["products"]) == ({"round": 16}, {"matmul.int8": 1})
