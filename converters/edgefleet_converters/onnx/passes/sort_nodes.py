"""Put nodes behind the nodes whose results they read.

The ONNX format asks for that order and its checker refuses any other; onnxruntime runs a model in any order, so such files are about.
Of the nodes that could come next the one that stood first is taken: a sorted graph keeps its order.
"""

import heapq

import onnx

from edgefleet_converters.errors import InvalidModelError
from edgefleet_converters.onnx.walk import MAX_DEPTH, all_graphs, subgraphs


def sort_nodes(model: onnx.ModelProto) -> None:
    """Sort the nodes of each graph in place. Raises InvalidModelError for nodes that wait for each other in a circle."""
    for graph, _ in reversed(
        list(all_graphs(model))
    ):  # a sorted graph holds copies of its nodes and of the graphs in them
        order = _order(graph)
        if order != sorted(order):
            nodes = [graph.node[index] for index in order]
            after = onnx.GraphProto()
            after.node.extend(nodes)
            del graph.node[:]
            graph.node.extend(after.node)


def _order(graph: onnx.GraphProto) -> list[int]:
    """Return the positions of the nodes in their order. Raises InvalidModelError."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        needed = {makers[name] for name in _read(node) if name in makers}
        waits.append(len(needed))
        for maker in needed:
            readers.setdefault(maker, []).append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(waits):
        stuck = graph.node[next(index for index, count in enumerate(waits) if count)]
        raise InvalidModelError(
            f"node {stuck.name or '(unnamed)'!r} ({stuck.op_type}) waits for its own result: the nodes go in a circle",
            next_step="export the model again",
        )
    return order


def _read(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, and those that the graphs in it read from outside."""
    names, own = set(node.input), {""}
    stack = [(graph, 1) for graph in subgraphs(node)]
    while stack:
        graph, depth = stack.pop()
        own.update(value.name for value in (*graph.input, *graph.initializer))
        names.update(value.name for value in graph.output)
        for inner in graph.node:
            names.update(inner.input)
            own.update(inner.output)
            if depth <= MAX_DEPTH:
                stack += [(sub, depth + 1) for sub in subgraphs(inner)]
    return names - own
