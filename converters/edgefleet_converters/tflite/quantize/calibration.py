"""Run a compiled graph on calibration samples once, and keep what that showed for the other steps of the job.

Each candidate is made in a process of its own, from a graph that is compiled and rewritten again; most of them are the same. What is
kept is found by the bytes of the very file that is run: what would be seen again is the same to the last bit, and a graph in
which one operator differs is run itself. Within it tensors are known by their place, for two may share a name.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from edgefleet_converters.sample_data import read_arrays, save_arrays
from edgefleet_converters.tflite.ir import Array, Graph
from edgefleet_converters.tflite.quantize.affine import Range
from edgefleet_converters.tflite.quantize.bias import MOST_SAMPLES, ChannelMeans
from edgefleet_converters.tflite.quantize.ranges import RangeObserver, narrowed, widened
from edgefleet_protocol.digest import sha256_hex
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime

_ENDS, _MEANS = "MinMax", "means"


def samples_of(model: ModelRuntime, samples: Mapping[str, Array]) -> Iterable[Mapping[str, Array]]:
    """Yield each sample as the model takes it. samples: by input name, first axis = samples."""
    for index in range(len(next(iter(samples.values()), []))):
        yield {s.name: slice_sample(s, samples[s.name], index) for s in model.inputs}


class Calibrator:
    """What one set of samples shows of graphs. Blocks while a model runs; raises ModelLoadError, RunError, InputError."""

    def __init__(self, samples: Mapping[str, Array], adapter: str, folder: Path | None = None) -> None:
        """samples: by input name, first axis = samples. folder: what was seen of these samples is kept there; None = nowhere."""
        self.samples: Final = samples
        self.adapter: Final = adapter
        self._folder = folder
        self._observers: dict[int, tuple[Graph, RangeObserver]] = {}
        self._seen: dict[str, Mapping[str, Array]] = {}

    def ranges(self, graph: Graph, method: str = _ENDS) -> dict[int, Range]:
        """Return what `ranges.observe` returns. method: `MinMax`, `Percentile` or `Entropy`."""
        observer = self._observer(graph)
        ends = self._known(observer, _ENDS, lambda: self._ends(graph, observer))
        if method == _ENDS or not ends:
            return _as_ranges(ends)

        def run() -> dict[int, Array]:
            return _as_arrays(narrowed(_as_ranges(ends), lambda: self._rows(observer), method))

        return _as_ranges(self._known(observer, method, run))

    def means(self, graph: Graph) -> dict[int, Array]:
        """Return id of tensor -> means float64 [channels] of each input of an operator that `bias.corrected` corrects."""
        if not self.samples:
            return {}
        observer = self._observer(graph)

        def run() -> dict[int, Array]:
            means = ChannelMeans(graph)
            for row in islice(self._rows(observer), MOST_SAMPLES):
                means.add(row)
            return means.means()

        return self._known(observer, _MEANS, run)

    def _ends(self, graph: Graph, observer: RangeObserver) -> dict[int, Array]:
        """Return lowest and highest values. The means come of the same runs: some other candidate asks for them."""
        ranges, means = dict[int, Range](), ChannelMeans(graph)
        for row in self._rows(observer):
            widened(ranges, row)
            means.add(row)
        self._known(observer, _MEANS, means.means)
        return _as_arrays(ranges)

    def _rows(self, observer: RangeObserver) -> Iterable[Mapping[int, Array]]:
        return observer.rows(lambda model: samples_of(model, self.samples))

    def _observer(self, graph: Graph) -> RangeObserver:
        # The graph is kept next to its observer, so that its id is not given to another.
        return self._observers.setdefault(id(graph), (graph, RangeObserver(graph, self.adapter)))[1]

    def _known(self, observer: RangeObserver, what: str, see: Callable[[], Mapping[int, Array]]) -> dict[int, Array]:
        """Return what is kept of a graph; what is not is seen now, and kept."""
        name = f"{sha256_hex(observer.data)}.{self.adapter}.{what}.npz"
        if name not in self._seen:
            path = self._folder / name if self._folder else None
            if path is not None and path.exists():
                self._seen[name] = read_arrays(path)
            else:
                place = {key: str(index) for index, key in enumerate(observer.keys)}
                self._seen[name] = {place[key]: array for key, array in see().items()}
                if path is not None:
                    _save(path, self._seen[name])
        return {observer.keys[int(index)]: array for index, array in self._seen[name].items()}


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write the whole file or none: a step may be stopped at any time."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    save_arrays(part, arrays)
    part.replace(path)


def _as_arrays(ranges: Mapping[int, Range]) -> dict[int, Array]:
    return {key: np.array(ends, np.float64) for key, ends in ranges.items()}


def _as_ranges(arrays: Mapping[int, Array]) -> dict[int, Range]:
    return {key: (float(ends[0]), float(ends[1])) for key, ends in arrays.items()}
