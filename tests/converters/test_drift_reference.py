"""The drift reference: counts that add up, made of real samples by the code that the device counts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_converters.accuracy.output_kinds import CLASS_SCORES, REGRESSION
from edgefleet_converters.drift_reference import (
    CONFIDENCE_EDGES,
    Answered,
    build_reference,
    given_reference,
    reference_facts,
)
from edgefleet_converters.errors import DataShapeError, SideFileError
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sample_data import SampleSet, check_samples
from edgefleet_converters.sidefiles import holds_samples, read_side_files
from edgefleet_protocol.drift.reference import Reference, read_reference, write_reference
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.preprocess import parse_preprocess
from edgefleet_runtime.privacy import NOTHING, parse_privacy
from edgefleet_runtime.signals import counted, signal_plan, signal_values

Array = npt.NDArray[Any]
SCORES = TensorSpec(name="y", dtype="float32", shape=["N", 4])


def spec_of(array: Array, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=array.dtype.name, shape=["N", *array.shape[1:]])


def made(x: Array, y: Array | None = None, kind: str = CLASS_SCORES, **more: Any) -> Reference:
    """Return the reference of one input and one output; through its wire form, so that it is a valid one."""
    answered = (
        Answered({}, [], {}) if y is None else Answered({"y": y}, [spec_of(y, "y")], {"y": kind}, more.get("times"))
    )
    pre = parse_preprocess(more["preprocess"]) if "preprocess" in more else None
    samples = SampleSet({"x": x}, times=more.get("times"))
    built = build_reference(samples, [spec_of(x)], answered, pre, "calibration", more.get("policy", NOTHING))
    return read_reference(write_reference(built))


@given(
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(3,), (64,), (65,), (1, 4, 4), (3, 9, 9)]),
    st.booleans(),
)
def test_all_counts_add_up(n: int, seed: int, shape: tuple[int, ...], is_probability: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 4)).astype(np.float32)
    if is_probability:
        scores = np.abs(scores) / np.abs(scores).sum(1, keepdims=True)
    samples = rng.integers(0, 5, (n, *shape)).astype(np.float32)
    reference = made(samples, scores)
    assert reference.n == n
    words = {
        3: [f"x.{i}" for i in range(3)],
        64: [f"x.{i}" for i in range(64)],
        65: ["x.mean", "x.std", "x.min", "x.max"],
        16: ["x.mean", "x.std", "x.min", "x.max"],
        243: ["x.brightness", "x.contrast", "x.blur", "x.channel_0", "x.channel_1", "x.channel_2"],
    }
    assert [one.name for one in reference.features] == words[int(np.prod(shape))]
    for feature in reference.features:
        assert sum(feature.counts) == n
        assert feature.edges == sorted(set(feature.edges))
    assert sum(reference.classes) == sum(reference.confidence.counts) == n
    assert reference.classes == np.bincount(scores.argmax(1), minlength=4).tolist()
    specs = [spec_of(samples)], [spec_of(scores, "y")]
    plan = signal_plan(reference, *specs)
    again = counted(signal_values({"x": samples}, {"y": scores}, plan), plan)
    assert [list(one.bins) for one in again] == [one.counts for one in reference.signals], "the device counts the same"
    assert not any(one.beyond for one in again)


def test_values_are_counted_where_they_are() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    y = np.array([[0.93, 0.07], [0.22, 0.78], [0.05, 0.95], [0.61, 0.39]], np.float32)
    reference = made(x, y)
    (feature,) = reference.features
    assert (feature.mean, feature.low, feature.high, feature.kind) == (1.5, 0.0, 3.0, "numeric")
    assert reference.classes == [2, 2]
    assert reference.confidence.edges == CONFIDENCE_EDGES
    assert reference.confidence.counts == [0, 0, 0, 0, 0, 0, 1, 1, 0, 2]
    assert reference.source == "calibration"


def test_missing_values_constant_columns_and_few_whole_values() -> None:
    rng = np.random.default_rng(3)
    x = np.stack([rng.normal(size=200), np.full(200, 7.0), rng.integers(0, 3, 200) * 2.0], 1).astype(np.float32)
    x[:11, 0] = np.nan
    number, constant, few = made(x).features
    assert (number.missing, sum(number.counts), len(number.edges)) == (11, 189, 9)
    assert (constant.std, constant.edges, constant.counts, constant.low) == (0.0, [], [200], 7.0)
    assert (few.kind, few.values, few.counts[-1]) == ("categorical", [0.0, 2.0, 4.0], 0)


def test_columns_have_the_names_and_categories_of_preprocess_json() -> None:
    x = np.stack([np.arange(30) % 2, np.arange(30) / 3], 1).astype(np.float32)
    pre = (
        b'{"inputs": [{"from": "columns", "name": "x", "columns": ["shift", "load"],'
        b' "categories": {"shift": ["early", "late", "night"]}}]}'
    )
    shift, load = made(x, preprocess=pre).features
    assert (shift.name, shift.kind, shift.values, shift.counts) == (
        "x.shift", "categorical", [0.0, 1.0, 2.0], [15, 15, 0, 0]
    )  # fmt: skip
    assert (load.name, load.kind) == ("x.load", "numeric")


def test_a_regression_is_a_signal_and_no_class() -> None:
    reference = made(np.ones((50, 2), np.float32), np.arange(100, dtype=np.float32).reshape(50, 2), REGRESSION)
    assert (reference.classes, reference.confidence.counts) == ([], [])
    assert [(one.name, one.kind, sum(one.counts)) for one in reference.outputs] == [
        ("y.0", "output", 50), ("y.1", "output", 50)
    ]  # fmt: skip
    assert made(np.ones((3, 2), np.float32), np.ones((3, 5, 5), np.float32), "mask").outputs == []


def test_times_give_parts_of_the_day() -> None:
    hour = np.arange(48.0)
    x = np.where((hour % 24 < 6), 1.0, 5.0)[:, None].astype(np.float32) + hour[:, None].astype(np.float32) / 100
    reference = made(x, x, REGRESSION, times=1_700_006_400 + hour * 3600)
    feature, output = reference.features[0], reference.outputs[0]
    assert sorted(feature.hours) == sorted(output.hours) == ["0", "1", "2", "3", "4", "5"]
    assert np.sum(list(feature.hours.values()), 0).tolist() == feature.counts
    assert reference_facts(reference, 48) == {
        "source": "calibration", "samples": 48, "answers": 48, "signals": 2, "by_hour": True,
        "note": "fewer than 100 samples: no drift can be judged by it",
    }  # fmt: skip
    spec, data = (TensorSpec(name="x", dtype="float32", shape=["N", 1]),), {"x": np.ones((2, 1), np.float32)}
    assert check_samples({**data, "time": np.array([5, 6])}, spec, (), "calibration").times.tolist() == [5, 6]  # type: ignore[union-attr]
    with pytest.raises(DataShapeError, match="2 samples and `time`"):
        check_samples({**data, "time": np.array([5])}, spec, (), "calibration")
    missing = check_samples({"x": np.full((2, 1), np.nan)}, spec, (), "reference").arrays["x"]
    assert missing.dtype == np.float32
    assert np.isnan(missing).all()


def test_a_finished_reference_is_taken_as_it_is_and_anything_else_refused(tmp_path: Path) -> None:
    file = tmp_path / "reference"
    x = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    file.write_bytes(write_reference(made(x)))
    assert read_side_files(DataFiles(reference=str(file)), (), ()) == {"reference.msgpack": file.read_bytes()}
    known = given_reference(file.read_bytes(), [spec_of(x)], [])
    assert reference_facts(known, 0) == {"source": "calibration", "samples": 2000, "answers": 0, "signals": 3}
    with pytest.raises(SideFileError, match=r"x\.0"):
        given_reference(file.read_bytes(), [spec_of(x, "z")], [])
    with pytest.raises(SideFileError, match="not readable"):
        given_reference(b"\xc1", [], [])
    np.savez(tmp_path / "samples.npz", x=np.zeros(3))
    assert holds_samples(str(tmp_path / "samples.npz"))
    assert read_side_files(DataFiles(reference=str(tmp_path / "samples.npz")), (), ()) == {}
    with pytest.raises(SideFileError, match="cannot read"):
        holds_samples(str(tmp_path / "none"))


def test_a_dropped_column_leaves_no_figure_in_the_reference() -> None:
    x = np.random.default_rng(5).normal(40.0, 9.0, (300, 3)).astype(np.float32)
    columns = b'{"inputs": [{"name": "x", "from": "columns", "columns": ["age", "weight", "badge"]}]}'
    policy = parse_privacy(b'{"fields": {"badge": [{"do": "hash"}], "age": [{"do": "drop"}]}}')
    age, weight, badge = made(x, preprocess=columns, policy=policy).features
    assert sum(weight.counts) == 300
    for one in (age, badge):
        assert (one.mean, one.std, one.low, one.high, one.edges, one.counts, one.missing) == (0, 0, 0, 0, [], [0], 300)
