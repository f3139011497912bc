"""RNN, LSTM and GRU: the sequence's length is fixed at compile time. A short one is written out step by step, a long one is a WHILE.

Source: the ONNX operator pages (gate orders: LSTM i o f c, GRU z r h). Written out, the products with the input are one matrix product
for all steps; each step is then one product with the state. UNIDIRECTIONAL_SEQUENCE_LSTM is not used: it keeps its state from one run to
the next, so an answer would depend on what was asked before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import softplus_of
from edgefleet_converters.tflite.lower.gather_scatter import reversed_places
from edgefleet_converters.tflite.node import Lowering, Node

MAX_STEPS: Final = 2048
_LOOPED: Final = 16
"""Sequences of so many steps or more are a loop: the operators of a step take a few kilobytes each time they are written."""
_GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS: Final = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
Activation = Callable[[Builder, Tensor], Tensor]


@dataclass(frozen=True)
class _Cell:
    """One direction of a layer. weight [G·H, I], state weight [G·H, H], biases [G·H]; first, first_cell [B, H]."""

    kind: str
    weight: Tensor
    recurrence: Tensor
    bias: Tensor
    state_bias: Tensor
    first: Tensor
    first_cell: Tensor
    peephole: Tensor | None
    activations: tuple[Activation, ...]
    after_reset: bool
    coupled: bool


def recurrent(b: Builder, n: Node) -> Sequence[Tensor]:
    """Lower RNN, GRU or LSTM in any direction, with sequence lengths and initial states."""
    x = n.input(0)
    if x.dtype != "float32":
        b.lacks(f"{n.op_type} on {x.dtype}")
    batch_first = bool(n.get("layout", 0))
    x = layout_moves.transpose(b, x, [1, 0, 2]) if batch_first else x
    if x.shape[0] > MAX_STEPS:
        b.not_compiled(f"{n.op_type} over more than {MAX_STEPS} steps")
    direction = n.text("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    if "clip" in n.attributes:
        b.not_compiled(f"{n.op_type} with clip")
    lengths = layout_moves.cast(b, n.input(4), "int32") if n.given(4) else None
    outputs, states, cells = [], [], []
    for d in range(count):
        backwards = d == 1 or direction == "reverse"
        sequence = _turned(b, x, lengths) if backwards else x
        one = _cell(b, n, d, count, x.shape[1], batch_first=batch_first)
        if _is_loop(b, one, x.shape[0], lengths):
            made, state, cell = _looped(b, one, sequence)
        else:
            steps, state, cell = _walk(b, one, sequence, lengths)
            made = layout_moves.stack(b, steps, 0)
        outputs.append(_turned(b, made, lengths) if backwards else made)
        states.append(state)
        cells.append(cell)
    whole = layout_moves.stack(b, outputs, 1)
    results = [whole, layout_moves.stack(b, states, 0), layout_moves.stack(b, cells, 0)]
    if batch_first:
        results = [
            layout_moves.transpose(b, whole, [2, 0, 1, 3]),
            *(layout_moves.transpose(b, r, [1, 0, 2]) for r in results[1:]),
        ]
    return results[: 3 if n.op_type == "LSTM" else 2]


def _turned(b: Builder, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return [T, B, …] with each sequence backwards, up to its own length."""
    if lengths is None:
        return layout_moves.reverse(b, x, 0)
    turned = layout_moves.transpose(b, x, [1, 0, 2])
    places = layout_moves.flatten(b, reversed_places(b, lengths, x.shape[0]))
    rows = layout_moves.gather(
        b, layout_moves.reshape(b, turned, [turned.shape[0] * turned.shape[1], turned.shape[2]]), places, 0
    )
    return layout_moves.transpose(b, layout_moves.reshape(b, rows, turned.shape), [1, 0, 2])


