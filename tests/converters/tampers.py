"""Ways to make a right model file answer wrong: ONNX by its graph, TFLite by its unpacked flatbuffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from tests.converters.crash_models import crashing_at_load, never_ending
from tests.converters.tflite_graphs import edited

Array = npt.NDArray[Any]
Tamper = Callable[[bytes], bytes]


def graph(change: Callable[[onnx.GraphProto], None]) -> Tamper:
    """Return a tamper that changes an ONNX graph."""

    def tamper(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        change(model.graph)
        return bytes(model.SerializeToString(deterministic=True))

    return tamper


def weight(which: str | int, change: Callable[[Array], Array]) -> Tamper:
    """Return a tamper of the stored tensors whose name holds `which`, or of number `which` among those of rank 2 and more."""

    def changed(g: onnx.GraphProto) -> None:
        large = [tensor for tensor in g.initializer if len(tensor.dims) > 1]
        chosen = [large[which]] if isinstance(which, int) else [t for t in g.initializer if which in t.name]
        assert chosen, [t.name for t in g.initializer]
        for tensor in chosen:
            value = change(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return graph(changed)


def flip_bit(value: Array, index: int = 0, bit: int = 29) -> Array:
    """Return float32 `value` with one bit of one element flipped; bits 23 to 30 are the exponent."""
    flat = value.reshape(-1).view(np.uint32).copy()
    flat[index] ^= np.uint32(1 << bit)
    return flat.view(np.float32).reshape(value.shape)


def on_output(nodes: Sequence[onnx.NodeProto], *, at: int = 0, **stored: Array) -> Tamper:
    """Return a tamper that puts `nodes` behind output number `at`: they read `was` and write `now`; other names are theirs."""

    def changed(g: onnx.GraphProto) -> None:
        output = g.output[at].name
        for node in g.node:
            node.output[:] = ["was" if name == output else name for name in node.output]
            node.input[:] = ["was" if name == output else name for name in node.input]
        for node in nodes:
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.input[:] = [g.input[0].name if name == "INPUT" else name for name in node.input]
            made.output[:] = [output if name == "now" else name for name in node.output]
            g.node.append(made)
        g.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())

    return graph(changed)


def attribute(op: str, name: str, value: Any) -> Tamper:
    """Return a tamper that sets an attribute of every node of a kind."""

    def changed(g: onnx.GraphProto) -> None:
        for node in g.node:
            if node.op_type == op:
                kept = [a for a in node.attribute if a.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return graph(changed)


def without(op: str) -> Tamper:
    """Return a tamper that turns the nodes of a kind into nothing."""

    def changed(g: onnx.GraphProto) -> None:
        assert any(node.op_type == op for node in g.node)
        for node in g.node:
            if node.op_type == op:
                node.op_type = "Identity"
                del node.attribute[:]

    return graph(changed)


def turned_input(permutation: list[int]) -> Tamper:
    """Return a tamper that transposes the input first, as a forgotten change of layout does."""

    def changed(g: onnx.GraphProto) -> None:
        name = g.input[0].name
        for node in g.node:
            node.input[:] = ["turned" if given == name else given for given in node.input]
        g.node.insert(0, helper.make_node("Transpose", [name], ["turned"], perm=permutation))

    return graph(changed)


def swapped_outputs(g: onnx.GraphProto) -> None:
    """Exchange what the first two outputs hold; names and declared types stay."""
    one, two = g.output[0].name, g.output[1].name
    other = {one: two, two: one}
    for node in g.node:
        node.output[:] = [other.get(name, name) for name in node.output]


def dropped_output(g: onnx.GraphProto) -> None:
    """Leave out the last output."""
    del g.output[-1]


def dropped_input(g: onnx.GraphProto) -> None:
    """Turn the last input into a constant."""
    value = g.input[-1]
    width = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    g.initializer.append(numpy_helper.from_array(np.zeros(width, np.float32), value.name))
    del g.input[-1]


def retyped(kind: int) -> Tamper:
    """Return a tamper that declares and computes the first output in another type."""
    cast = on_output([helper.make_node("Cast", ["was"], ["now"], to=kind)])

    def tamper(data: bytes) -> bytes:
        model = onnx.load_from_string(cast(data))
        model.graph.output[0].type.tensor_type.elem_type = kind
        return bytes(model.SerializeToString(deterministic=True))

    return tamper


def noise(scale: float) -> Tamper:
    """Return a tamper that adds other random numbers at every run."""
    return on_output([
        helper.make_node("RandomNormalLike", ["was"], ["random"], scale=scale), helper.make_node("Add", ["was", "random"], ["now"]),
    ])  # fmt: skip


def batch_dependent() -> Tamper:
    """Return a tamper that is right for one sample at a time and shifts the first score of a batch."""
    nodes = [
        helper.make_node("Shape", ["INPUT"], ["extent"]), helper.make_node("Gather", ["extent", "zero"], ["n"]),
        helper.make_node("Sub", ["n", "one"], ["more"]), helper.make_node("Cast", ["more"], ["by"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["by", "shift"], ["added"]), helper.make_node("Add", ["was", "added"], ["now"]),
    ]  # fmt: skip
    shift = np.zeros(10, np.float32)
    shift[0] = 50
    return on_output(nodes, zero=np.array(0, np.int64), one=np.array(1, np.int64), shift=shift)


def nan_for(sample: Array) -> Tamper:
    """Return a tamper that answers NaN for exactly this sample: 0 / (distance to it)."""
    nodes = [
        helper.make_node("Sub", ["INPUT", "this"], ["apart"]), helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("Flatten", ["far"], ["flat"]), helper.make_node("ReduceSum", ["flat", "axis"], ["distance"], keepdims=1),
        helper.make_node("Div", ["nothing", "distance"], ["odd"]), helper.make_node("Add", ["was", "odd"], ["now"]),
    ]  # fmt: skip
    return on_output(nodes, this=sample, axis=np.array([1], np.int64), nothing=np.array(0, np.float32))


def bumped_for(sample: Array, by: float) -> Tamper:
    """Return a tamper that adds `by` to every score of exactly this sample."""
    nodes = [
        helper.make_node("Sub", ["INPUT", "this"], ["apart"]), helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("Flatten", ["far"], ["flat"]), helper.make_node("ReduceSum", ["flat", "axis"], ["distance"], keepdims=1),
        helper.make_node("Sign", ["distance"], ["other"]), helper.make_node("Sub", ["one", "other"], ["same"]),
        helper.make_node("Mul", ["same", "by"], ["bump"]), helper.make_node("Add", ["was", "bump"], ["now"]),
    ]  # fmt: skip
    one, size = np.array(1, np.float32), np.array(by, np.float32)
    return on_output(nodes, this=sample, axis=np.array([1], np.int64), one=one, by=size)


def right_only_for(known: Array) -> Tamper:
    """Return a tamper that is right for the samples in `known` and for no other; known: [n, …] as the first input has it."""
    nodes = [
        helper.make_node("Flatten", ["INPUT"], ["flat"]), helper.make_node("Unsqueeze", ["flat", "axis"], ["row"]),
        helper.make_node("Sub", ["row", "known"], ["apart"]), helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("ReduceSum", ["far", "last"], ["distance"], keepdims=0),
        helper.make_node("ReduceMin", ["distance"], ["nearest"], axes=[1], keepdims=1),
        helper.make_node("Sign", ["nearest"], ["unknown"]), helper.make_node("Mul", ["unknown", "shift"], ["added"]),
        helper.make_node("Add", ["was", "added"], ["now"]),
    ]  # fmt: skip
    shift = np.zeros(10, np.float32)
    shift[0] = 50
    flat = known.reshape(1, len(known), -1)
    return on_output(
        nodes, axis=np.array([1], np.int64), last=np.array([2], np.int64), known=flat.astype(np.float32), shift=shift
    )


def with_interface_of(other: Callable[[], onnx.ModelProto]) -> Tamper:
    """Return a tamper that puts another graph of `x` -> `y`, [1, 4], before the first output: a crash or an endless loop."""

    def tamper(data: bytes) -> bytes:
        model, bad = onnx.load_from_string(data), other().graph
        g, name = model.graph, model.graph.input[0].name
        ends = np.array([1, 4], np.int64)
        stored = {"to_shape": ends, "to_count": [4], "to_zero": [0], "to_flat": [-1]}
        g.initializer.extend(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in stored.items())
        nodes = [
            helper.make_node("Reshape", [name, "to_flat"], ["bad_all"]),
            helper.make_node("Slice", ["bad_all", "to_zero", "to_count"], ["bad_four"]),
            helper.make_node("Reshape", ["bad_four", "to_shape"], ["x_bad"]),
        ]
        for tensor in bad.initializer:
            tensor.name = f"bad_{tensor.name}"
        for node in bad.node:
            node.input[:] = ["x_bad" if given == "x" else f"bad_{given}" for given in node.input]
            node.output[:] = ["y_bad" if given == "y" else f"bad_{given}" for given in node.output]
        output = g.output[0].name
        for node in g.node:
            node.output[:] = ["was" if given == output else given for given in node.output]
        end = [
            helper.make_node("ReduceSum", ["y_bad"], ["bad_sum"], keepdims=0),
            helper.make_node("Add", ["was", "bad_sum"], [output]),
        ]
        g.initializer.extend(bad.initializer)
        g.node.extend([*nodes, *bad.node, *end])
        return bytes(model.SerializeToString(deterministic=True))

    return tamper


def aborting() -> Tamper:
    """Return a tamper that ends the process with a signal."""
    return with_interface_of(crashing_at_load)


def endless() -> Tamper:
    """Return a tamper that never answers."""
    return with_interface_of(never_ending)


# --- TFLite ----------------------------------------------------------------------------------------------------------


def tflite(change: Callable[[Any], None]) -> Tamper:
    """Return a tamper that changes an unpacked TFLite model."""
    return lambda data: edited(data, change)


def stored(which: int, kind: Any, change: Callable[[Array], Array]) -> Tamper:
    """Return a tamper of constant number `which` of those of type `kind` (numpy) and rank 2 and more."""
    code = {np.float32: schema.TensorType.FLOAT32, np.int8: schema.TensorType.INT8}[kind]

    def changed(model: Any) -> None:
        tensors = [
            tensor for tensor in model.subgraphs[0].tensors
            if tensor.type == code and len(tensor.shape) > 1 and _is_constant(model, tensor)
        ]  # fmt: skip
        tensor = tensors[which]
        value = np.frombuffer(bytes(model.buffers[tensor.buffer].data), kind).reshape(tensor.shape).copy()
        model.buffers[tensor.buffer].data = np.frombuffer(change(value).astype(kind).tobytes(), np.uint8)

    return tflite(changed)


def scales(change: Callable[[Array], Array], *, weights: bool) -> Tamper:
    """Return a tamper of the scales of constants (weights) or of the tensors between operators."""

    def changed(model: Any) -> None:
        found = 0
        for tensor in model.subgraphs[0].tensors:
            held = None if tensor.quantization is None else tensor.quantization.scale
            if held is None or tensor.type != schema.TensorType.INT8 or _is_constant(model, tensor) != weights:
                continue
            tensor.quantization.scale = change(np.array(held, np.float32))
            found += 1
        assert found

    return tflite(changed)


def zero_points(by: int) -> Tamper:
    """Return a tamper that shifts the zero point of every int8 tensor between operators."""

    def changed(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.type == schema.TensorType.INT8 and not _is_constant(model, tensor):
                point = int(tensor.quantization.zeroPoint[0])
                tensor.quantization.zeroPoint = np.array([point + by if point + by <= 127 else point - by], np.int64)

    return tflite(changed)


def option(name: str, value: Any) -> Tamper:
    """Return a tamper that sets an option on every operator that has it."""

    def changed(model: Any) -> None:
        having = [o for o in model.subgraphs[0].operators if hasattr(o.builtinOptions, name)]
        assert having
        for operator in having:
            setattr(operator.builtinOptions, name, value)

    return tflite(changed)


def remembering(model: Any) -> None:
    """Turn the last FULLY_CONNECTED into a recurrent operator: each answer then depends on the ones before."""
    g = model.subgraphs[0]
    operator = next(o for o in reversed(g.operators) if model.operatorCodes[o.opcodeIndex].builtinCode == 9)
    units = int(g.tensors[operator.inputs[1]].shape[0])
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = 24, 24, 1
    model.operatorCodes.append(code)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer((0.5 * np.eye(units, dtype=np.float32)).tobytes(), np.uint8)
    model.buffers.append(buffer)
    for name, shape, held, is_variable in (
        (b"again", [units, units], len(model.buffers) - 1, False), (b"state", [1, units], 0, True),
    ):  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer, tensor.isVariable = name, shape, 0, held, is_variable
        g.tensors.append(tensor)
    count = len(g.tensors)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [operator.inputs[0], operator.inputs[1], count - 2, operator.inputs[2], count - 1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.RNNOptions, schema.RNNOptionsT()


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0
