"""Walk an ONNX model in order and lower each node: constants are folded, functions are entered, the rest is looked up.

Every shape is known while walking: model inputs are fixed, constants are values, and each lowering states what it makes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from edgefleet_converters.errors import DynamicShapeError, OperatorNotCompiledError
from edgefleet_converters.onnx.walk import attributes_of
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.constant_evaluation import fold_node
from edgefleet_converters.tflite.function_bodies import default_attributes, function_body
from edgefleet_converters.tflite.ir import Shape, Tensor
from edgefleet_converters.tflite.layout_moves import reshape
from edgefleet_converters.tflite.lower.registry import LOWERINGS
from edgefleet_converters.tflite.node import Node
from edgefleet_converters.tflite.shape_promises import promised_shapes

MAX_DEPTH: Final = 32
DEFAULT_DOMAINS: Final = ("", "ai.onnx")


@dataclass
class _Scope:
    """Values by name in one graph; names of the graph around it are visible. opsets: domain -> version."""

    opsets: Mapping[str, int]
    outer: "_Scope | None" = None
    values: dict[str, Tensor] = field(default_factory=dict)
    declared: dict[str, Shape] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    depth: int = 0

    def find(self, name: str) -> Tensor:
        """Return the value called `name`."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        raise OperatorNotCompiledError(f"value {name!r} is read before it is made", next_step="export the model again")

    def scalars(self) -> set[str]:
        """Return the names of values of rank 0 so far."""
        return {name for name, tensor in self.values.items() if not tensor.shape}


