"""Words that are read as the columns of a product's matrix, when that matrix is stored in fewer bits.

A model that reads words and ends with their scores keeps one table for both (`importers.decoder_loop`): Gather along axis 1 of the last
product's matrix, then a Transpose that puts the words last. Where the product takes its matrix in integers, words are read there, too;
else the table would be stored a second time.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.onnx.walk import all_graphs, attributes_of, fresh_name, value_names

_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Lookup:
    """Two nodes of a graph: columns of a matrix [width, words], and the turn to [..., width]."""

    graph: onnx.GraphProto
    columns: onnx.NodeProto
    turn: onnx.NodeProto

    def replace(self, nodes: list[onnx.NodeProto]) -> None:
        """Put other nodes in the place of both; the last of them writes what `turn` wrote."""
        place = list(self.graph.node).index(self.columns)
        self.graph.node.remove(self.turn)
        self.graph.node.remove(self.columns)
        for offset, node in enumerate(nodes):
            self.graph.node.insert(place + offset, node)


def lookups(model: onnx.ModelProto) -> dict[str, list[Lookup]]:
    """Return the matrices of which words are read, each with the places that do so."""
    found: dict[str, list[Lookup]] = {}
    for graph, _ in all_graphs(model):
        columns = {node.output[0]: node for node in graph.node if _is_by_column(node)}
        if not columns:
            continue
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for name, node in columns.items():
            turn = readers.get(name, [])
            if len(turn) == 1 and turn[0].op_type == "Transpose" and _puts_first_last(turn[0]):
                found.setdefault(node.input[0], []).append(Lookup(graph, node, turn[0]))
    return found


def _is_by_column(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and attributes_of(node).get("axis", 0) in (1, -1)


def _puts_first_last(node: onnx.NodeProto) -> bool:
    order = list(attributes_of(node).get("perm", []))
    return len(order) > 1 and order == [*range(1, len(order)), 0]


def read_from_int8(model: onnx.ModelProto) -> None:
    """Read words from the int8 matrix that onnxruntime's dynamic quantization made of a product's, in place.

    It calls the matrix NAME_quantized, with NAME_scale and NAME_zero_point, which is 0 as int8 weights are symmetric.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = value_names(model)
    for name, found in lookups(model).items():
        parts = [stored.get(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")]
        if name not in stored or any(part is None for part in parts) or numpy_helper.to_array(parts[2]).any():
            continue
        for lookup in found:
            lookup.replace(_from_int8(lookup, name, taken, is_by_channel=bool(parts[1].dims)))  # type: ignore[union-attr]
        _drop_unread(model, stored[name])


def _from_int8(lookup: Lookup, name: str, taken: set[str], *, is_by_channel: bool) -> list[onnx.NodeProto]:
    words, ids, out = lookup.columns.output[0], lookup.columns.input[1], lookup.turn.output[0]
    whole, real, scale, scaled = (fresh_name(f"{out}/{part}", taken) for part in ("whole", "real", "scale", "scaled"))
    step = [helper.make_node("Gather", [f"{name}_scale", ids], [scale], name=scale)] if is_by_channel else []
    turn = onnx.NodeProto()
    turn.CopyFrom(lookup.turn)
    turn.input[0] = scaled
    return [
        helper.make_node("Gather", [f"{name}_quantized", ids], [whole], name=words, axis=1),
        helper.make_node("Cast", [whole], [real], name=real, to=TensorProto.FLOAT),
        *step,
        helper.make_node("Mul", [real, scale if is_by_channel else f"{name}_scale"], [scaled], name=scaled),
        turn,
    ]


def read_from_blocks(
    model: onnx.ModelProto,
    found: list[Lookup],
    names: dict[str, str],
    words: int,
    bits: int,
    block: int,
    taken: set[str],
) -> None:
    """Read words from a matrix in blocks (`onnx.block_weights`), in place. names: of its parts q, s and maybe z; width is a multiple of
    `block`.
    """
    rows = {part: fresh_name(f"{name}_rows", taken) for part, name in names.items()}
    shape = fresh_name(f"{names['q']}_shape", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.array([words, -1], np.int64), shape))
    for place, (part, name) in enumerate(names.items()):
        node = helper.make_node("Reshape", [name, shape], [rows[part]], name=rows[part])
        model.graph.node.insert(place, node)
    for lookup in found:
        node = helper.make_node(
            "GatherBlockQuantized", [rows["q"], lookup.columns.input[1], *(rows[part] for part in names if part != "q")],
            [lookup.turn.output[0]], name=lookup.columns.name, domain=_DOMAIN, bits=bits, block_size=block, gather_axis=0,
            quantize_axis=1,
        )  # fmt: skip
        lookup.replace([node])


def _drop_unread(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    if not any(tensor.name in node.input for graph, _ in all_graphs(model) for node in graph.node):
        model.graph.initializer.remove(tensor)
