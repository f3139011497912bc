"""Golden vectors: inputs with the outputs that the converter saw, replayed where the model will serve.

1. `golden.npz` holds `in.<name>` and `out.<name>`, first axis = vectors (docs/protocol/manifest.md); it is read without pickle.
2. Vector i of a tensor is `a[i:i+1]` where its declared first dimension is 1 or free, else `a[i]`.
3. Fail closed: a missing output or tolerance, another dtype or shape, an exception or a NaN that was not expected is a failure.
4. Tolerances, never equality of bits: processors differ in the last digits (docs/explanation/converting.md).
"""

import io
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec, Tolerance
from edgefleet_runtime.port import Array, InputError, ModelRuntime, RunError, format_shape, is_batched

GOLDEN_MEMBER = "golden.npz"
MAX_GOLDEN_BYTES = 512 * 1024 * 1024
_MAX_REASONS = 3


class GoldenError(EdgefleetError):
    """The golden file is not one, or does not belong to this model."""

    code = "golden.bad_file"


@dataclass(frozen=True)
class Golden:
    """inputs, outputs: arrays by tensor name, first axis = vectors. n: number of vectors, at least 1."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    n: int


@dataclass(frozen=True)
class GoldenFailure:
    """One output of one vector that is not what it should be.

    what: missing, tolerance, shape, dtype, nonfinite, value, top1 or error. max_abs: largest difference, NaN where there is
    none to tell. detail: what was expected and got.
    """

    vector: int
    output: str
    what: str
    max_abs: float
    detail: str = ""


@dataclass(frozen=True)
class GoldenResult:
    """Outcome over all checked vectors. Latencies are those of `run` alone, in milliseconds."""

    ok: bool
    failures: tuple[GoldenFailure, ...]
    checked: int
    latency_p50_ms: float
    latency_p95_ms: float

    @property
    def reason(self) -> str:
        """Return the first failures in words; empty when all is well."""
        words = [
            f"vector {f.vector}{', output ' + f.output if f.output else ''}: {f.what}{' (' + f.detail + ')' if f.detail else ''}"
            for f in self.failures[:_MAX_REASONS]
        ]
        more = len(self.failures) - _MAX_REASONS
        return "; ".join(words) + (f"; and {more} more" if more > 0 else "")


def load_golden(data: bytes) -> Golden:
    """Return the vectors of a golden.npz. Raises GoldenError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_GOLDEN_BYTES:
            raise GoldenError(f"golden.npz unpacks to {unpacked} bytes; at most {MAX_GOLDEN_BYTES} are allowed")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs = {k.removeprefix("in."): arrays[k] for k in arrays.files if k.startswith("in.")}
            outputs = {k.removeprefix("out."): arrays[k] for k in arrays.files if k.startswith("out.")}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as e:
        raise GoldenError(
            f"golden.npz cannot be read: {e}", next_step="write it with numpy.savez, without object arrays"
        ) from e
    lengths = {a.shape[0] if a.ndim else 0 for a in [*inputs.values(), *outputs.values()]}
    if not inputs or not outputs or len(lengths) != 1 or 0 in lengths:
        raise GoldenError(
            "golden.npz must hold in.<name> and out.<name> arrays with the same, non-zero number of vectors",
            next_step="convert the model again",
        )
    return Golden(inputs, outputs, lengths.pop())