class Tracer:
    """Lowers one model into a builder."""

    def __init__(self, model: onnx.ModelProto, builder: Builder) -> None:
        self._model = model
        self._b = builder
        self._functions = {(f.domain, f.name): f for f in model.functions}

    def run(self) -> tuple[list[Tensor], list[tuple[str, Tensor]]]:
        """Return the graph's inputs and its named outputs. Raises a RefusedError."""
        graph = self._model.graph
        scope = _Scope(opsets=_opsets(self._model.opset_import))
        stored = {t.name for t in graph.initializer}
        inputs = [self._graph_input(value) for value in graph.input if value.name not in stored]
        scope.values.update({t.name: t for t in inputs})
        self._enter(graph, scope)
        outputs = []
        for value in graph.output:
            tensor = scope.find(value.name)
            self._check_output(value, tensor)
            outputs.append((value.name, tensor))
        return inputs, outputs

    def _graph_input(self, value: onnx.ValueInfoProto) -> Tensor:
        self._b.where = f"input {value.name!r}"
        if not value.type.HasField("tensor_type"):
            self._b.lacks("values that are not tensors")
        dtype = dtype_name(value.type.tensor_type.elem_type)
        if dtype not in self._b.runtime.edge_dtypes:
            self._b.lacks(f"{dtype} inputs")
        shape = fixed_shape(value)
        if shape is None:
            raise DynamicShapeError(
                f"input {value.name!r} has an open dimension, and a TFLite file has fixed ones",
                next_step=f"give sample data with --eval, or its shape as in --shape {value.name}=1,3,224,224",
            )
        return Tensor(value.name, dtype, shape)

    def _check_output(self, value: onnx.ValueInfoProto, tensor: Tensor) -> None:
        self._b.where = f"output {value.name!r}"
        shape, kind = fixed_shape(value), dtype_name(value.type.tensor_type.elem_type)
        if shape is not None and shape != tensor.shape:
            self._b.not_compiled(f"the shape {list(tensor.shape)} where the model declares {list(shape)}")
        if kind != tensor.dtype:
            self._b.not_compiled(f"the type {tensor.dtype} where the model declares {kind}")
        if kind not in self._b.runtime.edge_dtypes:
            self._b.lacks(f"{kind} outputs")

    def _enter(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        """Lower all nodes of a graph into `scope`."""
        for tensor in graph.initializer:
            scope.values[tensor.name] = self._constant(tensor)
        for value in (*graph.value_info, *graph.output):
            shape = fixed_shape(value)
            if shape is not None:
                scope.declared[value.name] = shape
        scope.declared = promised_shapes(graph.node, scope.declared, scope.scalars())
        scope.read |= read_names(graph.node) | {value.name for value in graph.output}
        self._nodes(graph.node, scope)

    def _constant(self, proto: onnx.TensorProto) -> Tensor:
        self._b.where = f"initializer {proto.name!r}"
        if proto.data_type == onnx.TensorProto.STRING:
            self._b.lacks("string tensors")
        return self._b.const(onnx.numpy_helper.to_array(proto))

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scope: _Scope) -> None:
        for node in nodes:
            label = f"node {node.name or node.output[0]!r} ({node.op_type})"
            self._b.where = label
            results = self._lowered(node, scope)
            self._b.where = label
            for name, tensor in zip(node.output, results, strict=False):
                if name:
                    scope.values[name] = self._promised(tensor, scope.declared.get(name))

    def _promised(self, tensor: Tensor, declared: Shape | None) -> Tensor:
        """Return the tensor in the declared shape where that only adds or drops ones.

        A declaration that says something else is left aside: shapes noted inside a graph go stale when its inputs are fixed.
        Those of the graph's outputs are checked at the end.
        """
        if declared is None or declared == tensor.shape or tensor.rank == len(declared):
            return tensor
        if [n for n in declared if n != 1] != [n for n in tensor.shape if n != 1]:
            return tensor
        return reshape(self._b, tensor, declared)

    def _lowered(self, node: onnx.NodeProto, scope: _Scope) -> Sequence[Tensor]:
        domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
        inputs = tuple(scope.find(name) if name else None for name in node.input)
        opset = scope.opsets.get(domain, 1)
        folded = fold_node(self._b, node, inputs, scope.opsets, self._model)
        if folded is not None:
            return folded
        lowering = LOWERINGS.get((domain, node.op_type))
        if (domain, node.op_type) in self._functions or lowering is None:
            return self._function(node, inputs, scope, domain)
        view = Node(
            op_type=node.op_type, inputs=inputs, attributes=attributes_of(node), opset=opset,
            wanted=tuple(bool(name) and name in scope.read for name in node.output),
            declared=tuple(scope.declared.get(name) for name in node.output),
            trace=lambda graph, given: self._subgraph(graph, given, scope),
        )  # fmt: skip
        return lowering(self._b, view)

    def _function(
        self, node: onnx.NodeProto, inputs: tuple[Tensor | None, ...], scope: _Scope, domain: str
    ) -> Sequence[Tensor]:
        """Lower a node by the body that the model or the ONNX standard gives for it."""
        if scope.depth > MAX_DEPTH:
            self._b.not_compiled("functions nested this deep")
        own = self._functions.get((domain, node.op_type))
        body = own if own is not None else function_body(node, inputs, scope.opsets.get(domain, 1), domain)
        if body is None:
            self._b.not_compiled(f"the operator {domain + '.' if domain else ''}{node.op_type}")
        opsets = {**scope.opsets, **_opsets(body.opset_import)}
        inner = _Scope(opsets=opsets, depth=scope.depth + 1)
        inner.values.update({name: t for name, t in zip(body.input, inputs, strict=False) if t is not None})
        missing = set(body.input) - set(inner.values)
        given = default_attributes(node.op_type, scope.opsets.get(domain, 1), domain) if own is None else {}
        given |= {a.name: a for a in body.attribute_proto} | {a.name: a for a in node.attribute}
        nodes = [_bound(n, given, missing) for n in body.node]
        inner.read = read_names(nodes) | {
            inside for inside, taken in zip(body.output, node.output, strict=False) if taken
        }
        promised = {
            inside: scope.declared[name]
            for inside, name in zip(body.output, node.output, strict=False)
            if name in scope.declared
        }
        inner.declared = promised_shapes(nodes, promised, inner.scalars())
        self._nodes(nodes, inner)
        # An output that the caller does not take may not even be made by the body.
        return [
            inner.find(name) if taken else self._b.ints([])
            for name, taken in zip(body.output, node.output, strict=False)
        ]

    def _subgraph(self, graph: onnx.GraphProto, given: Sequence[Tensor], scope: _Scope) -> list[Tensor]:
        """Lower a graph attribute with the given inputs and return its outputs."""
        if scope.depth > MAX_DEPTH:
            self._b.not_compiled("graphs nested this deep")
        inner = _Scope(opsets=scope.opsets, outer=scope, depth=scope.depth + 1)
        inner.values.update({value.name: t for value, t in zip(graph.input, given, strict=True)})
        self._enter(graph, inner)
        return [inner.find(value.name) for value in graph.output]


def _opsets(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if entry.domain in DEFAULT_DOMAINS else entry.domain: entry.version for entry in imports}


def _bound(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto], missing: set[str]) -> onnx.NodeProto:
    """Return a node of a function body with the caller's attributes in place and inputs that were left out emptied."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            new = copy.attribute.add()
            new.CopyFrom(attribute)
            if attribute.type == onnx.AttributeProto.GRAPH:
                for inner in new.g.node:
                    inner.CopyFrom(_bound(inner, given, missing))
        elif attribute.ref_attr_name in given:
            new = copy.attribute.add()
            new.CopyFrom(given[attribute.ref_attr_name])
            new.name = attribute.name
    copy.input[:] = ["" if name in missing else name for name in node.input]
    return copy


def read_names(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Return the names that nodes and the graphs inside them read."""
    names: set[str] = set()
    for node in nodes:
        names |= set(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= read_names(attribute.g.node) | {value.name for value in attribute.g.output}
    return names


def fixed_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """Return a declared shape, None where a dimension is open."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    if any(dim.WhichOneof("value") != "dim_value" for dim in kind.shape.dim):
        return None
    return tuple(int(dim.dim_value) for dim in kind.shape.dim)


def dtype_name(elem_type: int) -> str:
    """Return the numpy-like name of an ONNX element type."""
    if elem_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return "string"
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)