def _cell(b: Builder, n: Node, d: int, count: int, batch: int, *, batch_first: bool) -> _Cell:
    hidden = int(n.get("hidden_size", n.input(2).shape[-1]))
    gates = _GATES[n.op_type]
    weight, recurrence = layout_moves.index(b, n.input(1), 0, d), layout_moves.index(b, n.input(2), 0, d)
    if n.given(3):
        both = layout_moves.index(b, n.input(3), 0, d)
        biases = (
            layout_moves.take(b, both, 0, 0, gates * hidden),
            layout_moves.take(b, both, 0, gates * hidden, gates * hidden),
        )
    else:
        zero = b.const(np.zeros(gates * hidden, np.float32))
        biases = zero, zero

    def initial(position: int) -> Tensor:
        if not n.given(position):
            return b.const(np.zeros((batch, hidden), np.float32))
        return layout_moves.index(b, n.input(position), 1 if batch_first else 0, d)

    names = [a.decode() if isinstance(a, bytes) else a for a in n.get("activations", _DEFAULTS[n.op_type] * count)]
    each = len(names) // count
    alphas, betas = list(n.get("activation_alpha", [])), list(n.get("activation_beta", []))
    chosen = tuple(_activation(b, name, alphas, betas) for name in names[d * each : (d + 1) * each])
    peephole = layout_moves.index(b, n.input(7), 0, d) if n.op_type == "LSTM" and n.given(7) else None
    return _Cell(
        n.op_type, weight, recurrence, biases[0], biases[1], initial(5),
        initial(6) if n.op_type == "LSTM" else b.const(np.zeros((batch, hidden), np.float32)), peephole, chosen,
        bool(n.get("linear_before_reset", 0)), bool(n.get("input_forget", 0)),
    )  # fmt: skip


def _activation(b: Builder, name: str, alphas: list[float], betas: list[float]) -> Activation:
    plain = {"sigmoid": "LOGISTIC", "tanh": "TANH", "relu": "RELU"}.get(name.lower())
    if plain is not None:
        return lambda at, x: arithmetic.unary(at, plain, x)
    if name.lower() == "softplus":
        return softplus_of
    if name.lower() == "affine":
        alpha, beta = alphas.pop(0), betas.pop(0) if betas else 0.0
        return lambda at, x: arithmetic.add(at, arithmetic.mul(at, x, alpha), beta)
    return b.not_compiled(f"the activation {name}")


def _walk(b: Builder, cell: _Cell, sequence: Tensor, lengths: Tensor | None) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the outputs of all steps, the last state and the last cell state. sequence: [T, B, I]."""
    steps, batch = sequence.shape[:2]
    hidden = cell.first.shape[1]
    rows = layout_moves.reshape(b, sequence, [steps * batch, sequence.shape[2]])
    inputs = arithmetic.matmul(b, rows, layout_moves.transpose(b, cell.weight, [1, 0]))
    inputs = layout_moves.reshape(b, arithmetic.add(b, inputs, cell.bias), [steps, batch, cell.weight.shape[0]])
    turned = layout_moves.transpose(b, cell.recurrence, [1, 0])
    state, inner = cell.first, cell.first_cell
    made = []
    for step in range(steps):
        entry = layout_moves.index(b, inputs, 0, step)
        new, new_inner = _STEPS[cell.kind](b, cell, entry, turned, state, inner)
        output = new
        if lengths is not None:
            going = arithmetic.binary(
                b, "GREATER", layout_moves.reshape(b, lengths, [batch, 1]), b.const(np.int32(step))
            )
            output = layout_moves.select(b, going, new, b.const(np.zeros((1, hidden), np.float32)))
            new, new_inner = layout_moves.select(b, going, new, state), layout_moves.select(b, going, new_inner, inner)
        state, inner = new, new_inner
        made.append(output)
    return made, state, inner


def _is_loop(b: Builder, cell: _Cell, steps: int, lengths: Tensor | None) -> bool:
    """Say whether the steps are a loop: its body can hold no value of the graph around it, only constants."""
    held = (cell.weight, cell.recurrence, cell.bias, cell.state_bias, *([cell.peephole] if cell.peephole else []))
    return b.loops and steps >= _LOOPED and lengths is None and all(t.data is not None for t in held)


def _looped(b: Builder, cell: _Cell, sequence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return as `_walk`, with all outputs as one tensor. The weights are in the body, so they are stored once."""
    steps, batch, width = sequence.shape
    hidden = cell.first.shape[1]

    def step(body: Builder, given: list[Tensor]) -> list[Tensor]:
        number, state, inner, rows, made = given
        row = layout_moves.reshape(body, layout_moves.gather(body, rows, number, 0), [batch, width])
        turned = [layout_moves.transpose(body, w, [1, 0]) for w in (cell.weight, cell.recurrence)]
        entry = arithmetic.add(body, arithmetic.matmul(body, row, turned[0]), cell.bias)
        new, new_inner = _STEPS[cell.kind](body, cell, entry, turned[1], state, inner)
        place = layout_moves.concat(body, [number, body.ints([0, 0])], 0)
        line = layout_moves.reshape(body, new, [1, batch, hidden])
        return [new, new_inner, rows, body.emit("DYNAMIC_UPDATE_SLICE", [made, line, place], "float32", made.shape)]

    # Made when the model is loaded: as a constant it would be as large as the answer.
    made = b.emit("FILL", [b.ints([steps, batch, hidden]), b.const(np.float32(0.0))], "float32", [steps, batch, hidden])
    start = [b.const(np.zeros(1, np.int32)), cell.first, cell.first_cell, sequence, made]
    _, state, inner, _, outputs = b.loop(start, steps, step)
    return outputs, state, inner


