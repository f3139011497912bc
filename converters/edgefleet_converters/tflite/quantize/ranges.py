"""Observe the range of each float tensor of a compiled graph, by running it on calibration samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

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
_WIDER: Final = 10
"""So many times as many values as are cut off are looked at: samples differ."""


@dataclass
class _Histogram:
    """How many values lie in each bin from `low` to `high`, as far as `bounds` needs to know.

    The bounds lie among few outer values, so of all samples but the first only those beyond `inner` are put in bins, which takes
    nearly all of the time. inner: those two values and their bins; None = all values are put in bins.
    """

    low: float
    high: float
    whole: bool = False
    counts: Array = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    total: int = 0
    inner: tuple[Any, Any, int, int] | None = None

    def add(self, values: Array) -> None:
        outer = values.reshape(-1)
        if self.inner is not None:
            outer = outer[(outer < self.inner[0]) | (outer > self.inner[1])]
        self.counts += self._binned(outer)
        if not self.total and not self.whole:
            self.inner = self._inner(values.dtype)
        self.total += values.size

    def _binned(self, values: Array) -> Array:
        return np.histogram(values, _BINS, (self.low, self.high))[0]

    def _inner(self, dtype: Any) -> tuple[Any, Any, int, int] | None:
        """Return where a share that is `_WIDER` times what is cut off ends on either side of the first sample."""
        below = np.cumsum(self.counts)
        edge = below[-1] * _WIDER * (1 - _KEPT) / 2
        width = (self.high - self.low) / _BINS
        ends = np.array([self.low + int(np.searchsorted(below, at)) * width for at in (edge, below[-1] - edge)], dtype)
        first, last = (int(self._binned(end.reshape(1)).argmax()) for end in ends)
        return (ends[0], ends[1], first, last) if last - first > 1 else None

    def bounds(self) -> Range | None:
        """Return where the outer halves of the share that is not kept begin; None where too few values were put in bins."""
        total, counts = self.total, self.counts.copy()
        if self.inner is not None:
            # The bins beyond the inner two are complete, those two hold no more than they should: what lies within goes between.
            counts[self.inner[2] + 1] += total - int(counts.sum())
        below = np.cumsum(counts)
        edge = total * (1 - _KEPT) / 2
        first, last = int(np.searchsorted(below, edge)), int(np.searchsorted(below, total - edge))
        if self.inner is not None and not (first <= self.inner[2] and self.inner[3] <= last):
            return None
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


class RangeObserver:
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


def narrowed(ranges: Mapping[int, Range], rows: Callable[[], Iterable[Row]], method: str) -> dict[int, Range]:
    """Return ranges from lowest to highest as `Percentile` or `Entropy` narrows them. rows: the samples once more, a call a pass."""
    spread = {key: b for key, b in ranges.items() if np.isfinite(b).all() and b[1] > b[0]}
    if method == "Entropy":
        return {**ranges, **entropy_ranges({key: row[key] for key in spread} for row in rows())}
    found = _percentiles(spread, rows(), whole=False)
    unsure = {key: spread[key] for key, bounds in found.items() if bounds is None}
    found |= _percentiles(unsure, rows(), whole=True) if unsure else {}
    return {**ranges, **{key: bounds for key, bounds in found.items() if bounds is not None}}


def _percentiles(spread: Mapping[int, Range], rows: Iterable[Row], *, whole: bool) -> dict[int, Range | None]:
    histograms = {key: _Histogram(*b, whole=whole) for key, b in spread.items()}
    for row in rows:
        for key, histogram in histograms.items():
            histogram.add(row[key])
    return {key: histogram.bounds() for key, histogram in histograms.items()}


def observe(graph: Graph, samples: Samples, adapter: str, method: str = "MinMax") -> dict[int, Range]:
    """Return id of tensor -> range, for the graph's inputs and each result that is float32.

    samples: as `RangeObserver.rows`; called once a pass. method: `MinMax`, `Percentile` or `Entropy`. Raises ModelLoadError, RunError,
    InputError. Blocks for as long as the model runs on all samples. `calibration.Calibrator` runs a graph once a job.
    """
    observer, ranges = RangeObserver(graph, adapter), dict[int, Range]()
    for row in observer.rows(samples):
        widened(ranges, row)
    return ranges if method == "MinMax" else narrowed(ranges, lambda: observer.rows(samples), method)
