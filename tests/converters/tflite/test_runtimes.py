"""The table of what each runtime computes, measured again: each listed type of a plain operator gives numpy's answer."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefleet_converters.tflite import arithmetic
from edgefleet_converters.tflite.ir import Graph, Op, Tensor, constant
from edgefleet_converters.tflite.runtimes import RUNTIMES, TfliteRuntime
from edgefleet_converters.tflite.writer import write
from edgefleet_runtime.port import load

Array = npt.NDArray[Any]
BINARY = [
    "ADD",
    "SUB",
    "MUL",
    "MAXIMUM",
    "MINIMUM",
    "FLOOR_MOD",
    "LESS",
    "GREATER_EQUAL",
    "EQUAL",
    "NOT_EQUAL",
    "LOGICAL_AND",
]
UNARY = ["ABS", "NEG", "EXP", "SQRT", "FLOOR", "ROUND", "SIGN"]


def example(dtype: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    values: Array = rng.integers(0, 2, (2, 3)) if dtype == "bool" else rng.integers(1, 9, (2, 3))
    return values.astype(dtype)


def answered(runtime: TfliteRuntime, graph: Graph, arrays: list[Array]) -> Array:
    """Return the first output, computed in a process of its own."""
    read, written = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            model = load(runtime.adapter, write(graph))
            named = {tensor.name: array for tensor, array in zip(graph.inputs, arrays, strict=True)}
            with os.fdopen(written, "wb") as pipe:
                pickle.dump(next(iter(model.run(named).values())), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(written)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, f"{runtime.name} could not run {graph.ops[0].code}"
    result: Array = pickle.loads(said)
    return result


def check(
    runtime: TfliteRuntime, code: str, arrays: list[Array], wanted: Array, extra: tuple[Tensor, ...] = ()
) -> None:
    inputs = tuple(Tensor(f"x{i}", array.dtype.name, array.shape) for i, array in enumerate(arrays))
    out = Tensor("y", wanted.dtype.name, wanted.shape)
    got = answered(runtime, Graph(inputs, (out,), (Op(code, (*inputs, *extra), (out,)),)), arrays)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-3, err_msg=f"{code} {arrays[0].dtype} on {runtime.name}")


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> TfliteRuntime:
    if request.param == "tflite-2.14" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends with Python 3.11")
    return RUNTIMES[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("code", BINARY)
def test_operators_of_two(runtime: TfliteRuntime, code: str) -> None:
    for dtype in sorted(runtime.dtypes[code] & runtime.edge_dtypes):
        x, y = example(dtype, 0), example(dtype, 1)
        wanted = np.asarray(arithmetic.BINARY[code](x, y)).astype("bool" if code in arithmetic.COMPARISONS else dtype)
        check(runtime, code, [x, y], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("code", UNARY)
def test_operators_of_one(runtime: TfliteRuntime, code: str) -> None:
    for dtype in sorted(runtime.dtypes[code] & runtime.edge_dtypes):
        x = example(dtype, 0)
        check(runtime, code, [x], np.asarray(arithmetic.UNARY[code](x)).astype(dtype))


@pytest.mark.slow
def test_types_that_are_moved(runtime: TfliteRuntime) -> None:
    for dtype in sorted(runtime.dtypes["TRANSPOSE"] & runtime.edge_dtypes):
        check(
            runtime, "TRANSPOSE", [example(dtype, 0)], example(dtype, 0).T, (constant("p", np.array([1, 0], np.int32)),)
        )
    for dtype in sorted(runtime.dtypes["SLICE"] & runtime.edge_dtypes):
        bounds = (constant("b", np.array([0, 1], np.int32)), constant("s", np.array([2, 2], np.int32)))
        check(runtime, "SLICE", [example(dtype, 0)], example(dtype, 0)[:, 1:], bounds)


def test_a_newer_runtime_does_all_that_an_older_one_does() -> None:
    old, new = RUNTIMES["tflite-2.14"], RUNTIMES["litert-2.3"]
    assert all(dtypes <= new.dtypes[code] for code, dtypes in old.dtypes.items())
    assert old.edge_dtypes <= new.edge_dtypes


def test_no_runtime_is_trusted_with_unscaled_small_integers() -> None:
    """These kernels read 8-bit tensors as quantized and answer zeros, or end the process."""
    for runtime in RUNTIMES.values():
        for code in ("ADD", "SUB", "MUL", "DIV", "SUM", "MEAN", "LESS", "EQUAL", "RELU", "BATCH_MATMUL"):
            assert not runtime.dtypes[code] & {"int8", "uint8"}
