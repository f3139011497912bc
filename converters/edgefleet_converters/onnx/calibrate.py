"""What calibration samples tell about a model: the range of each tensor, the mean of each channel. Runs in a sandboxed child.

Ranges are those of onnxruntime's own calibrators, whose result its quantizer takes. They are collected once a model and serve
any choice of nodes.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.onnx.walk import all_graphs
from edgefleet_converters.sample_data import read_arrays, save_arrays
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample

Array = npt.NDArray[Any]
A = TypeVar("A")
B = TypeVar("B")
K = TypeVar("K")

HISTOGRAM_SAMPLES: Final = 32
"""So many samples fill a histogram of a tensor well enough; each costs a hundred times what a minimum and maximum cost."""
_CHUNK: Final = 4
"""Samples that a histogram calibrator holds at once: it keeps every tensor of them in memory."""
_THREADS: Final = 2
"""As many as the smallest machine that a converter runs on has processors."""
BIAS_SAMPLES: Final = 32
"""So many samples give the mean of a layer's input closely enough."""


@dataclass(frozen=True)
class Calibration:
    """What was seen. ranges: tensor -> (lowest, highest). means: tensor -> E[x] of each channel, float64 [channels]."""

    ranges: Mapping[str, tuple[float, float]]
    means: Mapping[str, Array]

    def tensors_data(self) -> Any:
        """Return the ranges as onnxruntime's quantizer takes them."""
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import TensorsData

        data = {name: tuple(np.array(end, np.float32) for end in pair) for name, pair in self.ranges.items()}
        return TensorsData(CalibrationMethod.MinMax, data)

    def without(self, tensors: Set[str]) -> "Calibration":
        """Return what was seen of all but these tensors."""
        ranges = {name: pair for name, pair in self.ranges.items() if name not in tensors}
        return Calibration(ranges, {name: mean for name, mean in self.means.items() if name not in tensors})

    def save(self, path: Path) -> None:
        """Write an `.npz`."""
        arrays = {f"range.{name}": np.array(pair, np.float32) for name, pair in self.ranges.items()}
        save_arrays(path, arrays | {f"mean.{name}": mean for name, mean in self.means.items()})

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Return what `save` wrote."""
        arrays = read_arrays(path)
        ranges = {
            name.removeprefix("range."): (float(pair[0]), float(pair[1])) for name, pair in arrays.items()
            if name.startswith("range.")
        }  # fmt: skip
        means = {name.removeprefix("mean."): mean for name, mean in arrays.items() if name.startswith("mean.")}
        return Calibration(ranges, means)


class Samples:
    """Calibration samples, read one at a time in the model's own shapes (onnxruntime's CalibrationDataReader)."""

    def __init__(self, arrays: dict[str, Array], inputs: Sequence[TensorSpec], indices: Sequence[int] | None = None):
        """arrays: by input name, first axis = samples. indices: which of them; None = all."""
        self._arrays, self._inputs = arrays, inputs
        self._indices = list(range(len(next(iter(arrays.values()))))) if indices is None else list(indices)
        self._steps = iter(self)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for index in self._indices:
            yield {spec.name: slice_sample(spec, self._arrays[spec.name], index) for spec in self._inputs}

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample; None at the end."""
        return next(self._steps, None)

    def part(self, indices: Sequence[int]) -> "Samples":
        """Return some of the samples, counted from 0 within these."""
        return Samples(self._arrays, self._inputs, [self._indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self._indices)


def tensor_ranges(
    model: onnx.ModelProto, samples: Samples, *, method: str, known: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, tuple[float, float]]:
    """Return the range of each float tensor at an operator that can be quantised.

    method: MinMax, Entropy or Percentile. known: ranges that MinMax need not look for. Raises what onnxruntime raises. Runs the
    model on each sample, as far as a tensor is to be seen.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibraterBase, create_calibrator

    from edgefleet_converters.onnx.histograms import Histograms

    kind = CalibrationMethod[method]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        if kind is CalibrationMethod.MinMax:
            base = CalibraterBase(path, quantizable_operators())
            tensors, _ = base.select_tensors_to_calibrate(base.model)
            there = {name: known[name] for name in sorted(tensors) if known is not None and name in known}
            wanted = sorted(set(tensors).difference(there))
            return there | (_lowest_and_highest(base.model, wanted, samples) if wanted else {})
        calibrator = create_calibrator(
            path, quantizable_operators(), augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kind,
        )  # fmt: skip
        if kind is CalibrationMethod.Entropy:
            calibrator.collector = Histograms()
        count = min(len(samples), HISTOGRAM_SAMPLES)
        for start in range(0, count, _CHUNK):
            calibrator.collect_data(samples.part(range(start, min(start + _CHUNK, count))))
        found = calibrator.compute_data()
    return {name: (_number(data.range_value[0]), _number(data.range_value[1])) for name, data in found.items()}


def entropy_ranges(rows: Iterable[Mapping[K, Array]]) -> dict[K, tuple[float, float]]:
    """Return the ranges in which int8 keeps most of the values' information, as `tensor_ranges` finds them by Entropy.

    rows: of one sample each, every key with finite float32 values that differ; at most `HISTOGRAM_SAMPLES` are read. For models that
    onnxruntime does not run; the histograms are collected as there, in the same portions.
    """
    from edgefleet_converters.onnx.histograms import Histograms

    collector = Histograms()
    left = islice(rows, HISTOGRAM_SAMPLES)
    with redirect_stdout(StringIO()):  # it prints what it does
        while portion := list(islice(left, _CHUNK)):
            collector.collect({key: [row[key] for row in portion] for key in portion[0]})
        found = collector.compute_collection_result() if collector.histogram_dict else {}
    return {key: (_number(bounds[0]), _number(bounds[1])) for key, bounds in found.items()}


def _lowest_and_highest(
    model: onnx.ModelProto, tensors: Sequence[str], samples: Samples
) -> dict[str, tuple[float, float]]:
    """Return what onnxruntime's MinMax calibrator finds, in a session of our own: its own one optimises nothing and spins."""
    shown = _ending_at(model, tensors)
    wanted = []
    for position, name in enumerate(tensors):
        for operator in ("ReduceMin", "ReduceMax"):
            made = f"edgefleet_{operator}_{position}"
            # With keepdims = 0 an empty tensor is an error.
            shown.graph.node.append(onnx.helper.make_node(operator, [name], [made], name=made, keepdims=1))
            shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(made))
            wanted.append(made)
    _right_behind(shown)
    session = quiet_session(shown, in_order=True)
    rows = in_two(lambda feed: [_bounds(value) for value in session.run(wanted, feed)], list(samples))
    lows, highs = np.min(rows, axis=0), np.max(rows, axis=0)
    return {name: (float(lows[2 * i, 0]), float(highs[2 * i + 1, 1])) for i, name in enumerate(tensors)}


