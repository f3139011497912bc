"""If, Loop and Scan. A constant condition takes one branch; loops whose length is known are written out.

Source: the ONNX operator pages. A condition that is known only at run time runs both branches and selects, which is the same as
long as both give one shape: ONNX operators have no side effects.
"""

from collections.abc import Sequence

import numpy as np
import onnx

from edgefleet_converters.tflite import layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.node import Lowering, Node

MAX_ROUNDS = 4096
_ELEMENTWISE = {"Identity", "Sub", "Add", "Mul", "Abs", "Sqrt", "Neg", "Exp"}
_REDUCING = {"ReduceSumSquare", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"}


def if_(b: Builder, n: Node) -> Sequence[Tensor]:
    """If."""
    condition = n.array(0)
    then, other = n.get("then_branch"), n.get("else_branch")
    assert isinstance(then, onnx.GraphProto)
    assert isinstance(other, onnx.GraphProto)
    if condition is not None:
        return n.trace(then if bool(condition.reshape(())) else other, [])
    yes, no = n.trace(then, []), n.trace(other, [])
    if any(p.shape != q.shape or p.dtype != q.dtype for p, q in zip(yes, no, strict=True)):
        b.not_compiled("If whose branches differ in shape, with a condition known only at run time")
    chosen = layout_moves.reshape(b, n.input(0), [])
    return [layout_moves.select(b, chosen, p, q) for p, q in zip(yes, no, strict=True)]


def loop(b: Builder, n: Node) -> Sequence[Tensor]:
    """Loop with a constant number of rounds and a condition that stays constant."""
    body = n.get("body")
    assert isinstance(body, onnx.GraphProto)
    limit, condition = n.array(0), n.array(1)
    carried = [n.input(i) for i in range(2, len(n.inputs))]
    if n.given(1) and condition is None:
        b.not_compiled("Loop with a condition known only at run time")
    if n.given(0) and limit is None:
        limit = _promised_rounds(b, n, len(carried))
    rounds = int(limit.reshape(())) if limit is not None else MAX_ROUNDS
    going = condition is None or bool(condition.reshape(()))
    collected: list[list[Tensor]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    done = 0
    while going and done < rounds:
        if done >= MAX_ROUNDS:
            b.not_compiled(f"Loop of more than {MAX_ROUNDS} rounds")
        results = n.trace(body, [b.const(np.array(done, np.int64)), b.const(np.array(going)), *carried])
        if results[0].data is None:
            b.not_compiled("Loop whose condition is known only at run time")
        going = bool(results[0].constant.reshape(()))
        carried = results[1 : 1 + len(carried)]
        for row, value in zip(collected, results[1 + len(carried) :], strict=True):
            row.append(value)
        done += 1
    if collected and not done:
        b.not_compiled("Loop that makes no rounds and collects values")
    return [*carried, *(layout_moves.stack(b, row, 0) for row in collected)]


def _promised_rounds(b: Builder, n: Node, states: int) -> Array:
    """Return the number of rounds that the declared length of a collected output tells."""
    for position in range(states, len(n.wanted)):
        shape = n.shape_of(position)
        if shape:
            return np.array(shape[0])
    return b.not_compiled("Loop with a length known only at run time")


def scan(b: Builder, n: Node) -> Sequence[Tensor]:
    """Scan, written out, or all rows at once where each is on its own; opset 8 had a batch axis before the others."""
    body = n.get("body")
    assert isinstance(body, onnx.GraphProto)
    if n.opset < 9:
        return _scan_8(b, n, body)
    given = [n.input(i) for i in range(len(n.inputs))]
    return _scanned(b, n, body, given)


def _scan_8(b: Builder, n: Node, body: onnx.GraphProto) -> Sequence[Tensor]:
    """Scan of opset 8: each entry of the batch on its own."""
    if n.given(0):
        b.not_compiled("Scan of opset 8 with sequence lengths")
    given = [n.input(i) for i in range(1, len(n.inputs))]
    rows = [
        _scanned(b, n, body, [layout_moves.index(b, tensor, 0, entry) for tensor in given])
        for entry in range(given[0].shape[0])
    ]
    return [layout_moves.stack(b, column, 0) for column in zip(*rows, strict=True)]


def _scanned(b: Builder, n: Node, body: onnx.GraphProto, given: Sequence[Tensor]) -> list[Tensor]:
    count = int(n.get("num_scan_inputs"))
    states, scanned = list(given[: len(given) - count]), list(given[len(given) - count :])
    made = len(body.output) - len(states)
    axes = list(n.get("scan_input_axes", [0] * count))
    backwards = list(n.get("scan_input_directions", n.get("directions", [0] * count)))
    steps = scanned[0].shape[axes[0]]
    simple = count == made == len(states) == 1 and not axes[0] and not any(n.get("scan_output_axes", [0]))
    if simple and not any(backwards) and _is_row_by_row(body, states[0], scanned[0]):
        kept, rows = n.trace(body, [states[0], scanned[0]])
        return [kept, layout_moves.reshape(b, rows, [steps, 1, *rows.shape[1:]])]
    if steps > MAX_ROUNDS:
        b.not_compiled(f"Scan of more than {MAX_ROUNDS} steps")
    collected: list[list[Tensor]] = [[] for _ in range(made)]
    for step in range(steps):
        entries = [
            layout_moves.index(b, tensor, axis, steps - 1 - step if back else step)
            for tensor, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        results = n.trace(body, [*states, *entries])
        states = results[: len(states)]
        for row, value in zip(collected, results[len(states) :], strict=True):
            row.append(value)
    out_axes = list(n.get("scan_output_axes", [0] * made))
    turned = list(n.get("scan_output_directions", [0] * made))
    outputs = []
    for row, axis, back in zip(collected, out_axes, turned, strict=True):
        outputs.append(layout_moves.stack(b, row[::-1] if back else row, axis))
    return [*states, *outputs]


def _is_row_by_row(body: onnx.GraphProto, state: Tensor, rows: Tensor) -> bool:
    """Say whether all steps can be computed at once: the state, one row, stays as it is and meets each scanned row element by
    element, as in the distances of neighbours and kernels. Then the rows together give what they give one by one.
    """
    if state.rank < 2 or state.rank != rows.rank or state.shape[0] != 1 or len(body.input) != 2:
        return False
    same, known, reduced = {body.input[0].name}, {body.input[0].name, body.input[1].name}, False
    for node in body.node:
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if node.op_type in _REDUCING and not reduced and axes and len(node.input) == 1:
            reduced = True
            if any(axis % state.rank == 0 for axis in axes):
                return False
        elif node.op_type not in _ELEMENTWISE:
            return False
        if not set(node.input) <= known:
            return False
        known.update(node.output)
        if node.op_type == "Identity" and node.input[0] in same:
            same.update(node.output)
    return body.output[0].name in same


LOWERINGS: dict[str, Lowering] = {"If": if_, "Loop": loop, "Scan": scan}
