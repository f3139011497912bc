"""Data sets as other programs read them: numpy, Pillow, pyarrow, plain CSV and COCO; complete or not there, the same bytes each time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgefleet_cli.datasets.dataset_writer import read_manifest, write_data_set
from edgefleet_cli.datasets.formats import npz_format
from edgefleet_cli.datasets.model import DataFormat, DataSetError, DataSetManifest, Record
from edgefleet_cli.datasets.places import FolderPlace, PlaceTakenError
from edgefleet_cli.datasets.samples import Labels
from edgefleet_protocol.manifest import TensorSpec
from tests.cli.datasets.planted import TABLE, TABLE_SPEC, captured, facts, image_record, record

KEEP: dict[str, Any] = {"fields": {"image": [{"do": "keep"}]}}
TRUTH: Labels = {("line-1", "t1"): "two", ("", "t2"): "0"}


def write(
    records: list[Record], format_: DataFormat, folder: Path, labels: Labels = TRUTH, *, replace: bool = False
) -> DataSetManifest:
    """Write a data set to a folder."""
    return write_data_set(records, labels, format_, FolderPlace(folder, replace))


def test_a_folder_has_a_picture_and_a_line_for_each_sample(tmp_path: Path) -> None:
    made = [image_record(n, KEEP) for n in (1, 2, 3)]
    manifest = write([one for one, _ in made], DataFormat.FOLDER, tmp_path / "set")
    rows = list(csv.DictReader((tmp_path / "set" / "labels.csv").open()))
    assert [(row["label"], row["class"]) for row in rows] == [("two", "2"), ("zero", "0"), ("", "")]
    for row, (_, pixels) in zip(rows, made, strict=True):
        assert (np.asarray(Image.open(tmp_path / "set" / row["field:image"])) == pixels).all()
    assert (manifest.labels, manifest.unlabelled, manifest.reasons) == ({"two": 1, "zero": 1}, 1, {"drift": 3})
    assert (manifest.model, manifest.release, manifest.fields) == ("digits", "digits@1.0.0", {"image": 3})
    assert [one.label for one in manifest.records] == ["two", "zero", None]
    assert read_manifest((tmp_path / "set" / "dataset.json").read_bytes()) == manifest
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "set" / "data").iterdir()} == {0o600}


def test_npz_holds_arrays_ready_for_training(tmp_path: Path) -> None:
    made = [image_record(n, KEEP) for n in (1, 2)]
    write([one for one, _ in made], DataFormat.NPZ, tmp_path / "set")
    with np.load(tmp_path / "set" / "data.npz") as found:
        assert found["image"].shape == (2, 1, 8, 8)
        assert (np.rint(found["image"][:, 0] * 255) == np.stack([pixels for _, pixels in made])).all()
        assert found["label"].tolist() == [2, 0]
        assert found["label_name"].tolist() == ["two", "zero"]
        assert found["seen"].tolist() == [3, 3]
        assert np.isnan(found["label_value"]).all()


def test_columns_of_a_table_are_a_column_each_and_a_sample_each_row(tmp_path: Path) -> None:
    policy: dict[str, Any] = {
        "fields": {"age": [{"do": "bin", "width": 10}], "badge": [{"do": "hash"}], "dose": [{"do": "keep"}]}
    }
    said = facts(policy, inputs=[TABLE_SPEC], recipes=[TABLE])
    rows = np.array([[41, 7, 0.5], [57, 8, 1.5]], np.float32)
    records = [
        record(said, captured(said, policy, {"x": rows})),
        record(said, captured(said, policy, {"x": rows[:1]}), 2),
    ]
    write(records, DataFormat.NPZ, tmp_path / "npz", {("line-1", "t1"): "3.25"})
    with np.load(tmp_path / "npz" / "data.npz") as found:
        assert found["age"].tolist() == [40, 50, 40]
        assert found["dose"].tolist() == [0.5, 1.5, 0.5]
        assert found["badge"][0] == found["badge"][2] != found["badge"][1]
        assert found["label_value"][:1].tolist() == [3.25]
        assert np.isnan(found["label_value"][1:]).all(), "a label is about the first sample of its request"
        assert found["label"].tolist() == [-1, -1, -1]
    manifest = write(records, DataFormat.PARQUET, tmp_path / "parquet")
    table = pq.read_table(tmp_path / "parquet" / "data.parquet").to_pylist()
    assert [line["age"] for line in table] == [40, 50, 40]
    assert [line["sample"] for line in table] == [f"{1:016x}", f"{1:016x}.1", f"{2:016x}"]
    assert [one.samples for one in manifest.records] == [2, 1]
    write(records, DataFormat.FOLDER, tmp_path / "folder")
    lines = list(csv.DictReader((tmp_path / "folder" / "labels.csv").open()))
    assert [line["field:dose"] for line in lines] == ["0.5", "1.5", "0.5"]


def test_parquet_holds_an_array_with_its_type_and_shape(tmp_path: Path) -> None:
    one, pixels = image_record(1, KEEP)
    write([one], DataFormat.PARQUET, tmp_path / "set")
    (line,) = pq.read_table(tmp_path / "set" / "data.parquet").to_pylist()
    array = np.frombuffer(line["image"]["data"], line["image"]["dtype"]).reshape(line["image"]["shape"])
    assert (np.rint(array[0] * 255) == pixels).all()
    assert (line["label"], line["class"], line["answer"]) == ("two", 2, 1)


def test_coco_has_boxes_of_a_detector_and_no_annotation_for_a_label(tmp_path: Path) -> None:
    postprocess = {"outputs": [{"name": "y", "steps": [{"op": "boxes", "format": "xyxy", "scores": "s"}]}]}
    outputs = [
        TensorSpec(name="y", dtype="float32", shape=[1, 2, 4]),
        TensorSpec(name="s", dtype="float32", shape=[1, 2, 3]),
    ]
    said = facts(KEEP, outputs=outputs, postprocess=postprocess)
    plain, _ = image_record(1, KEEP)
    boxes = np.array([[[0.25, 0.5, 0.75, 1.0], [0, 0, 0.1, 0.1]]], np.float32)
    scores = np.array([[[0, 0.9, 0], [0.1, 0.05, 0]]], np.float32)
    packed = {
        name: {"dtype": "<f4", "shape": list(array.shape), "data": array.tobytes()}
        for name, array in {"y": boxes, "s": scores}.items()
    }
    write(
        [record(said, plain.fields, outputs=packed), record(facts(KEEP), plain.fields, 2)],
        DataFormat.COCO,
        tmp_path / "set",
    )
    found = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert [(one["id"], one["name"]) for one in found["categories"]] == [(1, "zero"), (2, "one"), (3, "two")]
    (box,) = found["annotations"]
    assert (box["bbox"], box["category_id"], box["image_id"], box["iscrowd"]) == ([2, 4, 4, 4], 2, 1, 0)
    assert [(image["label"], image["category_id"]) for image in found["images"]] == [("two", 3), ("zero", 1)]
    assert Image.open(tmp_path / "set" / found["images"][0]["file_name"]).size == (8, 8)


def test_answers_that_the_policy_does_not_keep_are_in_no_format(tmp_path: Path) -> None:
    one, _ = image_record(1, {**KEEP, "outputs": False}, outputs={"y": [{"label": "one"}]})
    manifest = write([one], DataFormat.NPZ, tmp_path / "set")
    with np.load(tmp_path / "set" / "data.npz") as found:
        assert found["answer"].tolist() == [-1]
    assert manifest.left_out == {"(answers)": 1}


@pytest.mark.parametrize("format_", list(DataFormat))
def test_the_same_records_are_the_same_bytes(tmp_path: Path, format_: DataFormat) -> None:
    records = [image_record(n, KEEP)[0] for n in (1, 2, 3)]
    write(records, format_, tmp_path / "a")
    write(records[::-1], format_, tmp_path / "b")
    a, b = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b


def test_a_data_set_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = image_record(1, KEEP)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(npz_format, "write_private", full)
    with pytest.raises(DataSetError, match="cannot write"):
        write([one], DataFormat.NPZ, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_mixed_and_only_a_data_set_is_replaced(tmp_path: Path) -> None:
    one, _ = image_record(1, KEEP)
    two, _ = image_record(2, KEEP)
    write([one], DataFormat.NPZ, tmp_path / "set")
    with pytest.raises(PlaceTakenError):
        write([two], DataFormat.NPZ, tmp_path / "set")
    assert [entry.id for entry in write([two], DataFormat.FOLDER, tmp_path / "set", replace=True).records] == [two.id]
    assert not (tmp_path / "set" / "data.npz").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(PlaceTakenError):
        write([one], DataFormat.NPZ, tmp_path / "own", replace=True)


def test_nothing_to_write_is_an_error_that_says_why(tmp_path: Path) -> None:
    policy: dict[str, Any] = {"fields": {"image": [{"do": "drop"}]}}
    one, _ = image_record(1, KEEP)
    with pytest.raises(DataSetError, match="keeps nothing") as caught:
        write([record(facts(policy), one.fields)], DataFormat.NPZ, tmp_path / "set")
    assert "image of 1" in caught.value.why
    with pytest.raises(DataSetError, match="nothing to write"):
        write([], DataFormat.NPZ, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
