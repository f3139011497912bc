"""Find the layers that quantization hurts, and the fewest that must be left out. Runs in a sandboxed child.

Two ladders, each ranked one layer at a time on a few calibration samples and searched on up to `SEARCH_SAMPLES` (`sensitivity`):

1. Weights: all in int8; those that hurt most go to float16 until the metric holds. Nothing else is quantised.
2. Nodes: all weighted nodes static, the rest stored as ladder 1 found; the worst nodes leave the static part.

The samples are those of the calibration: what judges a candidate at the gate is never looked at here. The metric is held
against the source's own answers, so no labels are needed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.check.distance import distance
from edgefleet_converters.check.metrics import METRICS, judge
from edgefleet_converters.data import read_arrays
from edgefleet_converters.errors import TransformError
from edgefleet_converters.onnx.calibrate import Calibration, Samples
from edgefleet_converters.onnx.load import parse, serialise
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.onnx.weights import weights_of
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sensitivity import MARGIN, SEARCH_SAMPLES, Found, Harm, fewest, samples_to_rank, worst_first
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import is_batched, load

Array = npt.NDArray[Any]


def sensitivity_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, calibration, spec, samples: npz, inputs, metric, max_drop}. Returns a `Found`.

    model, calibration: as `onnx.prepare` wrote them. metric: None or a name; a user's own is replaced by agreement. max_drop:
    what the gate will allow.
    Raises TransformError when no choice holds.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    inputs = msgspec.convert(args["inputs"], list[TensorSpec])
    metric = args["metric"] if args["metric"] in METRICS and args["metric"] != "top1" else "agreement"
    search = Search(
        parse(Path(args["model"]).read_bytes()), Calibration.load(Path(args["calibration"])),
        Samples(read_arrays(Path(args["samples"])), inputs), spec, metric, MARGIN * float(args["max_drop"]),
    )  # fmt: skip
    return dict(msgspec.to_builtins(search.run()))


class Search:
    """One search on one prepared model."""

    def __init__(
        self, model: onnx.ModelProto, calibration: Calibration, samples: Samples, spec: CandidateSpec, metric: str,
        max_drop: float,
    ) -> None:  # fmt: skip
        """max_drop: how much of the metric may be lost on the samples."""
        self._model, self._calibration = model, calibration
        self._samples = samples.part(range(min(len(samples), SEARCH_SAMPLES)))
        self._spec, self._metric, self._max_drop = spec, metric, max_drop
        self._reference = self._answers(model, len(self._samples))
        self._judged = 0

    def run(self) -> Found:
        """Return what was found. Raises TransformError when even 16-bit weights alone do not hold."""
        weights, half = self._ladder(
            [weight.name for weight in weights_of(self._model)],
            alone=lambda name, rest: self._weights(kept=rest),
            without=lambda names: self._weights(half=names),
        )
        if half is None:
            raise TransformError(
                "the model loses more than is allowed even with 16-bit weights alone",
                next_step="use --precision auto or fp32, or allow more loss with --max-drop",
            )
        stored = [harm.name for harm in weights[:half]]
        nodes, out = self._ladder(
            self._static_nodes(),
            alone=lambda name, rest: self._static(rest, stored, weight_bits=0),
            without=lambda names: self._static(names, stored, weight_bits=self._spec.weight_bits),
        )
        count = samples_to_rank(max(len(nodes), len(weights)), len(self._samples))
        left_out = len(nodes) if out is None else out
        return Found(tuple(weights), half, tuple(nodes), left_out, self._judged, count)

    def _ladder(
        self, names: list[str], *, alone: Callable[[str, list[str]], onnx.ModelProto],
        without: Callable[[list[str]], onnx.ModelProto],
    ) -> tuple[list[Harm], int | None]:  # fmt: skip
        """Return layers from the worst on, and how many of them must go; unranked when none must.

        alone: the model in which only this layer is quantised, given all others. without: all but these.
        """
        if not names or self._holds(without([])):
            return [Harm(name, 0.0, 0.0) for name in names], 0
        count = samples_to_rank(len(names), len(self._samples))
        harms = [self._harm(name, alone(name, [n for n in names if n != name]), count) for name in names]
        ranked = worst_first(harms)
        taken = fewest(len(names), lambda k: k > 0 and self._holds(without([harm.name for harm in ranked[:k]])))
        return ranked, taken

    def _weights(self, *, half: Sequence[str] = (), kept: Sequence[str] = ()) -> onnx.ModelProto:
        spec = msgspec.structs.replace(
            self._spec, method="weights", weights_half=sorted(half), weights_float=sorted(kept), correct_bias=not kept,
        )  # fmt: skip
        return candidate(self._model, spec, self._calibration)

    def _static(self, exclude: Sequence[str], half: Sequence[str], *, weight_bits: Any) -> onnx.ModelProto:
        spec = msgspec.structs.replace(
            self._spec, method="static", exclude=sorted(exclude), weights_half=sorted(half), weight_bits=weight_bits,
            correct_bias=bool(weight_bits),
        )  # fmt: skip
        if len(exclude) == len(self._static_nodes()):
            return self._weights(half=half)
        return candidate(self._model, spec, self._calibration)

    def _static_nodes(self) -> list[str]:
        """Return the names of the nodes that the static quantizer would take."""
        stored = {tensor.name for tensor in self._model.graph.initializer}
        return [
            node.name for node in self._model.graph.node
            if node.op_type in self._spec.op_types and any(name in stored for name in node.input)
        ]  # fmt: skip

    def _harm(self, name: str, model: onnx.ModelProto, count: int) -> Harm:
        """Return what a model does on the first `count` samples; one that does not run is as harmful as can be."""
        wanted = {key: array[:count] for key, array in self._reference.items()}
        try:
            got = self._answers(model, count)
        except EdgefleetError:
            return Harm(name, 1.0, 1e9)
        apart = distance(self._metric, got, wanted)
        drop = judge(self._metric, got, wanted, {}).drop if np.isfinite(apart) else 1.0
        return Harm(name, float(drop), min(apart, 1e9))

    def _holds(self, model: onnx.ModelProto) -> bool:
        self._judged += 1
        try:
            got = self._answers(model, len(self._samples))
        except EdgefleetError:
            return False
        return bool(judge(self._metric, got, self._reference, {}).drop <= self._max_drop + 1e-9)

    def _answers(self, model: onnx.ModelProto, count: int) -> dict[str, Array]:
        runtime = load("ort", serialise(model), threads=1)
        rows = [runtime.run(feed) for feed in self._samples.part(range(count))]
        stacked = {}
        for spec in runtime.outputs:
            values = [np.asarray(row[spec.name]) for row in rows]
            join = np.concatenate if is_batched(spec) and values[0].shape[:1] == (1,) else np.stack
            stacked[spec.name] = join(values)
        return stacked
