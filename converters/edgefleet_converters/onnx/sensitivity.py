"""Find the layers that quantization hurts, and the fewest that must be left out. Runs in a sandboxed child.

Two ladders, each ranked one layer or block at a time on a few calibration samples and searched on up to `SEARCH_SAMPLES` (`sensitivity`):

1. Weights: all in int8; those that hurt most go to 16 bits until the metric holds. Nothing else is quantised.
2. Nodes: all weighted nodes static, the rest stored as ladder 1 found; nodes leave the static part in the order of `precision_ranking`.
   First with activation functions and what joins or moves static too, each node taken out with the functions behind it and the head
   in float: fewer tensors then cross between int8 and float, which costs time. Where that does not hold, weighted nodes alone.

The samples are those of the calibration: what judges a candidate at the gate is never looked at here. The metric is held
against the source's own answers, so no labels are needed.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.evaluation import FIRST_SAMPLES
from edgefleet_converters.layer_search import (
    SEARCH_SAMPLES,
    Block,
    Found,
    Harm,
    Judge,
    fewest_within,
    fewest_worth,
    most_half,
    most_out,
    nothing_holds,
    ranked,
    samples_to_rank,
)
from edgefleet_converters.onnx.calibrate import Calibration, Samples, in_two, quantizable_operators, quiet_session
from edgefleet_converters.onnx.layer_work import saved_by_layer
from edgefleet_converters.onnx.load import parse, serialise
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.onnx.weights import weights_of
from edgefleet_converters.precision_ranking import brought_back, by_worth
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sample_data import read_arrays, stacked
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import load

Array = npt.NDArray[Any]

_FUNCTIONS: Final = frozenset({"Clip", "LeakyRelu", "Mul", "Relu", "Sigmoid"})
"""Operators that activation functions are made of and that onnxruntime computes in int8."""
_JOINING: Final = frozenset({"Add", "Concat", "MaxPool", "Resize", "Split"})
_ELEMENTWISE: Final = _FUNCTIONS | {"Elu", "HardSigmoid", "HardSwish", "Tanh"}


def sensitivity_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, calibration, spec, samples: npz, inputs, metric, max_drop, max_bytes}. Returns a `Found`.

    model, calibration: as `onnx.prepare` wrote them. metric: None, a name or a plan; a user's own is replaced by agreement. max_drop:
    what the gate will allow. max_bytes: a larger model is not worth the effort.
    Raises TransformError when no choice holds.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    inputs = msgspec.convert(args["inputs"], list[TensorSpec])
    search = Search(
        parse(Path(args["model"]).read_bytes()), Calibration.load(Path(args["calibration"])),
        Samples(read_arrays(Path(args["samples"])), inputs), spec, args["metric"], float(args["max_drop"]),
        int(args["max_bytes"]),
    )  # fmt: skip
    return dict(msgspec.to_builtins(search.run()))


class Search:
    """One search on one prepared model."""

    def __init__(
        self, model: onnx.ModelProto, calibration: Calibration, samples: Samples, spec: CandidateSpec,
        metric: Any, max_drop: float, max_bytes: int,
    ) -> None:  # fmt: skip
        """metric, max_drop: as for `Judge`. max_bytes: of a model that is worth the effort."""
        self._model, self._calibration = model, calibration
        self._samples = samples.part(range(min(len(samples), SEARCH_SAMPLES)))
        self._feeds = list(self._samples)
        self._spec, self._max_bytes = spec, max_bytes
        self._outputs = load("ort", serialise(model), threads=1).outputs
        source = self._answers(model, self._feeds, together=True)
        self._judge = Judge(metric, source, n=len(self._feeds), max_drop=max_drop)

    def run(self) -> Found:
        """Return what was found. Raises TransformError when even 16-bit weights alone do not hold."""
        weights, half = self._worst_weights([weight.name for weight in weights_of(self._model)])
        if half is None:
            raise nothing_holds()
        stored = [harm.name for harm in weights[:half]]
        names = self._static_nodes()
        wide = other_operators(self._model, self._spec)
        forms = [wide, ()] if wide else [()]
        nodes = [Harm(name, 0.0, 0.0) for name in names]
        for form in forms if names else ():
            if self._holds(self._static([], stored, form)):
                return self._found(weights, half, nodes, 0, form)
        limit = most_out(len(names))
        blocks = (
            self._ranked(names, lambda group: self._static(sorted(set(names).difference(group)))) if limit > 0 else []
        )
        saved = saved_by_layer(self._model)
        blocks = by_worth(blocks, saved)
        nodes = [harm for block in blocks for harm in block.layers()] or nodes
        for form in forms if limit > 0 else ():
            out = fewest_within(blocks, partial(self._holds_without_first, stored, form, nodes), limit)
            if out is not None:
                nodes, out = brought_back(nodes, out, saved, partial(self._holds_without, stored, form))
                return self._found(weights, half, nodes, out, form)
        return self._found(weights, half, nodes, len(nodes), ())

    def _holds_without(self, stored: list[str], form: tuple[str, ...], names: Sequence[str]) -> bool:
        """Say whether the static model holds when nodes, with what leaves with them, are left out."""
        out = sorted({name for region in self._regions(names, form) for name in region})
        return self._holds(self._static(out, stored, form))

    def _holds_without_first(self, stored: list[str], form: tuple[str, ...], nodes: Sequence[Harm], k: int) -> bool:
        return self._holds_without(stored, form, [harm.name for harm in nodes[:k]])

    def _found(
        self, weights: list[Harm], half: int, nodes: list[Harm], out: int, form: tuple[str, ...]
    ) -> Found:  # fmt: skip
        kept = tuple(self._regions([harm.name for harm in nodes], form)) if form else ()
        return Found(tuple(weights), half, tuple(nodes), out, form, kept)

    def _regions(self, names: Sequence[str], form: tuple[str, ...]) -> list[tuple[str, ...]]:
        return regions(self._model, names) if form else [(name,) for name in names]

    def _worst_weights(self, names: list[str]) -> tuple[list[Harm], int | None]:
        """Return weights from the worst on, and how many of them need 16 bits; unranked when none does.

        Raises TransformError when so many do that the model is not worth the effort. Nodes in int8 would not make it smaller:
        their weights are rounded as those that lose too much here, and their inputs as well.
        """
        plain = self._weights() if names else None
        if plain is None or self._holds(plain):
            return [Harm(name, 0.0, 0.0) for name in names], 0
        blocks = self._ranked(names, lambda group: self._weights(kept=sorted(set(names).difference(group))))
        worst = [harm for block in blocks for harm in block.layers()]

        def holds(k: int) -> bool:
            return self._holds(self._weights(half=[harm.name for harm in worst[:k]]))

        elements = {tensor.name: math.prod(tensor.dims) for tensor in self._model.graph.initializer}
        most = most_half([elements[harm.name] for harm in worst], self._max_bytes - plain.ByteSize())
        return worst, fewest_worth(blocks, holds, most, self._max_bytes)

    def _ranked(self, names: list[str], alone: Callable[[tuple[str, ...]], onnx.ModelProto]) -> list[Block]:
        """Return layers in blocks, from the worst on. alone: the model in which only these layers are quantised."""
        count = samples_to_rank(len(names), len(self._feeds))
        return ranked(names, lambda groups: in_two(lambda group: self._harm(group, alone(group), count), groups))

    def _weights(self, *, half: Sequence[str] = (), kept: Sequence[str] = ()) -> onnx.ModelProto:
        spec = msgspec.structs.replace(
            self._spec, method="weights", weights_half=sorted(half), weights_float=sorted(kept), correct_bias=not kept,
        )  # fmt: skip
        return candidate(self._model, spec, self._calibration)

    def _static(
        self, exclude: Sequence[str], half: Sequence[str] | None = None, form: tuple[str, ...] = ()
    ) -> onnx.ModelProto:  # fmt: skip
        """Return the static model without some nodes. half: weights in 16 bits, the others in few; None = all in float32.

        form: operators besides the weighted ones, with the head in float.
        """
        spec = msgspec.structs.replace(
            self._spec, method="static", exclude=sorted(exclude), weights_half=sorted(half or ()),
            weight_bits=0 if half is None else self._spec.weight_bits, correct_bias=half is not None,
            op_types=list(form) or self._spec.op_types, head_float=bool(form),
        )  # fmt: skip
        return candidate(self._model, spec, self._calibration)

    def _static_nodes(self) -> list[str]:
        """Return the names of the nodes that the static quantizer would take."""
        stored = {tensor.name for tensor in self._model.graph.initializer}
        return [
            node.name for node in self._model.graph.node
            if node.op_type in self._spec.op_types and any(name in stored for name in node.input)
        ]  # fmt: skip

    def _harm(self, names: tuple[str, ...], model: onnx.ModelProto, count: int) -> Block:
        """Return what a model does on the first `count` samples."""
        got = None
        with suppress(Exception):  # whatever the runtime says, these are no layers to quantise
            got = self._answers(model, self._feeds[:count])
        return self._judge.harm(names, got, count)

    def _holds(self, model: onnx.ModelProto) -> bool:
        """Say whether a model holds; the first samples alone may show that it does not."""
        n = len(self._feeds)
        got: dict[str, Array] = {}
        for start, end in ((0, min(FIRST_SAMPLES, n)), (FIRST_SAMPLES, n)):
            try:
                part = self._answers(model, self._feeds[start:end], together=True)
            except Exception:  # noqa: BLE001 - whatever the runtime says, the model is no choice
                return False
            got = {name: np.concatenate([got[name], array]) if name in got else array for name, array in part.items()}
            verdict = self._judge.holds(got, end)
            if verdict is not None:
                return verdict
        return False

    def _answers(
        self, model: onnx.ModelProto, feeds: Sequence[dict[str, Array]], *, together: bool = False
    ) -> dict[str, Array]:  # fmt: skip
        """Return a model's answers, first axis = samples. together: two threads share the samples."""
        session = quiet_session(model)
        run = in_two if together else _one_by_one
        rows = run(lambda feed: session.run(None, feed), feeds)
        return {
            spec.name: stacked(spec, [np.asarray(row[position]) for row in rows])
            for position, spec in enumerate(self._outputs)
        }


def _one_by_one(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [work(item) for item in items]


def other_operators(model: onnx.ModelProto, spec: CandidateSpec) -> tuple[str, ...]:
    """Return weighted operators with those of activation functions, and those that join or move what lies between them, as far
    as they are there; empty when there are no functions.

    Joining and moving in int8 saves the crossings to float around them: 11.7 ms became 10.5 on a YOLO net, with the same loss.
    Softmax in int8 is no faster than in float.
    """  # fmt: skip
    present = {node.op_type for node in model.graph.node}
    functions = present & _FUNCTIONS & set(quantizable_operators())
    functions |= present & _JOINING if functions else set()
    return tuple(sorted(functions | (present & set(spec.op_types)))) if functions else ()


def regions(model: onnx.ModelProto, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return for each node the names of itself and of the element-wise operators behind it: what its exact result alone makes."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)
    named = {node.name: node for node in model.graph.node}
    found = []
    for name in names:
        behind, stack = {name: None}, [named[name]]
        while stack:
            for value in stack.pop().output:
                for user in users.get(value, ()):
                    if user.op_type in _ELEMENTWISE and user.name not in behind:
                        behind[user.name] = None
                        stack.append(user)
        found.append(tuple(behind))
    return found