def _right_behind(model: onnx.ModelProto) -> None:
    """Move each node right behind the last one that it reads, in place: a tensor that is only looked at is then freed at once."""
    made: dict[str, int] = {}
    places = []
    for index, node in enumerate(model.graph.node):
        is_added = node.name.startswith("edgefleet_")
        place = max((made.get(name, -1) for name in node.input), default=-1) if is_added else index
        places.append((place, is_added, index))
        if not is_added:
            made.update(dict.fromkeys(node.output, index))
    nodes = list(model.graph.node)
    ordered = [nodes[index] for _, _, index in sorted(places)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _ending_at(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return the model without outputs, and without the nodes that none of `tensors` needs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    needed, kept = set(tensors), []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    if sum(1 for _ in all_graphs(model)) == 1:  # a subgraph may read any tensor: such a model stays whole
        del shown.graph.node[:]
        shown.graph.node.extend(reversed(kept))
    return shown


def _bounds(value: Array) -> tuple[float, float]:
    """Return lowest and highest of an array with one value, or none where the tensor was empty."""
    return (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)


def quiet_session(model: onnx.ModelProto, *, in_order: bool = False) -> Any:
    """Return an onnxruntime session of one thread, so that its answers are the same on every machine. Raises its errors.

    in_order: nodes run in the order of the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if in_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def in_two(work: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """Return `work` of each item in their order, done by two threads: onnxruntime computes outside of Python's lock."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, items))


def _number(value: Any) -> float:
    """Return a calibrator's bound, which is a scalar or an array of one value."""
    return float(np.asarray(value, dtype=np.float32).reshape(-1)[0])


def quantizable_operators() -> list[str]:
    """Return the operators that onnxruntime's QDQ quantizer knows, in a fixed order."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def channel_means(model: onnx.ModelProto, tensors: Sequence[str], samples: Samples) -> dict[str, Array]:
    """Return the mean of each named tensor over samples and all axes but the channels', float64.

    The channels' axis is 1, as in [N, C] and in images [N, C, …]. Tensors that the model does not make are left out.
    """
    names = sorted(set(tensors))
    shown = _ending_at(model, names)
    made = {output for node in shown.graph.node for output in node.output}
    given = {value.name for value in shown.graph.input}
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name in made
    )
    wanted = [name for name in names if name in made]
    session = quiet_session(shown) if wanted else None  # a graph without outputs is none

    def means(feed: dict[str, Array]) -> dict[str, Array]:
        values = dict(zip(wanted, session.run(wanted, feed) if session is not None else [], strict=True))
        values |= {name: feed[name] for name in names if name in given}
        return {name: _channel_mean(value) for name, value in values.items() if value.ndim > 1}

    rows = in_two(means, list(samples))
    return {name: np.mean([row[name] for row in rows], axis=0) for name in names if rows and name in rows[0]}


def _channel_mean(value: Array) -> Array:
    mean: Array = value.astype(np.float64).mean(axis=tuple(axis for axis in range(value.ndim) if axis != 1))
    return mean
