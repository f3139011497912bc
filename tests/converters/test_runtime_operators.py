"""Sources with onnxruntime's own operators, and sources whose nodes are in no order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters import errors
from edgefleet_converters.onnx.limits import OnnxLimits
from edgefleet_converters.onnx.load import read_checked
from tests.converters.graphs import Array, classifier, data_for, model_of, run, samples, save

CONTRIB = "com.microsoft"


def fused_encoder() -> onnx.ModelProto:
    """Return `x` float32 [1, 8, 32] -> Attention, BiasGelu, MatMulNBits and FusedMatMul -> `y` [1, 8, 8]."""
    random = np.random.default_rng(3)

    def normal(*shape: int) -> Array:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {
        "wqkv": normal(32, 96), "bqkv": normal(96), "bias": normal(32), "last": normal(8, 32),
        "q4": random.integers(0, 255, (32, 1, 16)).astype(np.uint8), "s4": np.full(32, 0.02, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Attention", ["x", "wqkv", "bqkv"], ["a"], name="att", domain=CONTRIB, num_heads=4),
        helper.make_node("BiasGelu", ["a", "bias"], ["g"], name="gelu", domain=CONTRIB),
        helper.make_node(
            "MatMulNBits", ["g", "q4", "s4"], ["m"], name="four", domain=CONTRIB, K=32, N=32, bits=4, block_size=32
        ),
        helper.make_node("FusedMatMul", ["m", "last"], ["y"], name="fused", domain=CONTRIB, transB=1, alpha=0.5),
    ]
    model = model_of(nodes, tensors, {"x": [1, 8, 32]}, {"y": [1, 8, 8]})
    model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return model


def test_a_source_with_operators_of_onnxruntime_itself_is_served_there_and_refused_for_tflite(tmp_path: Path) -> None:
    source = save(fused_encoder(), tmp_path)
    x = np.random.default_rng(1).standard_normal((40, 8, 32)).astype(np.float32)
    report, _ = run(
        source, tmp_path / "out", ("generic-x86_64-ort", "generic-x86_64-litert"),
        {"calibration": samples(tmp_path, x=x)},
    )  # fmt: skip
    (refused,) = report.refused
    assert refused.profile == "generic-x86_64-litert"
    assert "com.microsoft" in refused.reason
    assert "not compiled to TFLite" in refused.reason
    assert "-ort profile" in refused.next
    (made,) = report.bundles
    assert made.profile == "generic-x86_64-ort"
    assert made.precision == "int4-weights"


@pytest.mark.parametrize(
    ("operator", "domain", "told", "next_step"),
    [
        ("QOrderedMatMul", CONTRIB, r"onnxruntime [\d.]+ has not on the CPU", "standard ONNX operators"),
        ("Conv", "com.microsoft.nchwc", "one kind of processor", "before onnxruntime optimised it"),
        ("Frobnicate", "com.acme", r"neither ONNX nor onnxruntime [\d.]+ has", "never loaded"),
    ],
)
def test_an_operator_that_the_runtime_lacks_is_refused_with_the_runtime(
    tmp_path: Path, operator: str, domain: str, told: str, next_step: str
) -> None:
    nodes = [helper.make_node(operator, ["x", "x"], ["y"], name="odd", domain=domain)]
    model = model_of(nodes, {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(errors.ForeignOperatorError, match=rf"'odd'.*{domain}::{operator}.*{told}") as caught:
        read_checked(save(model, tmp_path), None, OnnxLimits())
    assert next_step in caught.value.next_step


def _branch(name: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Neg", [f"{name}_m"], [f"{name}_o"]),
        helper.make_node("Abs", ["r"], [f"{name}_m"]),
    ]
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info(f"{name}_o", TensorProto.FLOAT, ["N", 32])]
    )


def test_nodes_in_no_order_are_sorted_also_in_branches(tmp_path: Path) -> None:
    model = classifier()
    sound = [node.name for node in model.graph.node]
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    branch = helper.make_node("If", ["flag"], ["b"], name="if", then_branch=_branch("t"), else_branch=_branch("e"))
    model.graph.node[2].input[0] = "b"
    nodes = [*reversed(model.graph.node), branch]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = read_checked(save(model, tmp_path), None, OnnxLimits())
    assert [node.name for node in read.graph.node] == [*sound[:2], "if", sound[2]]
    report, _ = run(save(model, tmp_path), tmp_path / "out", precision="fp32")
    assert [made.profile for made in report.bundles] == ["generic-x86_64-ort"]


def test_nodes_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    model = model_of(nodes, {}, {"x": [1, 4]}, {"b": [1, 4]})
    with pytest.raises(errors.InvalidModelError, match=r"'first'.*circle"):
        read_checked(save(model, tmp_path), None, OnnxLimits())


def test_a_sorted_model_keeps_its_order_to_the_byte(tmp_path: Path) -> None:
    model = classifier()
    read = read_checked(save(model, tmp_path), None, OnnxLimits())
    assert read.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert data_for(read)[0].shape == (120, 16)
