"""A part of the int8 scoreboard: nothing ends the process or cannot be loaded, and most answers are within two steps."""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from edgefleet_converters.errors import UnsupportedOperatorError
from edgefleet_converters.tflite.compile import compile_as_given
from edgefleet_converters.tflite.runtimes import RUNTIMES
from edgefleet_runtime.port import load
from tests.converters.tflite.board import Case, _array, load_cases, run_board
from tests.converters.tflite.int8_board import judge_int8

Array = npt.NDArray[Any]
HERE = [name for name in RUNTIMES if name != "tflite-2.14" or sys.version_info < (3, 12)]
SHARD = (3, 40)
LEAST_WITHIN = 0.85
"""Of the whole board 0.933 on LiteRT 2.3 and 0.925 on tflite-runtime 2.14."""


@cache
def cases() -> list[Case]:
    """Return all cases: reading them takes longer than running a part."""
    return load_cases()


def test_no_int8_form_crashes_and_most_are_within_two_steps() -> None:
    part = cases()[SHARD[0] - 1 :: SHARD[1]]
    results = list(run_board(part, HERE, judged=judge_int8))
    bad = [f"{r.runtime} {r.name}: {r.detail}" for r in results if r.outcome in ("aborted", "failed")]
    assert not bad, "\n".join(bad)
    counts = Counter(r.outcome for r in results)
    within = counts["int8"] + counts["moved"] + counts["float"] + counts["integers"]
    assert counts["int8"] > 0
    assert within >= LEAST_WITHIN * (len(results) - counts["not_float_passing"])


def as_a_model_has_them(case: Case) -> tuple[onnx.ModelProto, Array]:
    """Return a backend test with all but its first input stored in the model, and the first input."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    arrays = [_array(array) for array in case.sets[0][0]]
    names = [value.name for value in model.graph.input]
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in zip(names[1:], arrays[1:], strict=True))
    del model.graph.input[1:]
    return model, arrays[0]


@pytest.mark.parametrize("runtime", HERE)
def test_the_standards_own_cases_are_right_with_constant_scales(runtime: str) -> None:
    """Those that carry answer with the stored number of the standard, or its neighbour."""
    carrying = []
    names = ("test_qlinear", "test_quantizelinear", "test_dequantizelinear")
    for case in (case for case in cases() if case.name.startswith(names)):
        model, x = as_a_model_has_them(case)
        try:
            compiled = compile_as_given(model, RUNTIMES[runtime])
        except UnsupportedOperatorError:
            continue
        (got,) = load(RUNTIMES[runtime].adapter, compiled.data).run({model.graph.input[0].name: x}).values()
        wanted = _array(case.sets[0][1][0])
        assert got.dtype == wanted.dtype, case.name
        off = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
        assert off <= (1.0 if compiled.is_carried else 1e-3 * max(1.0, float(np.abs(wanted).max()))), case.name
        carrying += [case.name] if compiled.is_carried else []
    assert {"test_qlinearmatmul_3D_int8_float32", "test_qlinearmatmul_3D_uint8_float32"} <= set(carrying)
