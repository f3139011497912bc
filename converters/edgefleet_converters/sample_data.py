"""Sample data: `.npz` archives checked against the model's inputs.

Rules (docs/how-to/publish-a-model.md):

1. Arrays are named as the model's inputs, first axis = samples; a model with one input may use `x`.
2. Sample i is `a[i:i+1]` where the input's first dimension is 1 or open, else `a[i]` has the input's whole shape.
3. Labels are `y` (one integer a sample) or `y.<output>`.
4. With a preprocess.json an array may hold raw samples instead, as a device gets them: `raw.<input>` or `raw`, images [n, h, w, c], rows
   of a table [n, columns] or arrays. The device's own code makes the model's inputs of them: parity and metric are judged with it.
5. `time`, where no input is called so, says when each sample was taken, in unix seconds. Only the drift reference reads it.
6. Values are never changed silently: a wider float may become float32, a whole number may change its integer type; all else
   is refused. Real values for a quantised input are quantised as the device does it. NaN, infinity and pickled arrays are
   refused; NaN in samples of the drift reference is a missing value.
"""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.errors import (
    DataDtypeError,
    DataEmptyError,
    DataError,
    DataNamesError,
    DataNotFiniteError,
    DataShapeError,
    DataUnreadableError,
    LabelsError,
    ModelTooLargeError,
)
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import is_batched
from edgefleet_runtime.preprocess import Preprocess, from_samples
from edgefleet_runtime.quantization import quantize_array

Array = npt.NDArray[Any]

MAX_UNPACKED_BYTES: Final = 2 * 1024**3
HELD_BACK_RATIO: Final = 0.4
TIME: Final = "time"
REFERENCE: Final = "reference"
"""Role of the samples of the drift reference: only there may values be missing."""
_UNREADABLE: Final = (
    ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, OverflowError, NotImplementedError, MemoryError,
    RecursionError, SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise on broken archives; an array's header is Python source, so its parser's errors too."""
_HINT: Final = "write the file with numpy.savez: one array for each input, samples on the first axis"


@dataclass(frozen=True)
class SampleSet:
    """Samples for a model. arrays: by input name, first axis = samples. labels: by output name, or "" for plain `y`.

    times: unix seconds of each sample, where they are known.
    """

    arrays: dict[str, Array]
    labels: dict[str, Array] = field(default_factory=dict)
    times: Array | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def take(self, indices: Array) -> "SampleSet":
        """Return the samples at `indices` (int array), labels with them."""
        return SampleSet(
            {name: array[indices] for name, array in self.arrays.items()},
            {name: array[indices] for name, array in self.labels.items()},
            None if self.times is None else self.times[indices],
        )


def load_arrays(path: Path, role: str) -> dict[str, Array]:
    """Return all arrays of an `.npz`. role: how the file is called in messages. Raises DataUnreadableError."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise DataUnreadableError(
                f"the {role} data unpacks to {unpacked} bytes; at most {MAX_UNPACKED_BYTES} are taken",
                next_step="give fewer samples",
            )
        return read_arrays(path)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataUnreadableError(
            f"the {role} data is not an .npz file of plain arrays: {' '.join(str(error).split())[:160]}",
            next_step=_HINT,
        ) from error


def read_arrays(path: Path) -> dict[str, Array]:
    """Return all arrays of an `.npz` that this job wrote, or that `load_arrays` has looked at."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as an `.npz`; any name is allowed, also those that numpy.savez takes for its own parameters."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(  # type: ignore[no-untyped-call]
                    member, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False
                )


def load_samples(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    role: str,
    preprocess: Preprocess | None = None,
) -> SampleSet:
    """Return the checked samples of an `.npz`; as `check_samples`. preprocess: of raw samples (rule 4)."""
    return check_samples(_from_raw(load_arrays(path, role), inputs, role, preprocess), inputs, outputs, role)


def _from_raw(
    arrays: dict[str, Array], inputs: tuple[TensorSpec, ...], role: str, preprocess: Preprocess | None
) -> dict[str, Array]:
    """Return the arrays with the model's inputs in the place of raw samples. Raises DataNamesError, DataShapeError."""
    names = {spec.name for spec in inputs}
    raw = {key: a for key, a in arrays.items() if key not in names and (key == "raw" or key.startswith("raw."))}
    if not raw:
        return arrays
    if preprocess is None:
        raise DataNamesError(
            f"the {role} data holds raw samples, and nothing says what becomes of them",
            next_step="give --preprocess, or samples that are the model's inputs already",
        )
    named = {inputs[0].name if key == "raw" else key.removeprefix("raw."): a for key, a in raw.items()}
    try:
        made = from_samples(preprocess, named, inputs)
    except EdgefleetError as error:
        raise DataShapeError(
            f"the raw {role} samples cannot be preprocessed: {error.message}",
            next_step=error.next_step or "compare the samples with preprocess.json",
        ) from error
    return {**{key: array for key, array in arrays.items() if key not in raw}, **made}


