"""The drift reference: counts that add up, made of samples by the same run that makes the bundle."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_converters.drift_reference import CONFIDENCE_EDGES, build_reference
from edgefleet_converters.errors import SideFileError
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sidefiles import holds_samples, read_side_files


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([(3,), (64,), (65,), (1, 4, 4)]), st.booleans())
def test_all_counts_add_up(n: int, seed: int, shape: tuple[int, ...], is_probability: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 4)).astype(np.float32)
    if is_probability:
        scores = np.abs(scores) / np.abs(scores).sum(1, keepdims=True)
    samples = rng.integers(0, 5, (n, *shape)).astype(np.float32)
    reference = msgspec.msgpack.decode(build_reference({"x": samples}, {"y": scores}))
    assert (reference["v"], reference["n"]) == (1, n)
    names = [feature["name"] for feature in reference["features"]]
    table = len(shape) == 1 and shape[0] <= 64
    assert names == ([f"x.{i}" for i in range(shape[0])] if table else ["x.mean", "x.std", "x.min", "x.max"])
    for feature in reference["features"]:
        assert sum(feature["counts"]) == n
        assert len(feature["counts"]) == len(feature["edges"]) + 1
        assert feature["edges"] == sorted(set(feature["edges"]))
    assert sum(reference["classes"]) == sum(reference["confidence"]["counts"]) == n
    assert reference["classes"] == np.bincount(scores.argmax(1), minlength=4).tolist()


def test_values_are_counted_where_they_are() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    y = np.array([[0.93, 0.07], [0.22, 0.78], [0.05, 0.95], [0.61, 0.39]], np.float32)
    reference = msgspec.msgpack.decode(build_reference({"x": x}, {"y": y}))
    assert reference["features"][0]["mean"] == 1.5
    assert reference["classes"] == [2, 2]
    assert reference["confidence"] == {"edges": CONFIDENCE_EDGES, "counts": [0, 0, 0, 0, 0, 0, 1, 1, 0, 2]}


def test_a_model_without_classes_has_none() -> None:
    reference = msgspec.msgpack.decode(build_reference({"x": np.ones((3, 2))}, {"y": np.ones((3, 5, 5))}))
    assert (reference["classes"], reference["confidence"]["counts"]) == ([], [])


def test_a_finished_reference_is_taken_as_it_is_and_anything_else_refused(tmp_path: Path) -> None:
    file = tmp_path / "reference"
    file.write_bytes(msgspec.msgpack.encode({"v": 1}))
    assert read_side_files(DataFiles(reference=str(file)), (), ()) == {"reference.msgpack": file.read_bytes()}
    np.savez(tmp_path / "samples.npz", x=np.zeros(3))
    assert holds_samples(str(tmp_path / "samples.npz"))
    assert read_side_files(DataFiles(reference=str(tmp_path / "samples.npz")), (), ()) == {}
    file.write_bytes(b"\xc1")
    with pytest.raises(SideFileError, match="MessagePack"):
        read_side_files(DataFiles(reference=str(file)), (), ())
    with pytest.raises(SideFileError, match="cannot read"):
        holds_samples(str(tmp_path / "none"))
