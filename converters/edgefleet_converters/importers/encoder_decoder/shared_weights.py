"""Weights that encoder and decoder share are stored once in the graph that joins them. Pure (ADR 0096)."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.onnx.walk import all_graphs, attributes_of, subgraphs

SHARED_BYTES: Final = 1024
"""Smaller tensors are not compared: there are many, and shapes among them look alike."""


def renamed(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph other names where they are read, in its subgraphs too."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            for place, name in enumerate(node.input):
                if name in names:
                    node.input[place] = names[name]
            waiting.extend(subgraphs(node))


class StoredOnce:
    """The tensors of the outer graph; equal ones are taken once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._known: dict[tuple[Any, ...], str] = {}
        own = list(graph.initializer)
        del graph.initializer[:]
        renamed(graph, self.take(own))

    def take(self, tensors: Iterable[onnx.TensorProto]) -> dict[str, str]:
        """Add tensors; return the name of a twin for those that were there already."""
        twins = {}
        for tensor in tensors:
            data = tensor.raw_data
            if len(data) >= SHARED_BYTES:
                key = (tensor.data_type, tuple(tensor.dims), sha256(data).digest())
                if key in self._known:
                    twins[tensor.name] = self._known[key]
                    continue
                self._known[key] = tensor.name
            self._graph.initializer.append(tensor)
        return twins


def share_words(model: onnx.ModelProto) -> None:
    """Keep a table of words once where its transpose is a product's matrix: words are then read as columns of that, in place."""
    _store_turned(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    readers: dict[str, list[tuple[onnx.GraphProto, onnx.NodeProto, int]]] = {}
    for graph, _ in all_graphs(model):
        for node in graph.node:
            for place, name in enumerate(node.input):
                readers.setdefault(name, []).append((graph, node, place))
    tables = [name for name, found in readers.items() if name in tensors and all(_is_lookup(n, p) for _, n, p in found)]
    matrices = [
        name for name, found in readers.items() if name in tensors and any(n.op_type == "MatMul" for _, n, _ in found)
    ]
    for table in tables:
        rows, columns = tensors[table].dims
        for matrix in matrices:
            if list(tensors[matrix].dims) != [columns, rows] or rows * columns * 4 < SHARED_BYTES:
                continue
            if not np.array_equal(numpy_helper.to_array(tensors[table]), numpy_helper.to_array(tensors[matrix]).T):
                continue
            for graph, node, _ in readers[table]:
                _read_columns(graph, node, matrix)
            model.graph.initializer.remove(tensors[table])
            break


def _store_turned(model: onnx.ModelProto) -> None:
    """Store the matrices that a Transpose of the main graph makes of stored ones, as products read them."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in list(model.graph.node):
        tensor = tensors.get(node.input[0]) if node.op_type == "Transpose" else None
        if tensor is None or len(tensor.dims) != 2 or list(attributes_of(node).get("perm", [1, 0])) != [1, 0]:
            continue
        turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
        model.graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        model.graph.node.remove(node)
        if not any(tensor.name in one.input for graph, _ in all_graphs(model) for one in graph.node):
            model.graph.initializer.remove(tensor)


def _is_lookup(node: onnx.NodeProto, place: int) -> bool:
    return node.op_type == "Gather" and place == 0 and attributes_of(node).get("axis", 0) == 0


def _read_columns(graph: onnx.GraphProto, node: onnx.NodeProto, matrix: str) -> None:
    """Replace words = table[ids], ids of rank 2, by the columns `ids` of a matrix, with the words' axis moved to the end."""
    name = node.output[0]
    columns = helper.make_node("Gather", [matrix, node.input[1]], [f"{name}/columns"], name=f"{name}/columns", axis=1)
    turned = helper.make_node("Transpose", [f"{name}/columns"], [name], name=f"{name}/words", perm=[1, 2, 0])
    place = list(graph.node).index(node)
    graph.node.remove(node)
    graph.node.insert(place, columns)
    graph.node.insert(place + 1, turned)