def dump_golden(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bytes:
    """Return a golden.npz; the same arrays in the same order give the same bytes. First axis of each array = vectors."""
    members = {**{f"in.{k}": v for k, v in inputs.items()}, **{f"out.{k}": v for k, v in outputs.items()}}
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    return buffer.getvalue()


def slice_sample(spec: TensorSpec, array: Array, index: int) -> Array:
    """Return sample `index` of an array of samples, in the shape that `spec` declares (rule 2)."""
    if is_batched(spec):
        if array.ndim == len(spec.shape) + 1:  # samples that already carry their own batch axis
            return np.asarray(array[index])
        return np.asarray(array[index : index + 1])
    return np.asarray(array[index])


def check_golden(
    runtime: ModelRuntime,
    golden: Golden,
    tolerances: Mapping[str, Tolerance],
    vectors: Sequence[int] | None = None,
) -> GoldenResult:
    """Run golden vectors and compare. vectors: which ones, by index modulo their number (None = all). Blocks.

    Raises GoldenError when the file has other inputs than the model.
    """
    if set(golden.inputs) != {s.name for s in runtime.inputs}:
        raise GoldenError(
            f"golden.npz is for the inputs {sorted(golden.inputs)}, the model takes {[s.name for s in runtime.inputs]}",
            next_step="convert the model again; the bundle is not consistent",
        )
    failures: list[GoldenFailure] = []
    latencies: list[float] = []
    chosen = range(golden.n) if vectors is None else [v % golden.n for v in vectors]
    for vector in chosen:
        inputs = {spec.name: slice_sample(spec, golden.inputs[spec.name], vector) for spec in runtime.inputs}
        started = time.perf_counter()
        try:
            outputs = runtime.run(inputs)
        except (RunError, InputError) as e:
            failures.append(GoldenFailure(vector, "", "error", np.nan, e.message))
            continue
        latencies.append((time.perf_counter() - started) * 1e3)
        failures.extend(_compare_vector(runtime.outputs, golden, vector, outputs, tolerances))
    p50, p95 = (float(q) for q in np.percentile(latencies, [50, 95])) if latencies else (0.0, 0.0)
    return GoldenResult(not failures, tuple(failures), len(chosen), p50, p95)


def compare(output: str, vector: int, expected: Array, actual: Array, tolerance: Tolerance) -> GoldenFailure | None:
    """Return what is wrong with one output, None when it is within tolerance."""
    if actual.dtype != expected.dtype and not (expected.dtype.kind in "US" and actual.dtype.kind in "OUS"):
        detail = f"expected {expected.dtype}, got {actual.dtype}"
        return GoldenFailure(vector, output, "dtype", np.nan, detail)
    if actual.shape != expected.shape:
        detail = f"expected {format_shape(expected.shape)}, got {format_shape(actual.shape)}"
        return GoldenFailure(vector, output, "shape", np.nan, detail)
    if actual.size == 0:
        return None
    if tolerance.top1:
        return _compare_top1(output, vector, expected, actual)
    if actual.dtype.kind not in "iufb":
        if np.array_equal(actual.astype(str), expected.astype(str)):
            return None
        return GoldenFailure(vector, output, "value", np.nan, "the texts differ")
    return _compare_numbers(output, vector, expected, actual, tolerance)


def _compare_vector(
    specs: Sequence[TensorSpec],
    golden: Golden,
    vector: int,
    outputs: Mapping[str, Array],
    tolerances: Mapping[str, Tolerance],
) -> list[GoldenFailure]:
    failures = []
    for spec in specs:
        expected = golden.outputs.get(spec.name)
        tolerance = tolerances.get(spec.name)
        if expected is None:
            failures.append(GoldenFailure(vector, spec.name, "missing", np.nan, "golden.npz lacks this output"))
        elif tolerance is None:
            detail = "the manifest declares no tolerance for this output"
            failures.append(GoldenFailure(vector, spec.name, "tolerance", np.nan, detail))
        else:
            actual = outputs[spec.name]
            wanted = slice_sample(spec, expected, vector)
            if wanted.shape != actual.shape and expected[vector].shape == actual.shape:
                wanted = expected[vector]  # an output without a batch axis, though its first length is 1 or free
            failure = compare(spec.name, vector, wanted, actual, tolerance)
            if failure is not None:
                failures.append(failure)
    return failures


def _compare_top1(output: str, vector: int, expected: Array, actual: Array) -> GoldenFailure | None:
    """Compare the arg-max over the last axis. NaN in the answer is a failure, since it has no arg-max."""
    if actual.dtype.kind == "f" and np.isnan(actual).any():
        return GoldenFailure(vector, output, "nonfinite", np.nan, "NaN in the answer")
    if actual.ndim == 0 or actual.shape[-1] == 1:
        # one value has no order: a class number must be the same; a single score cannot be judged by top-1
        if actual.dtype.kind not in "iub":
            detail = "top1 needs at least two scores on the last axis"
            return GoldenFailure(vector, output, "tolerance", np.nan, detail)
        same = np.array_equal(actual, expected)
    else:
        same = np.array_equal(actual.argmax(axis=-1), expected.argmax(axis=-1))
    if same:
        return None
    return GoldenFailure(vector, output, "top1", _largest_difference(expected, actual), "another class is first")


def _compare_numbers(
    output: str, vector: int, expected: Array, actual: Array, tolerance: Tolerance
) -> GoldenFailure | None:
    if actual.dtype.kind == "f":
        finite = np.isfinite(expected)
        if not np.array_equal(finite, np.isfinite(actual)):
            count = int(np.count_nonzero(finite & ~np.isfinite(actual)))
            return GoldenFailure(vector, output, "nonfinite", np.nan, f"{count} of {actual.size} not finite")
        odd = ~finite
        if odd.any() and not np.array_equal(expected[odd], actual[odd], equal_nan=True):
            return GoldenFailure(vector, output, "nonfinite", np.nan, "other NaN or infinities than expected")
        expected, actual = expected[finite], actual[finite]
        if actual.size == 0:
            return None
    # float64 holds every int32 and float32 exactly; int64 beyond 2**53 loses last digits, which no tolerance is about
    wide_expected, wide_actual = expected.astype(np.float64), actual.astype(np.float64)
    allowed = tolerance.atol + tolerance.rtol * np.abs(wide_expected)
    if bool((np.abs(wide_actual - wide_expected) <= allowed).all()):
        return None
    max_abs = _largest_difference(expected, actual)
    detail = f"largest difference {max_abs:.3g}, allowed {tolerance.atol:g} + {tolerance.rtol:g} of the value"
    return GoldenFailure(vector, output, "value", max_abs, detail)


def _largest_difference(expected: Array, actual: Array) -> float:
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
