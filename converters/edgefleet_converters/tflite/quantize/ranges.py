"""Observe the range of each float tensor of a compiled graph, by running it on calibration samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from edgefleet_converters.onnx.calibrate import entropy_ranges
from edgefleet_converters.tflite.ir import Array, Graph, Tensor
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.writer import write
from edgefleet_runtime.port import ModelRuntime, load

Samples: TypeAlias = Callable[[ModelRuntime], Iterable[Mapping[str, Array]]]
"""Given the loaded model, the arrays of each sample by input name."""
Row: TypeAlias = Mapping[int, Array]
"""What one sample makes: id of tensor -> values."""
_BINS: Final = 2048
_KEPT: Final = 0.9999
"""Share of the values that Percentile keeps inside the range."""


@dataclass
class _Histogram:
    low: float
    high: float
    counts: Array = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: Array) -> None:
        self.counts += np.histogram(values, _BINS, (self.low, self.high))[0]

    def bounds(self) -> Range:
        """Return where the outer halves of the share that is not kept begin."""
        total, below = int(self.counts.sum()), np.cumsum(self.counts)
        edge = total * (1 - _KEPT) / 2
        first, last = int(np.searchsorted(below, edge)), int(np.searchsorted(below, total - edge))
        width = (self.high - self.low) / _BINS
        return self.low + first * width, self.low + (min(last, _BINS - 1) + 1) * width


def watched(graph: Graph) -> tuple[Graph, tuple[Tensor, ...]]:
    """Return the graph with each float32 result as an output, and those tensors in the outputs' order."""
    made = tuple(t for op in graph.ops for t in op.outputs if t.dtype == "float32")
    numbered = {id(t): replace(t, name=f"watched_{i}") for i, t in enumerate(made)}

    def new(tensor: Tensor | None) -> Tensor | None:
        return numbered.get(id(tensor), tensor) if tensor is not None else None

    ops = tuple(
        replace(op, inputs=tuple(map(new, op.inputs)), outputs=tuple(numbered.get(id(t), t) for t in op.outputs))
        for op in graph.ops
    )
    return Graph(graph.inputs, tuple(numbered[id(t)] for t in made), ops), made


class Watch:
    """A graph made to show its float32 results, ready to be run on samples. data: the file that is run."""

    def __init__(self, graph: Graph, adapter: str) -> None:
        """adapter: `litert` or `tflite`."""
        shown, made = watched(graph)
        self._adapter = adapter
        self._inputs = tuple(t for t in graph.inputs if t.dtype == "float32")
        self._made = made
        self._model: ModelRuntime | None = None
        self.data: Final = write(shown) if made else b""
        self.keys: Final = tuple(id(t) for t in (*self._inputs, *made))
        """Ids of the tensors that a row has: float32 inputs and results in the order of the graph."""

    def rows(self, samples: Samples) -> Iterator[Row]:
        """Yield for each sample id of tensor -> array; nothing for a graph without float32 results.

        samples: given the loaded model, the arrays of each sample by input name. Raises ModelLoadError, RunError, InputError.
        """
        if not self._made:
            return
        if self._model is None:
            self._model = load(self._adapter, self.data)
        for sample in samples(self._model):
            answers = self._model.run(sample)
            seen = {id(t): np.asarray(sample[t.name]) for t in self._inputs}
            yield seen | {id(t): answers[f"watched_{i}"] for i, t in enumerate(self._made)}


def widened(ranges: dict[int, Range], row: Row) -> None:
    """Widen ranges by the values of one sample."""
    for key, array in row.items():
        if array.size:
            low, high = ranges.get(key, (np.inf, -np.inf))
            # A NaN must show: min() and max() of Python would let it pass by.
            ranges[key] = (float(np.minimum(low, array.min())), float(np.maximum(high, array.max())))


def narrowed(ranges: Mapping[int, Range], rows: Iterable[Row], method: str) -> dict[int, Range]:
    """Return ranges from lowest to highest as `Percentile` or `Entropy` narrows them. rows: the samples once more."""
    spread = {key: b for key, b in ranges.items() if np.isfinite(b).all() and b[1] > b[0]}
    if method == "Entropy":
        return {**ranges, **entropy_ranges({key: row[key] for key in spread} for row in rows)}
    histograms = {key: _Histogram(*b) for key, b in spread.items()}
    for row in rows:
        for key in spread:
            histograms[key].add(row[key])
    return {**ranges, **{key: histogram.bounds() for key, histogram in histograms.items()}}


def observe(graph: Graph, samples: Samples, adapter: str, method: str = "MinMax") -> dict[int, Range]:
    """Return id of tensor -> range, for the graph's inputs and each result that is float32.

    samples: as `Watch.rows`; called once a pass. method: `MinMax`, `Percentile` or `Entropy`. Raises ModelLoadError, RunError,
    InputError. Blocks for as long as the model runs on all samples. `calibration.Calibrator` runs a graph once a job.
    """
    watch, ranges = Watch(graph, adapter), dict[int, Range]()
    for row in watch.rows(samples):
        widened(ranges, row)
    return ranges if method == "MinMax" else narrowed(ranges, watch.rows(samples), method)
