"""Models that others made, compiled: the answers are onnxruntime's to 1e-4 of their range, on both runtimes."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto

from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.onnx.passes.fold import FoldConstants
from edgefleet_converters.onnx.passes.strip_inputs import StripStoredInputs
from edgefleet_converters.onnx.passes.upgrade_opset import UpgradeOpset
from edgefleet_converters.tflite.runtimes import RUNTIMES
from tests.converters.tflite.models import compiled_in, in_onnxruntime
from tests.support.real_models import (
    BASIC_PITCH_ONNX,
    MAGIKA,
    NUDENET,
    RAPIDOCR_CLS,
    RAPIDOCR_REC,
    SILERO_VAD_16K,
    Wheel,
    real_model,
)

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends with Python 3.11"),
]

Array = npt.NDArray[Any]
PARITY = 1e-4


def beside(known: Wheel, name: str) -> Wheel:
    """Return another file of the same folder of a wheel."""
    return Wheel(known.requirement, str(PurePosixPath(known.member).with_name(name)))


def picture(height: int, width: int) -> Array:
    """Return dark strokes on a light page, -1 … 1, float32 [1, 3, H, W]: what a text detector was made for."""
    page = np.ones((1, 3, height, width), np.float32)
    rng = np.random.default_rng(5)
    for top in range(8, height - 12, 24):
        for left in range(10, width - 10, 9):
            page[:, :, top : top + int(rng.integers(3, 12)), left : left + int(rng.integers(2, 6))] = -1.0
    return page


def sound(samples: int) -> Array:
    return (np.random.default_rng(3).standard_normal((1, samples)) * 0.1).astype(np.float32)


CASES: dict[str, tuple[Wheel, list[Array]]] = {
    "magika": (MAGIKA, [np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)]),
    "basic-pitch": (BASIC_PITCH_ONNX, [sound(43844).reshape(1, 43844, 1)]),
    "ocr-direction": (RAPIDOCR_CLS, [picture(48, 192)]),
    "ocr-recognition": (RAPIDOCR_REC, [picture(48, 320)]),
    "ocr-detection": (beside(RAPIDOCR_REC, "ch_PP-OCRv4_det_infer.onnx"), [picture(320, 320)]),
    "detector": (NUDENET, [(picture(320, 320) + 1) / 2]),
    "voice-half": (beside(SILERO_VAD_16K, "silero_vad_half.onnx"), [sound(576), np.zeros((2, 1, 128), np.float32)]),
    "voice-op15": (SILERO_VAD_16K, [sound(576), np.zeros((2, 1, 128), np.float32)]),
    "voice-ifless": (
        beside(SILERO_VAD_16K, "silero_vad_op18_ifless.onnx"),
        [sound(576), np.zeros((2, 1, 128), np.float32)],
    ),
}
"""name -> where it comes from, and one value for each input in order; an int64 input beside them is a sample rate of 16,000."""


def prepared(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, Array]]:
    """Return a model as it was given, the same with fixed shapes, upgraded and folded, and its inputs by name."""
    wheel, values = CASES[name]
    model = onnx.load(real_model(wheel))
    stored = {tensor.name for tensor in model.graph.initializer}
    given = iter(values)
    arrays = {
        value.name: np.array(16000, np.int64) if value.type.tensor_type.elem_type == TensorProto.INT64 else next(given)
        for value in model.graph.input
        if value.name not in stored
    }
    shapes = {key: list(value.shape) for key, value in arrays.items()}
    fixed = run_passes(model, [StripStoredInputs(), UpgradeOpset(), FixShapes(shapes), FoldConstants()]).model
    return model, fixed, arrays


@pytest.mark.parametrize("name", sorted(CASES))
def test_answers_are_those_of_onnxruntime(name: str) -> None:
    model, fixed, arrays = prepared(name)
    wanted = in_onnxruntime(model, arrays)
    for runtime in RUNTIMES.values():
        for got, value in zip(compiled_in(runtime, fixed, arrays), wanted, strict=True):
            assert got.shape == value.shape
            assert got.dtype == value.dtype
            worst = float(np.abs(got - value).max()) / max(float(np.abs(value).max()), 1e-9)
            assert worst <= PARITY, f"{runtime.name}: {worst:.2g} of the largest answer"
