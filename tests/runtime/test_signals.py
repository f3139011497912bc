"""Signals of samples: one number for the same sample whatever the batch, the layout or the storage, and sums that add up."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgefleet_protocol.drift.histogram import merged_windows
from edgefleet_protocol.drift.reference import Confidence, Reference, Signal, SignalKind
from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime.quantization import quantize_array
from edgefleet_runtime.signals import SignalPlanError, counted, signal_plan, signal_values

RNG = np.random.default_rng(11)
TABLE = TensorSpec(name="x", dtype="float32", shape=["N", 3])
PICTURE = ("brightness", "contrast", "blur", "channel_0", "channel_1", "channel_2")


def signal(name: str, kind: str = SignalKind.NUMERIC, **changes: object) -> Signal:
    known = Signal(name=name, kind=kind, std=1.0, low=-3.0, high=3.0, edges=[-1.0, 0.0, 1.0], counts=[1, 1, 1, 1])
    return msgspec.structs.replace(known, **changes)


def table(**changes: object) -> Reference:
    return Reference(n=4, features=[signal("x.a"), signal("x.b"), signal("x.c")], **changes)  # type: ignore[arg-type]


def test_counts_are_where_the_values_are() -> None:
    reference = table()
    reference.features[2] = signal(
        "x.c", SignalKind.CATEGORICAL, edges=[], values=[7.0, 2.0], counts=[2, 1, 1], mean=2.0
    )
    plan = signal_plan(reference, [TABLE], [])
    x = np.array([[0.0, -5.0, 2.0], [-0.5, np.nan, 7.0], [0.5, np.inf, 3.0], [5000.0, 1.0, 2.0]], np.float32)
    a, b, c = counted(signal_values({"x": x}, {}, plan), plan)
    assert (a.bins, a.missing, a.beyond, a.high, a.low) == ((0, 1, 2, 1), 0, 1, 8000, -4), (
        "an edge belongs to the bin above"
    )
    assert (b.bins, b.missing, b.beyond, b.total) == ((1, 0, 0, 1), 2, 1, -4 * 64)
    assert (c.bins, c.total, c.squares) == ((1, 2, 1), 6 * 64, (25 + 1) * 64), "an unknown value is in the last bin"


def test_batches_add_up_to_the_whole() -> None:
    reference = table(classes=[2, 2], confidence=Confidence([0.5, 0.8], [1, 2, 1]))
    plan = signal_plan(reference, [TABLE], [TensorSpec(name="y", dtype="float32", shape=["N", 2])])
    x, y = RNG.normal(size=(50, 3)).astype(np.float32), RNG.normal(size=(50, 2)).astype(np.float32)
    x[3, 1] = np.nan
    whole = counted(signal_values({"x": x}, {"y": y}, plan), plan)
    parts = [counted(signal_values({"x": x[i : i + 1]}, {"y": y[i : i + 1]}, plan), plan) for i in range(50)]
    assert merged_windows(parts) == whole
    assert [one.n + one.missing for one in whole] == [50] * 4


def test_a_picture_has_the_same_figures_in_each_layout_and_storage() -> None:
    reference = Reference(n=4, features=[signal(f"x.{word}", SignalKind.IMAGE) for word in PICTURE])
    pixels = RNG.random((300, 3, 40, 30)).astype(np.float32)
    first = TensorSpec(name="x", dtype="float32", shape=["N", 3, 40, 30])
    last = TensorSpec(name="x", dtype="float32", shape=["N", 40, 30, 3])
    scale = Quantization(scale=1 / 255, zero_point=-128)
    stored = TensorSpec(name="x", dtype="int8", shape=["N", 3, 40, 30], quantization=scale)
    values = signal_values({"x": pixels}, {}, signal_plan(reference, [first], []))
    moved = signal_values({"x": pixels.transpose(0, 2, 3, 1)}, {}, signal_plan(reference, [last], []))
    assert np.allclose(values, moved, rtol=1e-5)
    small = signal_values({"x": quantize_array(pixels, scale, "int8")}, {}, signal_plan(reference, [stored], []))
    assert np.allclose(values, small, rtol=0.02)
    single = signal_values({"x": pixels[7:8]}, {}, signal_plan(reference, [first], []))
    assert np.allclose(values[7], single[0], rtol=1e-6)
    inner = pixels[:, :, 1:-1, 1:-1]
    assert np.allclose(values[:, 0], inner.mean((1, 2, 3)), rtol=1e-5)
    assert np.allclose(values[:, 3:], inner.mean((2, 3)), rtol=1e-5)
    blurred = (pixels + np.roll(pixels, 1, 2) + np.roll(pixels, 1, 3) + np.roll(pixels, (1, 1), (2, 3))) / 4
    assert (signal_values({"x": blurred}, {}, signal_plan(reference, [first], []))[:, 2] < values[:, 2] / 3).all()


def test_what_has_another_form_is_missing() -> None:
    plan = signal_plan(table(), [TABLE], [])
    assert np.isnan(signal_values({"x": np.ones((2, 4), np.float32)}, {}, plan)).all()
    assert np.isnan(signal_values({"z": np.ones((2, 3), np.float32)}, {}, plan)).all()
    assert [one.missing for one in counted(signal_values({"x": np.ones((2, 4))}, {}, plan), plan)] == [2, 2, 2]


def test_numbers_of_an_output_and_older_figures_of_an_array() -> None:
    reference = Reference(
        n=4, features=[signal(f"x.{word}") for word in ("mean", "std", "min", "max")], outputs=[signal("y.0", "output")]
    )
    x = RNG.normal(size=(5, 7, 9)).astype(np.float32)
    plan = signal_plan(
        reference,
        [TensorSpec(name="x", dtype="float32", shape=["N", 7, 9])],
        [TensorSpec(name="y", dtype="float32", shape=["N", 1])],
    )
    values = signal_values({"x": x}, {"y": np.arange(5, dtype=np.float32)[:, None]}, plan)
    assert np.allclose(values[:, :2], np.stack([x.mean((1, 2)), x.std((1, 2))], 1), atol=1e-6)
    assert values[:, 4].tolist() == [0, 1, 2, 3, 4]


def test_a_confidence_is_a_probability_whether_the_model_answers_logits_or_not() -> None:
    reference = table(classes=[1, 3], confidence=Confidence([0.5], [0, 4]))
    plan = signal_plan(reference, [TABLE], [TensorSpec(name="y", dtype="float32", shape=["N", 2])])
    y = np.array([[0.25, 0.75], [0.0, np.log(3)], [np.nan, 1.0]], np.float32)
    certain = signal_values({"x": np.ones((3, 3))}, {"y": y}, plan)[:, 3]
    assert np.allclose(certain[:2], 0.75)
    assert np.isnan(certain[2])


def test_a_reference_of_another_model_is_refused() -> None:
    with pytest.raises(SignalPlanError, match=r"'x\.a'"):
        signal_plan(table(), [TensorSpec(name="z", dtype="float32", shape=["N", 3])], [])
    with pytest.raises(SignalPlanError, match="2 classes"):
        signal_plan(table(classes=[1, 3], confidence=Confidence([0.5], [0, 4])), [TABLE], [])