def _parts(b: Builder, x: Tensor, count: int) -> list[Tensor]:
    width = x.shape[-1] // count
    return [layout_moves.take(b, x, x.rank - 1, i * width, width) for i in range(count)]


def _rnn_step(
    b: Builder, cell: _Cell, entry: Tensor, turned: Tensor, state: Tensor, inner: Tensor
) -> tuple[Tensor, Tensor]:
    total = arithmetic.add(b, entry, arithmetic.add(b, arithmetic.matmul(b, state, turned), cell.state_bias))
    return cell.activations[0](b, total), inner


def _gru_step(
    b: Builder, cell: _Cell, entry: Tensor, turned: Tensor, state: Tensor, inner: Tensor
) -> tuple[Tensor, Tensor]:
    gate, hidden_activation = cell.activations
    entry_z, entry_r, entry_h = _parts(b, entry, 3)
    weights, biases = _parts(b, turned, 3), _parts(b, cell.state_bias, 3)
    update = gate(b, arithmetic.add(b, entry_z, arithmetic.add(b, arithmetic.matmul(b, state, weights[0]), biases[0])))
    reset = gate(b, arithmetic.add(b, entry_r, arithmetic.add(b, arithmetic.matmul(b, state, weights[1]), biases[1])))
    if cell.after_reset:
        part = arithmetic.mul(b, reset, arithmetic.add(b, arithmetic.matmul(b, state, weights[2]), biases[2]))
    else:
        part = arithmetic.add(b, arithmetic.matmul(b, arithmetic.mul(b, reset, state), weights[2]), biases[2])
    new = hidden_activation(b, arithmetic.add(b, entry_h, part))
    return arithmetic.add(
        b, arithmetic.mul(b, arithmetic.sub(b, 1.0, update), new), arithmetic.mul(b, update, state)
    ), inner


def _lstm_step(
    b: Builder, cell: _Cell, entry: Tensor, turned: Tensor, state: Tensor, inner: Tensor
) -> tuple[Tensor, Tensor]:
    gate, new_activation, out_activation = cell.activations
    total = arithmetic.add(b, entry, arithmetic.add(b, arithmetic.matmul(b, state, turned), cell.state_bias))
    into, out, forget, new = _parts(b, total, 4)
    if cell.peephole is not None:
        look_in, look_out, look_forget = _parts(b, cell.peephole, 3)
        into = arithmetic.add(b, into, arithmetic.mul(b, look_in, inner))
        forget = arithmetic.add(b, forget, arithmetic.mul(b, look_forget, inner))
    else:
        look_out = None
    opened = gate(b, into)
    kept = arithmetic.sub(b, 1.0, opened) if cell.coupled else gate(b, forget)
    new_inner = arithmetic.add(b, arithmetic.mul(b, kept, inner), arithmetic.mul(b, opened, new_activation(b, new)))
    if look_out is not None:
        out = arithmetic.add(b, out, arithmetic.mul(b, look_out, new_inner))
    return arithmetic.mul(b, gate(b, out), out_activation(b, new_inner)), new_inner


_STEPS: Final = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}

LOWERINGS: dict[str, Lowering] = {"RNN": recurrent, "GRU": recurrent, "LSTM": recurrent}
