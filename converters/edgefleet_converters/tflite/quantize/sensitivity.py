"""Find the fewest layers that must stay float32 for a compiled model to hold in int8. Runs in a sandboxed child.

Two ladders, as for ONNX models, on calibration samples only (`edgefleet_converters.sensitivity` has the order and the search):

1. Weights: all in int8; those that hurt most go to float16 until the metric holds.
2. Layers: all weighted ones static; the worst leave int8, and their weights are stored as ladder 1 found.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from edgefleet_converters.check.distance import distance
from edgefleet_converters.check.metrics import METRICS, judge
from edgefleet_converters.data import read_arrays, stacked
from edgefleet_converters.errors import TransformError
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sensitivity import (
    MARGIN,
    SEARCH_SAMPLES,
    Block,
    Found,
    Harm,
    fewest_out,
    most_half,
    not_worth,
    ranked,
    samples_to_rank,
)
from edgefleet_converters.tflite.ir import Array, Graph
from edgefleet_converters.tflite.quantize.bias import channel_means
from edgefleet_converters.tflite.quantize.candidates import compiled_for, samples_of, static_form
from edgefleet_converters.tflite.quantize.kernels import kernel_of
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.weights import large_constants, weight_only
from edgefleet_converters.tflite.writer import write
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.port import ModelRuntime, load


def sensitivity_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model: ONNX file, runtime, spec, samples: npz, metric, max_drop, max_bytes}. Returns a `Found`.

    samples: of the calibration. metric: None or a name; a user's own, and one that needs labels, is replaced by agreement.
    max_drop: what the gate will allow. max_bytes: a larger model is not worth the effort. Raises TransformError when no choice
    holds, RecipeKeyError.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    model = onnx.load_model_from_string(Path(args["model"]).read_bytes())
    graph = compiled_for(model, spec, args["runtime"])
    metric = args["metric"] if args["metric"] in METRICS and args["metric"] != "top1" else "agreement"
    search = _Search(
        graph, read_arrays(Path(args["samples"])), spec, args["runtime"], metric, MARGIN * float(args["max_drop"]),
        int(args["max_bytes"]),
    )  # fmt: skip
    return dict(msgspec.to_builtins(search.run()))


class _Search:
    """One search on one compiled graph."""

    def __init__(
        self,
        graph: Graph,
        samples: Mapping[str, Array],
        spec: CandidateSpec,
        adapter: str,
        metric: str,
        max_drop: float,
        max_bytes: int,
    ) -> None:
        """max_drop: how much of the metric may be lost on the samples. max_bytes: of a model that is worth the effort."""
        self._graph, self._spec, self._adapter = graph, spec, adapter
        self._metric, self._max_drop, self._max_bytes = metric, max_drop, max_bytes
        self._samples = samples
        self._ranges = observe(graph, self._each, adapter, spec.calibration)
        self._means = channel_means(graph, self._each, adapter) if spec.correct_bias else {}
        self._count = min(SEARCH_SAMPLES, len(next(iter(samples.values()))))
        self._reference = self._answers(graph, self._count)

    def run(self) -> Found:
        """Return what was found. Raises TransformError when even 16-bit weights alone do not hold."""
        names, each = large_constants(self._graph), self._spec.per_channel
        weights, half = self._ladder(
            names,
            alone=lambda group: weight_only(self._graph, kept=frozenset(names).difference(group), per_channel=each),
            without=lambda kept: weight_only(self._graph, half=frozenset(kept), means=self._means, per_channel=each),
            most=self._most_half,
        )
        if half is None:
            raise TransformError(
                "the model loses more than is allowed even with 16-bit weights alone",
                next_step="use --precision auto or fp32, or allow more loss with --max-drop",
            )
        stored = [harm.name for harm in weights[:half]]
        layers = [
            op.outputs[0].name for op in self._graph.ops
            if op.code in self._spec.op_types and kernel_of(op, self._adapter) is not None
        ]  # fmt: skip
        nodes, out = self._ladder(
            layers,
            alone=lambda group: self._static([n for n in layers if n not in group], [], weight_bits=0),
            without=lambda kept: self._static(kept, stored, weight_bits=8),
        )
        return Found(tuple(weights), half, tuple(nodes), len(nodes) if out is None else out)

    def _ladder(
        self, names: list[str], *, alone: Callable[[tuple[str, ...]], Graph], without: Callable[[list[str]], Graph],
        most: Callable[[list[str]], int] = len,
    ) -> tuple[list[Harm], int | None]:  # fmt: skip
        """Return layers from the worst on, and how many of them must go; unranked when none must.

        alone: the graph in which only these layers are quantized. without: all but these. most: how many of the layers, the worst
        first, may go before the model is not worth the effort. Raises TransformError when more would have to.
        """
        if not names or self._holds(without([])):
            return [Harm(name, 0.0, 0.0) for name in names], 0
        count = samples_to_rank(len(names), self._count)
        blocks = ranked(names, lambda groups: [self._harm(group, alone(group), count) for group in groups])
        worst = [harm for block in blocks for harm in block.layers()]
        limit = most([harm.name for harm in worst])

        def holds(k: int) -> bool:
            return self._holds(without([harm.name for harm in worst[:k]]))

        if limit == len(worst):
            return worst, fewest_out(blocks, holds)
        # The largest model that is worth it first: where that does not hold, no smaller one need be tried.
        if limit < 0 or not holds(limit):
            raise not_worth(self._max_bytes)
        return worst, fewest_out(blocks, holds, limit)

    def _most_half(self, worst: list[str]) -> int:
        elements = {
            t.name: t.data.size for op in self._graph.ops for t in op.inputs if t is not None and t.data is not None
        }
        plain = write(weight_only(self._graph, per_channel=self._spec.per_channel))
        return most_half([elements[name] for name in worst], self._max_bytes - len(plain))

    def _each(self, model: ModelRuntime) -> Iterable[Mapping[str, Array]]:
        return samples_of(model, self._samples)

    def _static(self, exclude: list[str], half: list[str], *, weight_bits: Any) -> Graph:
        spec = msgspec.structs.replace(
            self._spec, method="static", exclude=exclude, weights_half=half, weight_bits=weight_bits
        )
        return static_form(self._graph, spec, self._ranges, self._adapter, self._means)

    def _harm(self, names: tuple[str, ...], graph: Graph, count: int) -> Block:
        """Return what a graph does to the first `count` samples; one that does not run is as harmful as can be."""
        wanted = {key: array[:count] for key, array in self._reference.items()}
        try:
            got = self._answers(graph, count)
        except EdgefleetError:
            return Block(names, 1.0, 1e9)
        apart = distance(self._metric, got, wanted)
        drop = judge(self._metric, got, wanted, {}).drop if np.isfinite(apart) else 1.0
        return Block(names, float(drop), min(apart, 1e9))

    def _holds(self, graph: Graph) -> bool:
        try:
            got = self._answers(graph, self._count)
        except EdgefleetError:
            return False
        return bool(judge(self._metric, got, self._reference, {}).drop <= self._max_drop + 1e-9)

    def _answers(self, graph: Graph, count: int) -> dict[str, Array]:
        """Return the outputs of the first `count` samples, first axis = samples."""
        model = load(self._adapter, write(graph))
        rows = [model.run(sample) for sample, _ in zip(self._each(model), range(count), strict=False)]
        return {spec.name: stacked(spec, [np.asarray(row[spec.name]) for row in rows]) for spec in model.outputs}
