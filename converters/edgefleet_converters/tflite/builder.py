"""Collects the operators of the graph that is being compiled, and refuses those that the target runtime lacks.

Shapes are known while building, so each helper of `layout_moves` and `arithmetic` states the shape of what it makes. Whatever depends on
constants only is computed here and now and never reaches the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

import numpy as np

from edgefleet_converters.errors import ModelTooLargeError, OperatorNotCompiledError, UnsupportedOperatorError
from edgefleet_converters.tflite.ir import (
    Array,
    Graph,
    Op,
    Option,
    Quantization,
    Shape,
    Tensor,
    constant,
)
from edgefleet_converters.tflite.runtimes import TfliteRuntime
from edgefleet_converters.tflite.versions import version_of

MAX_CONSTANT_BYTES: Final = 512 * 1024 * 1024
MAX_OPS: Final = 50_000

_TYPED_BY_INPUT: Final = {
    "SELECT_V2": 1,
    "SCATTER_ND": 1,
    "FILL": 1,
    "ONE_HOT": 2,
    "SPLIT": 1,
    "TRANSPOSE_CONV": 2,
    "CONV_3D_TRANSPOSE": 2,
}
"""Operators whose kernel is chosen by another input than the first."""
_FORMS: Final = ("QUANTIZE", "DEQUANTIZE")
"""Between float32 and int8 in every runtime; `runtimes` lists operators on tensors without a scale."""


class Builder:
    """One graph on its way. `where` names the ONNX node that is being lowered."""

    def __init__(self, runtime: TfliteRuntime, *, loops: bool = True) -> None:
        """loops: whether a long sequence may be a WHILE; a board of integers alone has it written out."""
        self.runtime = runtime
        self.loops = loops
        self.where = ""
        self._ops: list[Op] = []
        self._names = 0

    def emit(
        self, code: str, inputs: Sequence[Tensor | None], dtype: str, shape: Sequence[int], **options: Option
    ) -> Tensor:
        """Append an operator with one output and return that. Raises UnsupportedOperatorError."""
        return self.emit_all(code, inputs, [(dtype, shape)], **options)[0]

    def emit_all(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        results: Sequence[tuple[str, Sequence[int]]],
        **options: Option,
    ) -> tuple[Tensor, ...]:
        """Append an operator with outputs of the given (dtype, shape). Raises UnsupportedOperatorError."""
        outputs = tuple(Tensor(self._name(code), dtype, tuple(int(n) for n in shape)) for dtype, shape in results)
        op = Op(code, tuple(inputs), outputs, options, self.where)
        self.check(op)
        self._ops.append(op)
        if len(self._ops) > MAX_OPS:
            raise ModelTooLargeError(
                f"the compiled model would have more than {MAX_OPS} operators (at {self.where})",
                next_step="shorten loops and sequences, or publish the model for an -ort profile",
            )
        return outputs

    def loop(
        self, start: Sequence[Tensor], rounds: int, step: "Callable[[Builder, list[Tensor]], list[Tensor]]"
    ) -> list[Tensor]:
        """Append a WHILE and return what it ends with. start: the first is the number of the round, int32 [1].

        step: given the builder of the body and what a round begins with, returns what it ends with, without the number.
        """
        cond, body = (Builder(self.runtime) for _ in range(2))
        kinds = [(t.dtype, t.shape) for t in start]
        given = [[Tensor(f"in_{i}", *kind) for i, kind in enumerate(kinds)] for _ in range(2)]
        for inner in (cond, body):
            inner.where = self.where
        asked = cond.emit("LESS", [given[0][0], cond.const(np.array([rounds], np.int32))], "bool", [1])
        number = body.emit(
            "ADD", [given[1][0], body.const(np.array([1], np.int32))], "int32", [1], fused_activation_function=0
        )
        ends = [number, *step(body, given[1])]
        outputs = tuple(Tensor(self._name("while"), *kind) for kind in kinds)
        bodies = tuple(
            Graph(tuple(mine), tuple(end), tuple(inner._ops))
            for mine, end, inner in zip(given, ([asked], ends), (cond, body), strict=True)
        )
        op = Op("WHILE", tuple(start), outputs, {}, self.where, bodies=bodies)
        self.check(op)
        self._ops.append(op)
        return list(outputs)

    def stored(self, x: Tensor, quantization: Quantization) -> Tensor:
        """Return a float32 value as it is on a grid of int8: QUANTIZE and DEQUANTIZE, which every runtime has."""
        made = Tensor(self._name("QUANTIZE"), "int8", x.shape, quantization=quantization)
        real = Tensor(self._name("DEQUANTIZE"), "float32", x.shape)
        self._ops += [Op("QUANTIZE", (x,), (made,), {}, self.where), Op("DEQUANTIZE", (made,), (real,), {}, self.where)]
        return real

    def const(self, value: Any, dtype: str = "") -> Tensor:
        """Return a constant. dtype: of the values, else that of the array."""
        array = np.asarray(value) if not dtype else np.asarray(value).astype(dtype)
        if array.nbytes > MAX_CONSTANT_BYTES:
            raise ModelTooLargeError(
                f"{self.where} would store a constant of {array.nbytes} bytes", next_step="use a smaller model"
            )
        return constant(self._name("const"), array)

    def ints(self, values: Sequence[int]) -> Tensor:
        """Return a constant int32 vector."""
        return self.const(np.array(list(values), np.int32))

    def folded(self, compute: Callable[..., Array], *tensors: Tensor) -> Tensor | None:
        """Return the constant that `compute` makes of constants, None when one of them is no constant."""
        if any(tensor.data is None for tensor in tensors):
            return None
        with np.errstate(all="ignore"):
            return self.const(compute(*(tensor.constant for tensor in tensors)))

    def lacks(self, what: str) -> NoReturn:
        """Refuse: the runtime itself cannot do it. what: the operator or type."""
        raise UnsupportedOperatorError(
            f"{self.where} needs {what}, which {self.runtime.name} does not have",
            next_step="change the model there, or publish it for an -ort profile",
        )

    def not_compiled(self, what: str) -> NoReturn:
        """Refuse: this compiler does not do it, although the runtime might."""
        raise OperatorNotCompiledError(
            f"{self.where}: {what} is not compiled to TFLite yet",
            next_step="publish the model for an -ort profile, or change it there",
        )

    def finish(self, inputs: Sequence[Tensor], outputs: Sequence[tuple[str, Tensor]]) -> Graph:
        """Return the graph. outputs: (name, tensor); one that is an input, a constant or given twice is copied."""
        self.where = "the graph's outputs"
        renamed: dict[int, Tensor] = {}
        made = {id(tensor) for op in self._ops for tensor in op.outputs}
        final: list[Tensor] = []
        for name, tensor in outputs:
            if id(tensor) in made and id(tensor) not in renamed:
                renamed[id(tensor)] = replace(tensor, name=name)
                final.append(renamed[id(tensor)])
            else:
                # A file whose output is its input or a weight loads, but the answer may alias what the caller holds.
                source = renamed.get(id(tensor), tensor)
                copy = self.emit("RESHAPE", [source, self.ints(tensor.shape)], tensor.dtype, tensor.shape)
                renamed[id(copy)] = replace(copy, name=name)
                final.append(renamed[id(copy)])

        def new(tensor: Tensor | None) -> Tensor | None:
            return renamed.get(id(tensor), tensor) if tensor is not None else None

        ops = [
            replace(op, inputs=tuple(map(new, op.inputs)), outputs=tuple(renamed.get(id(t), t) for t in op.outputs))
            for op in self._ops
        ]
        return Graph(tuple(inputs), tuple(final), tuple(ops))

    def check(self, op: Op) -> None:
        """Raise UnsupportedOperatorError unless the runtime has the operator, for its type and in its version."""
        if op.code in _FORMS:
            return
        position = _TYPED_BY_INPUT.get(op.code, 0)
        typed = op.inputs[position]
        assert typed is not None
        if not self.runtime.takes(op.code, typed.dtype):
            self.lacks(f"{op.code} on {typed.dtype}")
        limit = self.runtime.versions.get(op.code)
        if limit is not None and version_of(op) > limit:
            self.lacks(f"{op.code} version {version_of(op)}")

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind.lower()}_{self._names}"


def broadcast_shape(b: Builder, *shapes: Shape) -> Shape:
    """Return the shape that numpy's rules give. Raises OperatorNotCompiledError when they do not fit."""
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError:
        b.not_compiled(f"shapes {' and '.join(str(list(shape)) for shape in shapes)} that do not broadcast")
