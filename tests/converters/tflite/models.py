"""One-node ONNX models for tests, and running them in onnxruntime and, compiled, in a TFLite runtime."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.runtimes import RUNTIMES, TfliteRuntime
from edgefleet_runtime.port import load

Array = npt.NDArray[Any]
OPSET = 21


def one_node(
    op: str,
    inputs: Mapping[str, Array | None],
    constants: Sequence[str] = (),
    outputs: int = 1,
    *,
    opset: int = OPSET,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node. inputs: name -> example value, None = left out; those in `constants` are stored."""
    names = [name if value is not None else "" for name, value in inputs.items()]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="it", **attributes)
    return graph_of([node], inputs, constants, [f"y{i}" for i in range(outputs)], opset=opset)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array | None],
    constants: Sequence[str],
    outputs: Sequence[str],
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Return a model of nodes; types and shapes of the outputs are inferred."""
    given = {name: value for name, value in inputs.items() if value is not None}
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
        if name not in constants
    ]
    stored = [numpy_helper.from_array(given[name], name) for name in constants]
    graph = helper.make_graph(nodes, "g", values, [onnx.ValueInfoProto(name=name) for name in outputs], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert all(value.type.tensor_type.elem_type != TensorProto.UNDEFINED for value in inferred.graph.output)
    return inferred


def in_onnxruntime(model: onnx.ModelProto, arrays: dict[str, Array]) -> list[Array]:
    """Return what onnxruntime answers, graph optimisation off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # More threads add in another order, and votes that tie to the last bit fall differently.
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, arrays)]


def compiled_in(runtime: TfliteRuntime, model: onnx.ModelProto, arrays: dict[str, Array]) -> list[Array]:
    """Return what the compiled model answers."""
    return file_in(runtime, compile_model(model, runtime).data, arrays)


def file_in(runtime: TfliteRuntime, data: bytes, arrays: dict[str, Array]) -> list[Array]:
    """Return what a `.tflite` file answers, in a process of its own: a wrong file may end the runtime's process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            answers = list(load(runtime.adapter, data).run(arrays).values())
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(answers, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"{runtime.name} ended with {os.waitstatus_to_exitcode(status)}"
    result: list[Array] = pickle.loads(said)
    return result


Case = tuple[onnx.ModelProto, dict[str, Array | None]]


def comparable(draw: Callable[[], Case]) -> Case:
    """Return the first drawn (model, inputs) with a result that has elements and the shape that the model declares.

    onnx's shape inference and onnxruntime disagree about a few forms of pools; an empty result is a constant.
    """
    for _ in range(100):
        model, inputs = draw()
        declared = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in model.graph.output]
        if any(0 in shape for shape in declared):
            continue
        arrays = {value.name: np.asarray(inputs[value.name]) for value in model.graph.input}
        if declared == [value.shape for value in in_onnxruntime(model, arrays)]:
            return model, inputs
    raise AssertionError("no drawn model can be compared")


def same_as_onnxruntime(
    model: onnx.ModelProto, inputs: dict[str, Array | None], constants: Sequence[str] = (), *, rtol: float = 1e-4
) -> None:
    """Assert that both runtimes answer as onnxruntime does: shapes, types and values."""
    arrays = {name: value for name, value in inputs.items() if value is not None and name not in constants}
    wanted = in_onnxruntime(model, arrays)
    for runtime in RUNTIMES.values():
        for got, value in zip(compiled_in(runtime, model, arrays), wanted, strict=True):
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            np.testing.assert_allclose(got, value, rtol=rtol, atol=1e-5, err_msg=runtime.name)