def check_samples(
    arrays: Mapping[str, Array], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], role: str
) -> SampleSet:
    """Return checked samples. role: "calibration", "evaluation", "golden" or "reference". Raises a DataError of the matching kind."""
    times, arrays = _times_in(arrays, inputs)
    labels = {name: array for name, array in arrays.items() if name == "y" or name.startswith("y.")}
    names = {spec.name for spec in inputs}
    # A model may really have an input called `y`; then it is an input.
    labels = {name: array for name, array in labels.items() if name not in names}
    values = {name: array for name, array in arrays.items() if name not in labels}
    if len(inputs) == 1 and set(values) == {"x"}:
        values = {inputs[0].name: values["x"]}
    if set(values) != names:
        missing, extra = sorted(names - set(values)), sorted(set(values) - names)
        said = "; ".join(
            [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra)
        )
        raise DataNamesError(
            f"the {role} data must hold one array for each input ({', '.join(sorted(names))}); {said}",
            next_step="name the arrays as the model's inputs" + (", or the only one `x`" if len(inputs) == 1 else ""),
        )
    checked = {spec.name: _checked(spec, values[spec.name], role) for spec in inputs}
    counts = {name: len(array) for name, array in checked.items()}
    if len(set(counts.values())) != 1:
        message = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise DataShapeError(
            f"the {role} data has different sample counts: {message}", next_step="give each input as many"
        )
    samples = SampleSet(checked)
    if samples.n == 0:
        raise DataEmptyError(f"the {role} data holds no samples", next_step="give at least 8 samples")
    if times is not None and times.shape != (samples.n,):
        raise DataShapeError(
            f"the {role} data has {samples.n} samples and `time` of the shape {list(times.shape)}",
            next_step="give one time a sample, in unix seconds",
        )
    return SampleSet(checked, _checked_labels(labels, samples.n, outputs, role), times)


