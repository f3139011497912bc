"""Golden vectors and the non-finite scan."""

import io

import numpy as np
import pytest

from edgefleet_protocol.manifest import TensorSpec, Tolerance
from edgefleet_runtime.golden import (
    Golden,
    GoldenError,
    check_golden,
    compare,
    dump_golden,
    load_golden,
    slice_sample,
)
from edgefleet_runtime.nonfinite import count_nonfinite, total_nonfinite
from edgefleet_runtime.port import load
from tests.runtime.tflite_files import fully_connected

W = np.arange(8, dtype=np.float32).reshape(2, 4)
X = np.random.default_rng(3).random((8, 4), dtype=np.float32)
CLOSE = Tolerance(atol=1e-4, rtol=1e-4)


def _a(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([values], np.float32)


def test_vectors_survive_the_file_and_the_file_is_reproducible() -> None:
    data = dump_golden({"x": X}, {"y": X @ W.T})
    assert data == dump_golden({"x": X}, {"y": X @ W.T})
    golden = load_golden(data)
    assert golden.n == 8
    np.testing.assert_array_equal(golden.inputs["x"], X)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"x" * 100])
def test_what_is_no_npz_is_refused(data: bytes) -> None:
    with pytest.raises(GoldenError, match=r"cannot be read|must hold"):
        load_golden(data)


def test_pickles_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{"in.x": np.array([{"a": 1}], dtype=object), "out.y": np.ones(1)})
    with pytest.raises(GoldenError):
        load_golden(buffer.getvalue())


def test_unequal_numbers_of_vectors_are_refused() -> None:
    with pytest.raises(GoldenError, match="same, non-zero number"):
        load_golden(dump_golden({"x": X}, {"y": X[:3]}))


def test_a_runtime_passes_and_fails_by_its_tolerance() -> None:
    loaded = load("litert", fully_connected(W, signature=("x", "y")))
    expected = X @ W.T
    good = check_golden(loaded, Golden({"x": X}, {"y": expected}, 8), {"y": CLOSE})
    assert (good.ok, good.checked, good.reason) == (True, 8, "")
    assert good.latency_p95_ms >= good.latency_p50_ms > 0
    shifted = expected.copy()
    shifted[5, 1] += 0.5
    bad = check_golden(loaded, Golden({"x": X}, {"y": shifted}, 8), {"y": CLOSE})
    assert [(f.vector, f.output, f.what) for f in bad.failures] == [(5, "y", "value")]
    assert bad.failures[0].max_abs == pytest.approx(0.5, rel=1e-3)
    assert check_golden(loaded, Golden({"x": X}, {"y": shifted}, 8), {"y": CLOSE}, [0, 9]).ok
    assert check_golden(loaded, Golden({"x": X}, {"y": expected}, 8), {}).failures[0].what == "tolerance"
    missing = check_golden(loaded, Golden({"x": X}, {"other": expected}, 8), {"y": CLOSE})
    assert missing.failures[0].what == "missing"
    with pytest.raises(GoldenError, match="for the inputs"):
        check_golden(loaded, Golden({"z": X}, {"y": expected}, 8), {"y": CLOSE})


@pytest.mark.parametrize(
    ("expected", "actual", "tolerance", "what"),
    [
        (_a(1, 2), _a(1, 2.00001), CLOSE, None),
        (_a(1, 2), _a(1, 2.1), CLOSE, "value"),
        (_a(1, 2), _a(1, 2, 3), CLOSE, "shape"),
        (_a(1, 2), _a(1, 2).astype(np.float64), CLOSE, "dtype"),
        (_a(1, 2), _a(1, np.nan), CLOSE, "nonfinite"),
        (_a(1, np.nan), _a(1, np.nan), CLOSE, None),
        (_a(1, np.inf), _a(1, -np.inf), CLOSE, "nonfinite"),
        (_a(1, np.nan), _a(1, 2), CLOSE, "nonfinite"),
        (_a(1, 2), _a(5, 9), Tolerance(top1=True), None),
        (_a(1, 2), _a(2, 1), Tolerance(top1=True), "top1"),
        (_a(1, 2), _a(1, np.nan), Tolerance(top1=True), "nonfinite"),
        (_a(1), _a(7), Tolerance(top1=True), "tolerance"),
        (np.array([3]), np.array([3]), Tolerance(top1=True), None),
        (np.array([3]), np.array([4]), Tolerance(top1=True), "top1"),
        (np.array([250], np.uint8), np.array([251], np.uint8), Tolerance(atol=1), None),
        (np.array([250], np.uint8), np.array([252], np.uint8), Tolerance(atol=1), "value"),
        (np.array(["a"]), np.array(["b"], dtype=object), CLOSE, "value"),
        (np.array([True]), np.array([False]), CLOSE, "value"),
    ],
)
def test_compare(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance, what: str | None) -> None:  # type: ignore[type-arg]
    failure = compare("y", 0, expected, actual, tolerance)
    assert (failure.what if failure else None) == what


def test_samples_are_cut_as_the_declared_shape_says() -> None:
    a = np.zeros((8, 4))
    assert slice_sample(TensorSpec(name="x", dtype="f", shape=[1, 4]), a, 3).shape == (1, 4)
    assert slice_sample(TensorSpec(name="x", dtype="f", shape=["n", 4]), a, 3).shape == (1, 4)
    assert slice_sample(TensorSpec(name="x", dtype="f", shape=[4]), a, 3).shape == (4,)
    assert slice_sample(TensorSpec(name="x", dtype="f", shape=[]), np.zeros(8), 3).shape == ()


@pytest.mark.parametrize("size", [1000, 10_000])
def test_nonfinite_counts(size: int) -> None:
    a = np.ones(size, np.float32)
    assert count_nonfinite(a) == 0
    a[3], a[7], a[9] = np.nan, np.inf, -np.inf
    assert count_nonfinite(a) == 3
    assert count_nonfinite(np.full(size, 60000, np.float16)) == 0  # the sum overflows, no value does
    assert count_nonfinite(np.full(size, 3e38, np.float32)) == 0
    assert count_nonfinite(np.arange(5)) == 0
    assert count_nonfinite(np.array([])) == 0
    assert total_nonfinite([a, a]) == 6
