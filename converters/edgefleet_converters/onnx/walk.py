"""Visit every node, graph, tensor and name of an ONNX model, also inside subgraphs and local functions.

All walks carry an explicit stack: a hostile model may nest deeper than Python recurses.
"""

from collections.abc import Iterator
from typing import Any

import onnx

MAX_DEPTH = 16
"""Nesting of subgraphs; deeper models are refused (`limits.check_limits`)."""


def all_graphs(model: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """Yield each graph with its depth (main graph 0), outer before inner; bodies of local functions are not graphs."""
    stack: list[tuple[onnx.GraphProto, int]] = [(model.graph, 0)]
    stack.extend((sub, 1) for function in model.functions for node in function.node for sub in subgraphs(node))
    while stack:
        graph, depth = stack.pop()
        yield graph, depth
        if depth <= MAX_DEPTH:
            stack.extend((sub, depth + 1) for node in graph.node for sub in subgraphs(node))


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield each node of the main graph, its subgraphs and the local functions."""
    for graph, _ in all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def function_nodes(function: onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield each node of a local function and of the graphs in it."""
    stack: list[onnx.NodeProto] = list(function.node)
    while stack:
        node = stack.pop()
        yield node
        for graph in subgraphs(node):
            stack.extend(graph.node)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield each stored tensor: initialisers, sparse initialisers and tensor attributes."""
    for graph, _ in all_graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.TENSORS:
                yield from attribute.tensors


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds as attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return attribute values by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def value_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values: stored, given and made ones."""
    names = {name for node in all_nodes(model) for name in (*node.input, *node.output)}
    return names | {value.name for graph, _ in all_graphs(model) for value in (*graph.input, *graph.initializer)}


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Return `wanted`, with a number behind it where that is taken, and take it."""
    name, number = wanted, 0
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    taken.add(name)
    return name