def _times_in(arrays: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> tuple[Array | None, Mapping[str, Array]]:
    """Return when the samples were taken, if that is known, and the other arrays (rule 5)."""
    if TIME not in arrays or any(spec.name == TIME for spec in inputs) or arrays[TIME].dtype.kind not in "iuf":
        return None, arrays
    return arrays[TIME].astype(np.float64), {name: array for name, array in arrays.items() if name != TIME}


def _checked(spec: TensorSpec, array: Array, role: str) -> Array:
    """Return `array` in the input's dtype after checking shape, type and values."""
    if array.ndim == 0:
        raise DataShapeError(
            f"{role} array {spec.name!r} has no sample axis", next_step="put samples on the first axis"
        )
    wanted = spec.shape[1:] if is_batched(spec) else spec.shape
    got = array.shape[1:]
    fits = len(wanted) == len(got) and all(isinstance(w, str) or w == g for w, g in zip(wanted, got, strict=True))
    if not fits:
        raise DataShapeError(
            f"{role} array {spec.name!r} has samples of shape {list(got)}, the model's input takes "
            f"[{', '.join(map(str, wanted))}]",
            next_step="reshape the samples to the input's shape",
        )
    if array.dtype.kind not in "iufb":
        raise DataDtypeError(
            f"{role} array {spec.name!r} is {array.dtype}; only numbers are taken",
            next_step=f"convert it to {spec.dtype}",
        )
    if role != REFERENCE and array.dtype.kind == "f" and array.size and not bool(np.isfinite(array).all()):
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataNotFiniteError(
            f"{role} array {spec.name!r} holds NaN or infinity (first in sample {bad})",
            next_step="remove those samples",
        )
    return _cast(spec, array, role)


def _cast(spec: TensorSpec, array: Array, role: str) -> Array:
    if array.dtype.name == spec.dtype:
        return np.ascontiguousarray(array)
    if spec.quantization is not None and array.dtype.kind == "f":
        return quantize_array(array, spec.quantization, spec.dtype)
    target = np.dtype(spec.dtype) if spec.dtype != "string" else None
    if target is not None and not (array.dtype.kind == "f" and target.kind in "iub"):
        with np.errstate(over="ignore", invalid="ignore"):
            cast: Array = np.ascontiguousarray(array.astype(target))
        rounding_allowed = array.dtype.kind == "f" and target.kind == "f"
        kept = (
            bool((np.isfinite(cast) | ~np.isfinite(array)).all())
            if rounding_allowed
            else bool((cast.astype(array.dtype) == array).all())
        )
        if kept:
            return cast
    raise DataDtypeError(
        f"{role} array {spec.name!r} is {array.dtype}, the model's input takes {spec.dtype}, and the values would change",
        next_step=f"save the samples as {spec.dtype}",
    )


def _checked_labels(
    labels: Mapping[str, Array], n: int, outputs: tuple[TensorSpec, ...], role: str
) -> dict[str, Array]:
    names = {spec.name for spec in outputs}
    checked: dict[str, Array] = {}
    for key, array in labels.items():
        output = key.removeprefix("y").removeprefix(".")
        if output and output not in names:
            raise LabelsError(
                f"the {role} data has labels {key!r}, but the model has no output {output!r}",
                next_step=f"name them y.<output>; outputs: {', '.join(sorted(names))}",
            )
        if array.ndim == 0 or len(array) != n:
            count = 0 if array.ndim == 0 else len(array)
            raise LabelsError(
                f"the {role} data has {n} samples and {count} labels {key!r}", next_step="give one a sample"
            )
        if array.dtype.kind not in "iufb":
            raise LabelsError(
                f"labels {key!r} are {array.dtype}; only numbers are taken", next_step="give class numbers"
            )
        if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
            raise LabelsError(f"labels {key!r} hold NaN or infinity", next_step="remove those samples")
        checked[output] = array
    return checked


def stacked(spec: TensorSpec, values: Sequence[Array]) -> Array:
    """Return what a model answered to one sample after another as one array, first axis = samples (rule 2)."""
    batched = is_batched(spec) and values[0].shape[:1] == (1,)
    return np.concatenate(values) if batched else np.stack(values)


def split_held_back(samples: SampleSet, seed: int) -> tuple[SampleSet, SampleSet]:
    """Return (calibration, evaluation): 40 % of the samples are held back, chosen by `seed`. They never overlap.

    Raises DataEmptyError when there are fewer than 4 samples, since nothing could be held back that tells anything.
    """
    if samples.n < 4:
        raise DataEmptyError(
            f"{samples.n} calibration samples cannot be divided into calibration and evaluation data",
            next_step="give at least 4 samples, or evaluation data with --eval",
        )
    order = np.random.default_rng(seed).permutation(samples.n)
    held = max(1, round(samples.n * HELD_BACK_RATIO))
    return samples.take(np.sort(order[held:])), samples.take(np.sort(order[:held]))


def without_shared(calibration: SampleSet, evaluation: SampleSet) -> tuple[SampleSet, int]:
    """Return the calibration samples that are not also evaluation samples, and how many were taken out.

    A sample in both files would let a candidate be judged on what it was tuned on.
    """
    seen = {_sample_key(evaluation, index) for index in range(evaluation.n)}
    kept = [index for index in range(calibration.n) if _sample_key(calibration, index) not in seen]
    return calibration.take(np.array(kept, dtype=np.intp)), calibration.n - len(kept)


def _sample_key(samples: SampleSet, index: int) -> bytes:
    return b"\0".join(array[index].tobytes() for _, array in sorted(samples.arrays.items()))


def random_samples(
    inputs: tuple[TensorSpec, ...], n: int, *, seed: int, shapes: Mapping[str, Sequence[int]] = {}
) -> SampleSet:
    """Return `n` samples of random values: floats N(0, 1), integers and bools 0 or 1 (always a valid index).

    shapes: of one sample of inputs with open dimensions, by name; an open one has the length 1 without. Raises
    ModelTooLargeError when they do not fit into memory.
    """
    wanted = sum(_random_bytes(spec, n, shapes) for spec in inputs)
    if wanted > MAX_UNPACKED_BYTES:
        raise _random_too_large(n, f"{wanted} bytes; sample data may have {MAX_UNPACKED_BYTES}")
    try:
        return SampleSet(_random_arrays(inputs, n, seed, shapes))
    except MemoryError as error:
        raise _random_too_large(n, " ".join(str(error).split())[:160]) from error


def _random_bytes(spec: TensorSpec, n: int, shapes: Mapping[str, Sequence[int]]) -> int:
    return n * np.dtype(spec.dtype).itemsize * math.prod(_sample_shape(spec, shapes))


def _sample_shape(spec: TensorSpec, shapes: Mapping[str, Sequence[int]]) -> list[int]:
    if spec.name in shapes:
        return [*([] if is_batched(spec) else spec.shape[:1]), *shapes[spec.name]]  # type: ignore[list-item] # it is fixed
    sample = spec.shape[1:] if is_batched(spec) else spec.shape
    return [1 if isinstance(dim, str) else dim for dim in sample]


def _random_too_large(n: int, why: str) -> ModelTooLargeError:
    return ModelTooLargeError(
        f"{n} random samples of the inputs do not fit into memory: {why}",
        next_step="give sample data with --eval, or smaller shapes with --shape",
    )


def _random_arrays(
    inputs: tuple[TensorSpec, ...], n: int, seed: int, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in inputs:
        dims = _sample_shape(spec, shapes)
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = random.standard_normal((n, *dims)).astype(dtype)
        elif spec.quantization is not None:
            limits = np.iinfo(dtype)
            arrays[spec.name] = random.integers(limits.min, limits.max + 1, (n, *dims)).astype(dtype)
        else:
            arrays[spec.name] = random.integers(0, 2, (n, *dims)).astype(dtype)
    return arrays
