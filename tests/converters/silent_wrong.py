"""Planted wrong values: each makes a right model answer wrong without any error of its own, or not answer at all.

A fault is planted in the file that the search would offer, after it was made and before it is judged (`sabotage`). Each must be
refused, for the reason that stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from edgefleet_converters.evaluation import halves
from edgefleet_converters.sample_data import SampleSet
from tests.converters import tampers as t
from tests.converters.sabotage import CASES, Tamper, When, converted, digits_data
from tests.converters.tflite_graphs import dynamic_range_by_channel

ACCURACY, DIFFERS, NAN = "convert.accuracy", "convert.differs", "convert.not_finite"


@dataclass(frozen=True)
class Fault:
    """One fault in a case of `sabotage.CASES`. code, told: of the refusal. when: where it shows (None = everywhere)."""

    name: str
    case: str
    tamper: Callable[[], Tamper]
    code: str
    told: str
    when: When | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _first_row(by: float) -> Callable[[t.Array], t.Array]:
    def change(value: t.Array) -> t.Array:
        value[0] = value[0] * by
        return value

    return change


def _first_scale(value: t.Array) -> t.Array:
    value[0] *= 16
    return value


def _unclassed(value: t.Array) -> t.Array:
    value[3] = -np.abs(value[3])
    return value


def _scaled(by: float, *, at: int = 0) -> Tamper:
    return t.on_output([helper.make_node("Mul", ["was", "by"], ["now"])], at=at, by=np.array(by, np.float32))


def _constant(*, at: int = 0) -> Tamper:
    return t.on_output(
        [helper.make_node("Mul", ["was", "no"], ["zero"]), helper.make_node("Add", ["zero", "mean"], ["now"])], at=at,
        no=np.array(0, np.float32), mean=np.array(0.1, np.float32),
    )  # fmt: skip


def _searched() -> npt.NDArray[np.float32]:
    """Return the pictures that judge in the search: what no choice sees is left out."""
    image = digits_data(80)["eval"]["image"]
    seen, _ = halves(SampleSet({"image": image}), 0)
    return np.asarray(seen.arrays["image"])


def _still() -> Tamper:
    """Return a tamper of `regression`: the first value stays the largest, nothing else is left."""
    return t.on_output(
        [helper.make_node("Mul", ["was", "no"], ["zero"]), helper.make_node("Add", ["zero", "mean"], ["now"])],
        no=np.array(0, np.float32), mean=np.array([400, 0, 0], np.float32),
    )  # fmt: skip


def _ties() -> Tamper:
    shift = np.linspace(-0.01, 0.01, 10, dtype=np.float32)
    return t.on_output([helper.make_node("Add", ["was", "shift"], ["now"])], shift=shift)


def _one_sample() -> t.Array:
    return np.asarray(digits_data()["eval"]["image"][77:78])


def _hard_to_read() -> Tamper:
    return t.on_output([helper.make_node("Softmax", ["was"], ["now"], axis=0)])


def in_tflite_runtime(runtime: str, _: int) -> bool:
    """The fault shows on tflite-runtime 2.14 alone."""
    return runtime == "tflite"


def with_threads(_: str, threads: int) -> bool:
    """The fault shows with more than one thread."""
    return threads > 1


MAE = {"metric": "mae", "max_drop": 0.5}
FAULTS: tuple[Fault, ...] = (
    Fault("exponent-bit", "digits", lambda: t.weight("conv1.weight", lambda w: t.flip_bit(w, 4, 28)), DIFFERS, "samples differ"),
    Fault("mantissa-bit", "digits", lambda: t.weight("fc2.bias", lambda b: t.flip_bit(b, 9, 23)), DIFFERS, "samples differ"),
    Fault("channel-scale", "digits", lambda: t.weight("conv2.weight", _first_row(1.5)), DIFFERS, "samples differ"),
    Fault("weights-transposed", "digits",
          lambda: t.weight("conv2.weight", lambda w: np.ascontiguousarray(w.transpose(0, 1, 3, 2))), ACCURACY, "top1"),
    Fault("image-transposed", "digits", lambda: t.turned_input([0, 1, 3, 2]), ACCURACY, "top1"),
    Fault("pad-off-by-one", "digits", lambda: t.attribute("Conv", "pads", [2, 2, 0, 0]), ACCURACY, "top1"),
    Fault("no-relu", "digits", lambda: t.without("Relu"), ACCURACY, "top1"),
    Fault("bias-shifted", "digits", lambda: t.weight("fc2.bias", lambda b: np.roll(b, 1)), DIFFERS, "samples differ"),
    Fault("constant", "digits", _constant, ACCURACY, "top1"),
    Fault("one-class-lost", "digits", lambda: t.weight("fc2.weight", _unclassed), ACCURACY, "top1"),
    Fault("nan-on-one-sample", "digits", lambda: t.nan_for(_one_sample()), NAN, "NaN or infinity"),
    Fault("scores-of-another-size", "digits", lambda: _scaled(1.5), DIFFERS, "samples differ"),
    Fault("ties-broken-otherwise", "digits", _ties, "convert.golden", "golden vectors differ"),
    Fault("other-answers-each-time", "digits", lambda: t.noise(0.5), DIFFERS, "samples differ"),
    Fault("output-double", "digits", lambda: t.retyped(TensorProto.DOUBLE), DIFFERS, "is float64, the source's is float32"),
    Fault("output-half", "digits", lambda: t.retyped(TensorProto.FLOAT16), DIFFERS, "is float16, the source's is float32"),
    Fault("output-flat", "digits",
          lambda: t.on_output([helper.make_node("Unsqueeze", ["was", "axis"], ["now"])], axis=np.array([1], np.int64)),
          DIFFERS, "has the shape"),
    Fault("wrong-in-batches", "digits", t.batch_dependent, DIFFERS, "3 at a time"),
    Fault("mixes-the-batch", "digits", _hard_to_read, ACCURACY, "top1"),
    Fault("wrong-with-threads", "digits", lambda: _scaled(-1.0), DIFFERS, "4 threads", with_threads),
    Fault("abort", "digits", t.aborting, "convert.crashed", "SIGFPE"),
    Fault("file-cut-off", "digits", lambda: lambda data: data[: len(data) // 2], "convert.load_failed", ""),
    Fault("outputs-swapped", "two-headed", lambda: t.graph(t.swapped_outputs), ACCURACY, "agreement"),
    Fault("output-dropped", "two-headed", lambda: t.graph(t.dropped_output), DIFFERS, "it has 1 outputs, the source 2"),
    Fault("second-output-scaled", "two-headed", lambda: _scaled(3.0, at=1), DIFFERS, "samples differ"),
    Fault("unjudged-output-constant", "two-headed-int8", lambda: _constant(at=1), DIFFERS, "output 'vector'", None,
          {"metric": "top1"}),
    Fault("input-dropped", "two-inputs", lambda: t.graph(t.dropped_input), DIFFERS, "it has 1 inputs, the source 2"),
    Fault("gates-swapped", "recurrent",
          lambda: t.weight("w", lambda w: np.roll(w, 8, axis=1)), ACCURACY, "mae-share"),
    Fault("starts-from-one", "recurrent", lambda: t.weight("b", lambda b: b + np.float32(0.1)), ACCURACY, "mae-share"),
    Fault("largest-never-changes", "regression-int8", _still, DIFFERS, "output 'scores' at"),
    Fault("int8-channel-scale", "digits-int8", lambda: t.weight("fc2.weight_scale", _first_scale), DIFFERS, "at [:, 0]"),
    Fault("int8-saturates", "digits-int8", lambda: t.weight("r2_scale", lambda s: s / np.float32(64)), ACCURACY, "top1"),
    Fault("int8-zero-point", "digits-int8", lambda: t.weight("logits_zero_point", lambda z: z ^ np.array(0x7F, z.dtype)),
          DIFFERS, "output 'logits'"),
    Fault("right-on-calibration-alone", "digits-int8",
          lambda: t.right_only_for(digits_data(80)["calibration"]["image"]), ACCURACY, "top1"),
    Fault("right-in-the-search-alone", "digits-int8",
          lambda: t.right_only_for(_searched()), ACCURACY, "no choice had seen"),
    Fault("right-class-wrong-scores", "digits-int8-unlabelled", lambda: _scaled(0.2), ACCURACY, "mae", None, MAE),
    Fault("tflite-exponent-bit", "digits-tflite",
          lambda: t.stored(0, np.float32, lambda w: t.flip_bit(w, 3, 28)), DIFFERS, "samples differ"),
    Fault("tflite-no-relu", "digits-tflite", lambda: t.option("fusedActivationFunction", 0), ACCURACY, "top1"),
    Fault("tflite-stride-turned", "digits-tflite",
          lambda: t.stored(1, np.float32, lambda w: np.ascontiguousarray(w[:, ::-1])), ACCURACY, "top1"),
    Fault("int8-called-float", "digits-tflite", lambda: dynamic_range_by_channel, DIFFERS, "samples differ"),
    Fault("wrong-on-2.14-alone", "digits-tflite", lambda: dynamic_range_by_channel, ACCURACY, "tflite 2.14", in_tflite_runtime),
    Fault("remembers", "digits-tflite", lambda: t.tflite(t.remembering), ACCURACY, "top1"),
    Fault("tflite-gates", "recurrent-tflite",
          lambda: t.stored(0, np.float32, lambda w: np.roll(w, 1, axis=0)), ACCURACY, "mae-share"),
    Fault("tflite-int8-channel-scale", "digits-tflite-int8", lambda: t.scales(_first_scale, weights=True), ACCURACY, "top1"),
    Fault("tflite-int8-saturates", "digits-tflite-int8",
          lambda: t.scales(lambda s: s / np.float32(32), weights=False), ACCURACY, "top1"),
    Fault("tflite-int8-zero-point", "digits-tflite-int8", lambda: t.zero_points(90), ACCURACY, ""),
    Fault("tflite-int8-weight-bit", "digits-tflite-int8",
          lambda: t.stored(-1, np.int8, lambda w: w ^ np.int8(0x40)), DIFFERS, "output 'logits'"),
)  # fmt: skip
"""Every fault. `endless` has a test of its own, since it waits for a limit."""

SOAK_ONLY = frozenset({
    "mantissa-bit", "weights-transposed", "image-transposed", "no-relu", "bias-shifted", "constant", "output-half", "file-cut-off",
    "mixes-the-batch", "outputs-swapped", "second-output-scaled", "starts-from-one", "int8-saturates", "tflite-exponent-bit",
    "tflite-no-relu", "tflite-stride-turned", "int8-called-float", "tflite-int8-saturates", "tflite-int8-weight-bit",
})  # fmt: skip
"""Faults that another one in the table resembles: `./dev soak silent-wrong` plants them, CI does not."""


def outcome(fault: Fault, folder: Path) -> str:
    """Return "" when a fault is refused as it must be, else what happened. Run within `sabotage.workplace`."""
    report = converted(CASES[fault.case], folder, fault.tamper(), fault.when, **fault.options)
    if report.bundles:
        return f"a bundle was offered: {report.bundles[0].metric}"
    (refused,) = report.refused
    expected = refused.code == fault.code and fault.told in refused.reason and bool(refused.next)
    return "" if expected else f"{refused.code}: {refused.reason}"
