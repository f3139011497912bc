"""Move large constants of subgraphs into the main graph, equal ones once.

The two branches of an `If` often hold the same weights (silero VAD: an LSTM in each); folding constants writes a copy into
each branch, and the file grows by a third. A subgraph sees the names of the graphs around it, so one copy outside serves
both. Weights in one place can then also be stored in fewer bits.
"""

import onnx

from edgefleet_converters.onnx.passes.promises import not_valid
from edgefleet_converters.onnx.walk import all_graphs, fresh_name, subgraphs, value_names

MIN_BYTES = 512


class HoistConstants:
    """Case 1: a stored tensor of a subgraph with at least `MIN_BYTES` moves out. Case 2: equal tensors become one."""

    name = "hoist-constants"
    required = False

    def requires(self, model: onnx.ModelProto) -> str:
        """Needs a subgraph."""
        return "" if any(depth for _, depth in all_graphs(model)) else "the model has no subgraphs"

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with shared constants; every mention of a moved tensor gets its new name."""
        after = onnx.ModelProto()
        after.CopyFrom(model)
        taken = value_names(after)
        homes: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        for tensor in after.graph.initializer:
            if tensor.raw_data and len(tensor.raw_data) >= MIN_BYTES:
                homes.setdefault((tensor.data_type, tuple(tensor.dims), tensor.raw_data), tensor.name)
        moved: list[onnx.TensorProto] = []
        for graph, depth in all_graphs(after):
            if not depth:
                continue
            outputs = {value.name for value in graph.output}
            for tensor in [t for t in graph.initializer if len(t.raw_data) >= MIN_BYTES and t.name not in outputs]:
                key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
                if key not in homes:
                    homes[key] = fresh_name(f"{tensor.name}_shared", taken)
                    moved.append(_renamed(tensor, homes[key]))
                _rename_uses(graph, tensor.name, homes[key])
                graph.initializer.remove(tensor)
        after.graph.initializer.extend(moved)
        return after, after != model

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        """The result passes the ONNX checker and is no larger."""
        grew = after.ByteSize() > before.ByteSize() + 1024
        return not_valid(after, "rewritten") or ("the model grew" if grew else "")


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename `old` in `graph` and in the graphs inside it that do not define the name again."""
    stack = [graph]
    while stack:
        current = stack.pop()
        for node in current.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
            stack += [inner for inner in subgraphs(node) if not _defines(inner, old)]


def _defines(graph: onnx.GraphProto, name: str) -> bool:
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return name in names or any(name in node.output for node in graph.node)
