"""Sample data: names, shapes, types, labels; and that calibration never meets evaluation."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_converters import errors
from edgefleet_converters.evaluation import prepare_evaluation
from edgefleet_converters.recipe import FP32, Recipe
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sample_data import (
    SampleSet,
    load_arrays,
    load_samples,
    random_samples,
    save_arrays,
    split_held_back,
    without_shared,
)
from edgefleet_converters.sidefiles import read_side_files
from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime.preprocess import from_array, from_samples, parse_preprocess
from tests.converters.graphs import samples
from tests.converters.hostile import npy

IMAGE = (TensorSpec(name="image", dtype="float32", shape=["N", 1, 8, 8]),)
SCORES = (TensorSpec(name="scores", dtype="float32", shape=["N", 10]),)
TWO = (TensorSpec(name="a", dtype="float32", shape=[1, 4]), TensorSpec(name="b", dtype="int32", shape=[3]))


def read(path: str, inputs: tuple[TensorSpec, ...] = IMAGE) -> SampleSet:
    return load_samples(Path(path), inputs, SCORES, "calibration")


def ones(*shape: int, dtype: str = "float32") -> npt.NDArray[Any]:
    return np.ones(shape, dtype)


def test_samples_by_name_and_by_x_are_the_same(tmp_path: Path) -> None:
    by_name = read(samples(tmp_path, "a.npz", image=ones(5, 1, 8, 8), y=np.arange(5)))
    by_x = read(samples(tmp_path, "b.npz", x=ones(5, 1, 8, 8)))
    assert by_name.n == by_x.n == 5
    assert set(by_x.arrays) == {"image"}
    assert list(by_name.labels[""]) == [0, 1, 2, 3, 4]


def test_an_input_without_a_batch_axis_takes_whole_samples(tmp_path: Path) -> None:
    got = read(samples(tmp_path, a=ones(7, 4), b=ones(7, 3, dtype="int32")), TWO)
    assert got.arrays["a"].shape == (7, 4)
    assert got.arrays["b"].shape == (7, 3)


def test_real_values_are_quantised_for_a_quantised_input(tmp_path: Path) -> None:
    spec = (TensorSpec(name="q", dtype="uint8", shape=[1, 3], quantization=Quantization(scale=0.5, zero_point=10)),)
    got = read(samples(tmp_path, "real.npz", q=np.full((9, 3), 2.0, np.float32)), spec)
    assert got.arrays["q"].dtype == np.uint8
    assert set(got.arrays["q"].ravel()) == {14}
    stored = read(samples(tmp_path, "stored.npz", q=np.full((9, 3), 7, np.int64)), spec)
    assert set(stored.arrays["q"].ravel()) == {7}


@pytest.mark.parametrize(
    ("arrays", "inputs", "kind", "told"),
    [
        ({"picture": ones(5, 1, 8, 8)}, IMAGE, errors.DataNamesError, "missing: image; unknown: picture"),
        ({"a": ones(5, 4)}, TWO, errors.DataNamesError, "missing: b"),
        ({"x": ones(5, 4)}, TWO, errors.DataNamesError, "unknown: x"),
        (
            {"image": ones(5, 8, 8)},
            IMAGE,
            errors.DataShapeError,
            r"array 'image' .* \[8, 8\], the model's input takes \[1, 8, 8\]$",
        ),
        ({"image": ones(5, 1, 8, 9)}, IMAGE, errors.DataShapeError, r"\[1, 8, 9\]"),
        ({"image": np.float32(1)}, IMAGE, errors.DataShapeError, "no sample axis"),
        ({"a": ones(5, 4), "b": ones(6, 3, dtype="int32")}, TWO, errors.DataShapeError, "a has 5, b has 6"),
        ({"a": ones(5, 4), "b": ones(5, 3) * 0.5}, TWO, errors.DataDtypeError, "values would change"),
        ({"a": ones(5, 4), "b": ones(5, 3, dtype="int64") * 2**40}, TWO, errors.DataDtypeError, "values would change"),
        ({"image": np.full((5, 1, 8, 8), "a")}, IMAGE, errors.DataDtypeError, "only numbers"),
        ({"image": np.full((5, 1, 8, 8), np.nan, np.float32)}, IMAGE, errors.DataNotFiniteError, "sample 0"),
        ({"image": np.full((5, 1, 8, 8), np.inf)}, IMAGE, errors.DataNotFiniteError, "NaN or infinity"),
        ({"image": np.full((5, 1, 8, 8), 1e300)}, IMAGE, errors.DataDtypeError, "values would change"),
        ({"image": ones(0, 1, 8, 8)}, IMAGE, errors.DataEmptyError, "no samples"),
        ({"image": ones(5, 1, 8, 8), "y": np.arange(4)}, IMAGE, errors.LabelsError, "5 samples and 4 labels"),
        ({"image": ones(5, 1, 8, 8), "y": np.array(["a"] * 5)}, IMAGE, errors.LabelsError, "only numbers"),
        ({"image": ones(5, 1, 8, 8), "y.none": np.arange(5)}, IMAGE, errors.LabelsError, "no output 'none'"),
        ({"image": ones(5, 1, 8, 8), "y": np.full(5, np.nan)}, IMAGE, errors.LabelsError, "NaN"),
    ],
)
def test_wrong_data_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, Any], inputs: tuple[TensorSpec, ...], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told) as caught:
        read(samples(tmp_path, **arrays), inputs)
    assert caught.value.next_step  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a zip", b"PK\x03\x04" + bytes(40), b"\x80\x04\x95pickle"],
    ids=["empty", "text", "zip", "pickle"],
)
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(errors.DataUnreadableError, match=r"is not an \.npz file of plain arrays"):
        read(str(path))


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(errors.DataUnreadableError, match="allow_pickle"):
        read(str(tmp_path / "data.npz"))


def test_an_archive_that_unpacks_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(1_234_567))
    said = (1_234_567).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(said, (4_000_000_000).to_bytes(4, "little")))
    with pytest.raises(errors.DataUnreadableError, match="unpacks to 4000000000"):
        read(str(path))


def test_any_array_name_can_be_written_and_read(tmp_path: Path) -> None:
    arrays = {"file": ones(2, 3), "a/b:0": ones(2), "serving_default_x:0": np.array([[True]])}
    save_arrays(tmp_path / "names.npz", arrays)
    with np.load(tmp_path / "names.npz", allow_pickle=False) as back:
        assert set(back.files) == set(arrays)


@given(st.integers(4, 200), st.integers(0, 1000))
def test_held_back_samples_are_two_fifths_and_disjoint(n: int, seed: int) -> None:
    calibration, evaluation = split_held_back(SampleSet({"x": np.arange(n)}, {"": np.arange(n)}), seed)
    mine, theirs = set(calibration.arrays["x"].tolist()), set(evaluation.arrays["x"].tolist())
    assert not mine & theirs
    assert mine | theirs == set(range(n))
    assert evaluation.n == max(1, round(0.4 * n))
    assert np.array_equal(evaluation.labels[""], evaluation.arrays["x"])


@given(n=st.integers(10, 60), seed=st.integers(0, 9), is_eval=st.booleans())
def test_calibration_search_and_hold_out_never_meet(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, is_eval: bool
) -> None:
    path = samples(
        tmp_path_factory.mktemp("parts"), x=np.arange(n * 64, dtype=np.float32).reshape(n, 1, 8, 8), y=np.arange(n)
    )
    files = DataFiles(eval=path) if is_eval else DataFiles(calibration=path)
    got = prepare_evaluation(files, IMAGE, SCORES, Recipe(candidates=[FP32], seed=seed))
    parts = [got.judging, got.calibration, got.hold_out]
    firsts = [set(part.arrays["image"][:, 0, 0, 0].tolist()) for part in parts if part is not None]
    assert sum(map(len, firsts)) == len(set().union(*firsts)) == n
    assert len(firsts) == 3 - is_eval or (not is_eval and got.judging.n < 8)
    for part in (got.judging, got.unseen.samples if got.unseen else got.judging):
        assert np.array_equal(part.labels[""] * 64, part.arrays["image"][:, 0, 0, 0])


def test_copies_of_a_sample_stay_in_one_part(tmp_path: Path) -> None:
    one = np.repeat(np.random.default_rng(1).random((20, 1, 8, 8)).astype(np.float32), 3, axis=0)
    got = prepare_evaluation(DataFiles(calibration=samples(tmp_path, x=one)), IMAGE, SCORES, Recipe(candidates=[FP32]))
    parts = [part for part in (got.judging, got.calibration, got.hold_out) if part is not None]
    seen = [{row.tobytes() for row in part.arrays["image"]} for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_too_few_samples_cannot_be_divided() -> None:
    with pytest.raises(errors.DataEmptyError, match="cannot be divided"):
        split_held_back(SampleSet({"x": np.arange(3)}), 0)


def test_samples_in_both_files_only_judge() -> None:
    calibration, evaluation = SampleSet({"x": np.arange(10)}), SampleSet({"x": np.arange(7, 20)})
    kept, shared = without_shared(calibration, evaluation)
    assert kept.arrays["x"].tolist() == list(range(7))
    assert shared == 3


def test_calibration_that_is_all_evaluation_is_refused(tmp_path: Path) -> None:
    same = samples(tmp_path, x=ones(9, 1, 8, 8))
    with pytest.raises(errors.DataEmptyError, match="also an evaluation sample"):
        prepare_evaluation(DataFiles(calibration=same, eval=same), IMAGE, SCORES, Recipe(candidates=[FP32]))


def test_no_data_means_random_input_and_no_calibration() -> None:
    got = prepare_evaluation(DataFiles(), IMAGE, SCORES, Recipe(candidates=[FP32]))
    assert got.is_random
    assert got.calibration is None
    assert got.source == "random input only"
    again = prepare_evaluation(DataFiles(), IMAGE, SCORES, Recipe(candidates=[FP32]))
    assert np.array_equal(got.samples.arrays["image"], again.samples.arrays["image"])


def test_few_evaluation_samples_are_filled_up_for_golden_vectors_but_do_not_judge(tmp_path: Path) -> None:
    data = DataFiles(eval=samples(tmp_path, x=ones(3, 1, 8, 8), y=np.arange(3)))
    got = prepare_evaluation(data, IMAGE, SCORES, Recipe(candidates=[FP32]))
    assert got.n == 3
    assert got.samples.n >= 16
    assert len(got.labels[""]) == 3
    assert got.reversed.n == got.samples.n, "those that were filled up have no labels"


def test_a_golden_file_of_fewer_than_eight_samples_is_refused(tmp_path: Path) -> None:
    data = DataFiles(golden=samples(tmp_path, x=ones(7, 1, 8, 8)))
    with pytest.raises(errors.DataEmptyError, match="at least 8"):
        prepare_evaluation(data, IMAGE, SCORES, Recipe(candidates=[FP32]))


def test_random_values_fit_every_kind_of_input() -> None:
    specs = (
        TensorSpec(name="f", dtype="float32", shape=["N", 2, "T"]),
        TensorSpec(name="i", dtype="int64", shape=[1, 5]),
        TensorSpec(name="q", dtype="uint8", shape=[1, 3], quantization=Quantization(scale=0.1, zero_point=3)),
        TensorSpec(name="b", dtype="bool", shape=[2]),
    )
    got = random_samples(specs, 64, seed=3, shapes={"f": (2, 7)}).arrays
    assert got["f"].shape == (64, 2, 7)
    assert set(np.unique(got["i"])) <= {0, 1}
    assert got["q"].max() > 200
    assert got["b"].shape == (64, 2)
    assert got["b"].dtype == bool


@pytest.mark.parametrize("header", ["{" * 3000, "{'descr': '<f4'}", "__import__('os')", "x" * 60_000])
def test_an_array_whose_header_is_no_header_is_unreadable(tmp_path: Path, header: str) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", npy(header, bytes(64)))
    with pytest.raises(errors.DataUnreadableError):
        load_arrays(tmp_path / "data.npz", "calibration")


@pytest.mark.parametrize("size", [2**27, 2**40, 2**62])
def test_random_samples_that_do_not_fit_into_memory_are_refused_by_name(size: int) -> None:
    huge = (TensorSpec(name="image", dtype="float32", shape=["N", size]),)
    with pytest.raises(errors.ModelTooLargeError, match="do not fit into memory") as caught:
        random_samples(huge, 8, seed=0)
    assert "--shape" in caught.value.next_step


STEPS = parse_preprocess(
    b"""{"inputs": [{"name": "image", "from": "image", "steps": [{"op": "decode", "mode": "grayscale"},
    {"op": "resize", "width": 8, "height": 8, "method": "area"}, {"op": "normalise", "mean": 127.5, "std": 127.5},
    {"op": "layout", "to": "NCHW"}]}]}"""
)


def test_raw_samples_become_what_the_device_makes_of_them(tmp_path: Path) -> None:
    pictures = np.random.default_rng(3).integers(0, 256, (4, 30, 20, 3), np.uint8)
    for name in ("raw", "raw.image"):
        path = samples(tmp_path, f"{name}.npz", **{name: pictures}, y=np.arange(4))
        got = load_samples(Path(path), IMAGE, SCORES, "evaluation", STEPS)
        on_device = [from_array(STEPS, picture, IMAGE)["image"] for picture in pictures]
        np.testing.assert_array_equal(got.arrays["image"], np.concatenate(on_device))
        assert (got.arrays["image"].shape, got.labels[""].tolist()) == ((4, 1, 8, 8), [0, 1, 2, 3])
    with pytest.raises(errors.DataNamesError, match="nothing says"):
        read(path)
    with pytest.raises(errors.DataShapeError, match="cannot be preprocessed"):
        load_samples(Path(samples(tmp_path, "bad.npz", raw=ones(3, 5))), IMAGE, SCORES, "evaluation", STEPS)


def test_an_evaluation_on_raw_samples_judges_preprocessed_ones(tmp_path: Path) -> None:
    pictures = np.random.default_rng(3).integers(0, 256, (12, 9, 9), np.uint8)
    path = tmp_path / "preprocess.json"
    path.write_bytes(msgspec.json.encode(STEPS))
    files = DataFiles(eval=samples(tmp_path, "e.npz", raw=pictures), preprocess=str(path))
    found = prepare_evaluation(files, IMAGE, SCORES, Recipe(candidates=[FP32]))
    expected = from_samples(STEPS, {"image": pictures}, IMAGE)["image"]
    assert found.hold_out is not None
    made = np.concatenate([found.judging.arrays["image"], found.hold_out.arrays["image"]])
    np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(expected, axis=0))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ('{"op": "resize", "width": 9, "height": 8}, {"op": "layout", "to": "NCHW"}', "shape"),
        ('{"op": "resize", "width": 8, "height": 8}, {"op": "layout", "to": "NHWC"}', "shape"),
        ('{"op": "resize", "width": 8, "height": 8, "method": "nearest"}, {"op": "layout", "to": "NCHW"}', "float32"),
    ],
)
def test_steps_that_never_fit_are_refused_before_a_device_gets_them(tmp_path: Path, steps: str, words: str) -> None:
    path = tmp_path / "preprocess.json"
    first = '{"op": "decode", "mode": "grayscale"}'
    path.write_text(f'{{"inputs": [{{"name": "image", "from": "image", "steps": [{first}, {steps}]}}]}}')
    with pytest.raises(errors.SideFileError, match=words):
        read_side_files(DataFiles(preprocess=str(path)), IMAGE, SCORES)
