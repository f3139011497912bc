"""Hold an imported ONNX model against what the original itself answered.

A converter that ends well proves nothing (docs/explanation/converting.md), so each import brings samples with the original's answers, and
the ONNX model must repeat them in onnxruntime. Runs in a sandboxed child.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.parity import spread_of
from edgefleet_converters.errors import ImportDiffersError

Array = npt.NDArray[Any]

CLOSE_RATIO: Final = 1e-3
"""Largest difference of a number, as a share of the output's range over all samples, that counts as the same answer."""
AGREE_SHARE: Final = 0.98
"""Share of samples that must agree: a tree compares float32 where the original compared float64, and may turn at a threshold."""


@dataclass(frozen=True)
class Samples:
    """Inputs by name and the original's outputs in order.

    The first axis of an output is the sample where it is as long as the first output's; one number is one sample. is_begun: of rows of
    tokens only the first ones are known.
    """

    inputs: dict[str, Array]
    outputs: list[Array]
    is_begun: bool = False


def check_agreement(model: bytes, samples: Samples, what: str) -> dict[str, Any]:
    """Return `{samples, agreeing, largest_ratio}`. what: names the source in the message.

    Raises ImportDiffersError when the model does not run, has other outputs or answers differently.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        wanted = {value.name for value in session.get_inputs()}
        got = session.run(None, {name: array for name, array in samples.inputs.items() if name in wanted})
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ImportDiffersError(
            f"the ONNX model that was made from {what} does not run: {text}",
            next_step="export the model to ONNX yourself",
        ) from error
    if samples.is_begun:
        got = [array[:, : known.shape[1]] for array, known in zip(got, samples.outputs, strict=True)]
    count = len(samples.outputs[0]) if samples.outputs[0].ndim else 1
    shapes = [np.shape(array) for array in got], [array.shape for array in samples.outputs]
    if [_row_shape(a, count) for a in shapes[0]] != [_row_shape(b, count) for b in shapes[1]]:
        raise ImportDiffersError(
            f"the ONNX model that was made from {what} has outputs of the shapes {shapes[0]}; the original has {shapes[1]}",
            next_step="export the model to ONNX yourself",
        )
    return _judge(samples.outputs, [np.asarray(array) for array in got], count, what)


def _judge(wanted: list[Array], got: list[Array], count: int, what: str) -> dict[str, Any]:
    agree = np.ones(count, dtype=bool)
    largest = 0.0
    for a, b in zip(wanted, got, strict=True):
        rows = (
            count if a.shape[:1] == (count,) else 1
        )  # a sum over the batch, a hidden state: judged for all samples at once
        width = a.size // max(1, rows)
        x, y = a.reshape(rows, width), b.reshape(rows, width)
        if x.dtype.kind != "f":
            agree &= (x == y).all(axis=1)
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        ratio = np.abs(x - y) / spread_of(x[np.isfinite(x)] if np.isfinite(x).any() else np.zeros(1))
        same = (x == y) | (np.isnan(x) & np.isnan(y)) | (ratio <= CLOSE_RATIO)
        agree &= same.all(axis=1)
        largest = max(largest, float(np.nanmax(np.where(np.isfinite(ratio), ratio, 0.0), initial=0.0)))
    agreeing = int(agree.sum())
    if agreeing < AGREE_SHARE * count:
        raise ImportDiffersError(
            f"the ONNX model that was made from {what} answers differently: {agreeing} of {count} samples agree, the largest "
            f"difference is {largest:.2g} of the output's range",
            next_step="export the model to ONNX yourself, and compare it with the original",
        )
    return {"samples": count, "agreeing": agreeing, "largest_ratio": float(f"{largest:.3g}")}


def _row_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return a shape without dimensions of 1 behind the sample axis: skl2onnx gives [N, 1] where predict gives [N]."""
    return (count, *(dim for dim in shape[1:] if dim != 1)) if shape[:1] == (count,) else shape
