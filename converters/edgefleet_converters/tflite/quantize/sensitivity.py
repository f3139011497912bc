"""Find the fewest layers that must stay float32 for a compiled model to hold in int8. Runs in a sandboxed child.

Two ladders, as for ONNX models, on calibration samples only (`edgefleet_converters.layer_search` has the order and the search):

1. Weights: all in int8; those that hurt most go to float16 until the metric holds.
2. Layers: all weighted ones static; the worst leave int8, and their weights are stored as ladder 1 found. First with what lies
   between them in int8 too (`wide_operators`) and the head in float, each layer taken out with the activation function behind it:
   fewer tensors then cross between int8 and float. Where that does not hold, weighted layers alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

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
from edgefleet_converters.precision_ranking import brought_back, by_worth
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sample_data import read_arrays, stacked
from edgefleet_converters.tflite.ir import Array, Graph, all_ops
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.calibration import Calibrator, samples_of
from edgefleet_converters.tflite.quantize.candidates import float_form, static_form
from edgefleet_converters.tflite.quantize.kernels import kernel_of
from edgefleet_converters.tflite.quantize.layer_regions import region, saved_by_layer, wide_operators
from edgefleet_converters.tflite.quantize.weights import large_constants, weight_only
from edgefleet_converters.tflite.writer import write
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_runtime.port import ModelRuntime, load


def sensitivity_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model: as for `candidate_step`, runtime, spec, samples: npz, seen: folder|None, metric, max_drop, max_bytes}.
    Returns a `Found`.

    samples: of the calibration. seen: as for `candidate_step`. metric: None, a name or a plan; a user's own, and one that needs labels,
    is replaced by agreement. max_drop: what the gate will allow. max_bytes: a larger model is not worth the effort. Raises
    TransformError when no choice holds, RecipeKeyError.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    graph = float_form(Path(args["model"]).read_bytes(), spec, args["runtime"]).graph
    seen = Path(args["seen"]) if args["seen"] else None
    calibrator = Calibrator(read_arrays(Path(args["samples"])), args["runtime"], seen)
    search = _Search(graph, calibrator, spec, args["metric"], float(args["max_drop"]), int(args["max_bytes"]))
    return dict(msgspec.to_builtins(search.run()))


FEWEST_PARTED: Final = 16
"""With fewer samples the biases of a search are fitted to what judges them."""
_JUDGED_AT: Final = (4, 8, 16)
"""After so many samples it is looked whether a model has lost already: most that a search tries have."""


class _Search:
    """One search on one compiled graph."""

    def __init__(
        self,
        graph: Graph,
        calibrator: Calibrator,
        spec: CandidateSpec,
        metric: Any,
        max_drop: float,
        max_bytes: int,
    ) -> None:
        """metric, max_drop: as for `Judge`. max_bytes: of a model that is worth the effort."""
        self._graph, self._spec, self._adapter = graph, spec, calibrator.adapter
        self._max_bytes = max_bytes
        self._samples = calibrator.samples
        self._ranks: dict[tuple[str, ...], list[Block]] = {}
        self._calibrator = calibrator
        self._means: dict[int, Array] = {}
        if spec.correct_bias:
            # biases fitted to the samples that judge them look better than they are: half of the samples for each
            fitted, self._samples = _every_second(calibrator.samples, 0), _every_second(calibrator.samples, 1)
            self._means = Calibrator(fitted, calibrator.adapter).means(graph)
        self._count = min(SEARCH_SAMPLES, len(next(iter(self._samples.values()))))
        self._judge = Judge(metric, self._answers(graph, self._count), n=self._count, max_drop=max_drop)

    @cached_property
    def _ranges(self) -> Mapping[int, Range]:
        """Seen when the first static form is made: where the weights alone lose too much there is none."""
        return self._calibrator.ranges(self._graph, self._spec.calibration)

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
            raise nothing_holds()
        stored = [harm.name for harm in weights[:half]]
        layers = [
            op.outputs[0].name for op in self._graph.ops
            if op.code in self._spec.op_types and kernel_of(op, self._adapter) is not None
        ]  # fmt: skip
        form = wide_operators(self._graph, self._spec, self._adapter)
        wide = self._wide(layers, stored, form) if form else None
        if wide is not None:
            nodes, out = wide
            regions = tuple(region(self._graph, harm.name) for harm in nodes)
            return Found(tuple(weights), half, tuple(nodes), out, form, regions)
        nodes, plain = self._ladder(
            layers, alone=self._alone(layers), without=lambda kept: self._static(kept, stored, weight_bits=8)
        )
        return Found(tuple(weights), half, tuple(nodes), len(nodes) if plain is None else plain)

    def _alone(self, layers: list[str]) -> Callable[[tuple[str, ...]], Graph]:
        return lambda group: self._static([n for n in layers if n not in group], [], weight_bits=0)

    def _wide(self, layers: list[str], stored: list[str], form: tuple[str, ...]) -> tuple[list[Harm], int] | None:
        """Return the layers, the first to leave first, and how many must leave with `form` in int8; None where that does not hold."""
        limit = most_out(len(layers))
        behind = {name: region(self._graph, name) for name in layers}

        def holds(names: Sequence[str]) -> bool:
            out = sorted({each for name in names for each in behind[name]})
            return self._holds(self._static(out, stored, weight_bits=8, form=form))

        if holds([]):
            return [Harm(name, 0.0, 0.0) for name in layers], 0
        saved = saved_by_layer(self._graph)
        blocks = by_worth(self._ranked(layers, self._alone(layers)), saved) if limit > 0 else []
        nodes = [harm for block in blocks for harm in block.layers()]
        names = [harm.name for harm in nodes]
        out = fewest_within(blocks, lambda k: holds(names[:k]), limit) if limit > 0 else None
        return None if out is None else brought_back(nodes, out, saved, holds)

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
        blocks = self._ranked(names, alone)
        worst = [harm for block in blocks for harm in block.layers()]

        def holds(k: int) -> bool:
            return self._holds(without([harm.name for harm in worst[:k]]))

        return worst, fewest_worth(blocks, holds, most([harm.name for harm in worst]), self._max_bytes)

    def _most_half(self, worst: list[str]) -> int:
        elements = {
            t.name: t.data.size
            for op in all_ops(self._graph)
            for t in op.inputs
            if t is not None and t.data is not None
        }
        plain = write(weight_only(self._graph, per_channel=self._spec.per_channel))
        return most_half([elements[name] for name in worst], self._max_bytes - len(plain))

    def _ranked(self, names: list[str], alone: Callable[[tuple[str, ...]], Graph]) -> list[Block]:
        """Return layers in blocks, from the worst on; the same ones are run once."""
        key = tuple(names)
        if key not in self._ranks:
            count = samples_to_rank(len(names), self._count)
            self._ranks[key] = ranked(
                names, lambda groups: [self._harm(group, alone(group), count) for group in groups]
            )
        return self._ranks[key]

    def _each(self, model: ModelRuntime) -> Iterable[Mapping[str, Array]]:
        return samples_of(model, self._samples)

    def _static(
        self, exclude: list[str], half: list[str], *, weight_bits: Any, form: tuple[str, ...] = ()
    ) -> Graph:  # fmt: skip
        """Return the static graph without some layers. form: operators besides the weighted ones, with the head in float."""
        spec = msgspec.structs.replace(
            self._spec, method="static", exclude=exclude, weights_half=half, weight_bits=weight_bits,
            correct_bias=self._spec.correct_bias and weight_bits > 0, op_types=list(form) or self._spec.op_types,
            head_float=bool(form),
        )  # fmt: skip
        return static_form(self._graph, spec, self._ranges, self._adapter, self._means)

    def _harm(self, names: tuple[str, ...], graph: Graph, count: int) -> Block:
        """Return what a graph does to the first `count` samples."""
        got = None
        with suppress(EdgefleetError):
            got = self._answers(graph, count)
        return self._judge.harm(names, got, count)

    def _holds(self, graph: Graph) -> bool:
        """Say whether a model holds; the first samples alone may show that it does not."""
        rows = list[Mapping[str, Array]]()
        try:
            model = load(self._adapter, write(graph))
            samples = iter(self._each(model))
            for end in sorted({min(at, self._count) for at in (*_JUDGED_AT, self._count)}):
                rows += [model.run(sample) for sample in islice(samples, end - len(rows))]
                verdict = self._judge.holds(_joined(model, rows), end)
                if verdict is not None:
                    return verdict
        except EdgefleetError:
            pass
        return False

    def _answers(self, graph: Graph, count: int) -> dict[str, Array]:
        """Return the outputs of the first `count` samples, first axis = samples."""
        model = load(self._adapter, write(graph))
        return _joined(model, [model.run(sample) for sample in islice(self._each(model), count)])


def _joined(model: ModelRuntime, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {spec.name: stacked(spec, [np.asarray(row[spec.name]) for row in rows]) for spec in model.outputs}


def _every_second(samples: Mapping[str, Array], start: int) -> dict[str, Array]:
    """Return every second sample; all of them where there are too few to be parted."""
    few = len(next(iter(samples.values()))) < FEWEST_PARTED
    return {name: array if few else array[start::2] for name, array in samples.items()}
