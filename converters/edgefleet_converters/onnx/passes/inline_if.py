"""Put the taken branch of an `If` in its place when the condition can only have one value.

Exporters leave an `If` for what is fixed once shapes or a mode are fixed. A runtime may still need both branches to be valid
for these shapes: with 576 samples the 8 kHz half of silero_vad is not, and onnxruntime refuses to fold the whole model.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgefleet_converters.onnx.passes.promises import not_valid, other_ends
from edgefleet_converters.onnx.walk import subgraphs

Array = npt.NDArray[Any]

MAX_ROUNDS: Final = 64
"""Each round takes all `If`s of the main graph whose condition is known; inner ones come up in the next."""
MAX_CONDITION_NODES: Final = 256
MAX_CONDITION_ELEMENTS: Final = 4096
CHEAP: Final = frozenset(
    {
        "Add", "And", "Cast", "Concat", "Constant", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
        "LessOrEqual", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
        "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
"""Operators of index arithmetic: all that a condition on shapes and modes is made of."""


class InlineConstantIf:
    """Case 1: the condition depends on stored values and fixed shapes only: the branch replaces the node. Case 2: it stays."""

    name = "inline-constant-if"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs an `If` in the main graph."""
        return "" if any(node.op_type == "If" for node in model.graph.node) else "the model has no If"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with the taken branches inlined; names inside a branch get the node's name before them."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        changed = False
        for number in range(MAX_ROUNDS):
            known = _Conditions(after)
            nodes: list[onnx.NodeProto] = []
            found = False
            for index, node in enumerate(after.graph.node):
                value = known.value_of(node.input[0]) if node.op_type == "If" and node.input else None
                if value is None or value.size != 1:
                    nodes.append(node)
                    continue
                wanted = "then_branch" if bool(value.reshape(-1)[0]) else "else_branch"
                branch = next(a.g for a in node.attribute if a.name == wanted)
                if branch.sparse_initializer:
                    nodes.append(node)
                    continue
                nodes.extend(_inlined(after.graph, node, branch, f"inlined_{number}_{index}/"))
                found = True
            if not found:
                break
            changed = True
            kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del after.graph.node[:]
            after.graph.node.extend(kept)
        return after, changed

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The result passes the ONNX checker and kept its inputs and outputs."""
        return not_valid(after, "inlined") or other_ends(before, after)


class _Conditions:
    """What values of the main graph must be, from stored tensors and inferred shapes alone."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._opsets = list(model.opset_import)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._maker = {name: node for node in graph.node for name in node.output if name}
        # A branch that does not fit the fixed shapes makes inference stop there, not fail: strict_mode is off.
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
        inputs = {value.name for value in inferred.input}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for value in (*inferred.input, *inferred.value_info):
            dims = value.type.tensor_type.shape.dim
            least = 1 if value.name in inputs else 0  # a 0 that an exporter writes at an input means an open dimension
            if value.type.tensor_type.HasField("shape") and all(
                d.HasField("dim_value") and d.dim_value >= least for d in dims
            ):
                self._shapes[value.name] = tuple(d.dim_value for d in dims)
        self._shapes |= {name: tuple(tensor.dims) for name, tensor in self._stored.items()}

    def value_of(self, name: str) -> Array | None:
        """Return the only value that `name` can have, or None."""
        known: dict[str, Array] = {}
        order: list[str] = []
        pending, seen = [name], {name}
        while pending:
            current = pending.pop()
            if (value := self._leaf(current)) is not None:
                known[current] = value
                continue
            node = self._maker.get(current)
            if (
                node is None
                or node.op_type not in CHEAP
                or node.domain not in ("", "ai.onnx")
                or len(order) >= MAX_CONDITION_NODES
            ):
                return None
            order.append(current)
            for wanted in node.input:
                if wanted and wanted not in seen:
                    seen.add(wanted)
                    pending.append(wanted)
        return known[name] if name in known else self._computed(name, known, order)

    def _leaf(self, name: str) -> Array | None:
        if name in self._stored and name not in self._maker:
            tensor = self._stored[name]
            small = int(np.prod(tensor.dims, initial=1)) <= MAX_CONDITION_ELEMENTS
            return numpy_helper.to_array(tensor) if small and tensor.data_type != onnx.TensorProto.STRING else None
        node = self._maker.get(name)
        if node is not None and node.op_type == "Shape" and not node.attribute and node.input[0] in self._shapes:
            return np.array(self._shapes[node.input[0]], dtype=np.int64)
        return None

    def _computed(self, name: str, known: dict[str, Array], order: Iterable[str]) -> Array | None:
        """Run the nodes that make `name` on their known inputs with the reference evaluator of onnx."""
        from onnx.reference import ReferenceEvaluator

        wanted = set(order)
        nodes = [node for node in self._unique_nodes() if wanted & set(node.output)]
        graph = helper.make_graph(
            nodes, "condition", [], [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in known.items()],
        )  # fmt: skip
        try:
            (value,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run([name], {})
        except Exception:  # noqa: BLE001 - whatever it does not like, the condition stays unknown
            return None
        return np.asarray(value)

    def _unique_nodes(self) -> list[onnx.NodeProto]:
        unique = {id(node): node for node in self._maker.values()}
        return list(unique.values())


def _inlined(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto, prefix: str
) -> list[onnx.NodeProto]:
    """Return the nodes that stand for `node`; stored tensors of the branch go into `graph`."""
    body = onnx.GraphProto()
    body.CopyFrom(branch)
    own = {tensor.name for tensor in body.initializer} | {name for inner in body.node for name in inner.output if name}
    names = {name: prefix + name for name in own}
    _rename(body, names)
    graph.initializer.extend(body.initializer)
    nodes = list(body.node)
    for output, value in zip(node.output, body.output, strict=False):
        if output:
            nodes.append(helper.make_node("Identity", [value.name], [output], name=f"{prefix}{output}"))
    return nodes


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values in a graph and wherever its inner graphs use them, in place; what an inner graph makes itself stays."""
    stack = [(graph, names)]
    while stack:
        current, mapping = stack.pop()
        for tensor in current.initializer:
            tensor.name = mapping.get(tensor.name, tensor.name)
        for value in (*current.output, *current.value_info):
            value.name = mapping.get(value.name, value.name)
        for node in current.node:
            node.input[:] = [mapping.get(name, name) for name in node.input]
            node.output[:] = [mapping.get(name, name) for name in node.output]
            for inner in subgraphs(node):
                hidden = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
                hidden |= {name for deeper in inner.node for name in deeper.output}
                stack.append((inner, {key: value for key, value in mapping.items() if key not in hidden}))
