"""What every pass keeps: the graph's inputs and outputs, an order that can be run, and operators that the runtime knows."""

from edgefleet_converters.tflite.ir import Graph


def broken(before: Graph, after: Graph) -> str:
    """Return how the graph's contract was broken; empty when kept."""
    if [id(t) for t in before.inputs] != [id(t) for t in after.inputs]:
        return "the inputs changed"
    if [(t.name, t.dtype, t.shape) for t in before.outputs] != [(t.name, t.dtype, t.shape) for t in after.outputs]:
        return "the outputs changed"
    made = {id(t) for t in after.inputs}
    for op in after.ops:
        for tensor in op.inputs:
            if tensor is not None and tensor.data is None and id(tensor) not in made:
                return f"{op.code} reads {tensor.name} before it is made"
        made |= {id(t) for t in op.outputs}
    missing = [t.name for t in after.outputs if id(t) not in made]
    return f"output {missing[0]} is not made" if missing else ""


def count(graph: Graph, code: str) -> int:
    """Return how many operators of one kind the graph has."""
    return sum(op.code == code for op in graph.ops)
