"""Records of an erased person leave a data set of every format: no byte of them is left, and the rest is as if they had never been."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_cli.datasets import dataset_writer
from edgefleet_cli.datasets.dataset_writer import read_manifest, remove_records, write_data_set
from edgefleet_cli.datasets.model import DataFormat, DataSetError, Record
from edgefleet_cli.datasets.places import FolderPlace
from tests.cli.datasets.planted import IMAGE, IMAGE_SPEC, TABLE, TABLE_SPEC, captured, everything, facts, record

POLICY: dict[str, Any] = {
    "fields": {"image": [{"do": "keep"}], "age": [{"do": "keep"}], "badge": [{"do": "hash"}], "dose": [{"do": "keep"}]}
}


def records(chance: random.Random) -> list[Record]:
    """Return records of which some are a request of several samples, and some lack a field or have one of another shape."""
    said = facts(POLICY, inputs=[IMAGE_SPEC, TABLE_SPEC], recipes=[IMAGE, TABLE])
    made = []
    for number in range(1, 9):
        rows = chance.choice([1, 1, 2])
        seed = np.random.default_rng(chance.randrange(2**32))
        arrays = {"x": seed.random((rows, 3), np.float32)}
        if rows == 1:
            arrays["image"] = seed.random((1, 1, 8, chance.choice([8, 4])), np.float32)
        fields = captured(said, POLICY, arrays)
        made.append(
            record(said, fields, number, device=chance.choice(["line-1", "line-2"]), trace_id=f"trace{number}of")
        )
    return [*made, record(said, captured(said, POLICY, {"image": np.ones((1, 1, 8, 8), np.float32)}), 99)]


@pytest.mark.parametrize("format_", list(DataFormat))
@pytest.mark.parametrize("seed", range(6))
def test_a_purged_data_set_is_as_if_the_records_had_never_been(tmp_path: Path, format_: DataFormat, seed: int) -> None:
    chance = random.Random(seed)
    made = [one for one in records(chance) if format_ is not DataFormat.COCO or "image" in one.fields]
    gone = chance.sample(made[:-1], chance.randint(1, len(made) - 2))
    labels = {(one.device, one.trace_id): chance.choice(["zero", "two"]) for one in made if chance.random() < 0.7}
    place = FolderPlace(tmp_path / "set")
    write_data_set(made, labels, format_, place)
    left = remove_records(place, {(one.device, one.id) for one in gone})
    marks = [mark for one in gone for mark in (one.id.encode(), one.trace_id.encode())]
    assert [mark for mark in marks if mark in everything(tmp_path / "set")] == []
    assert read_manifest(place.manifest()) == left
    never = FolderPlace(tmp_path / "never")
    expected = write_data_set([one for one in made if one not in gone], labels, format_, never)
    assert left.records == expected.records
    assert (left.fields, left.labels, left.reasons, left.unlabelled) == (
        expected.fields, expected.labels, expected.reasons, expected.unlabelled,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"set", "never"}] == []
    if format_ in {DataFormat.FOLDER, DataFormat.PARQUET}:
        assert set(left.files) == set(expected.files)


def test_of_the_last_record_an_empty_data_set_is_left(tmp_path: Path) -> None:
    made = records(random.Random(1))[-1:]
    for format_ in DataFormat:
        place = FolderPlace(tmp_path / format_)
        write_data_set(made, {}, format_, place)
        left = remove_records(place, {(one.device, one.id) for one in made})
        assert (left.records, left.fields) == ((), {})
        assert made[0].trace_id.encode() not in everything(tmp_path / format_)


def test_a_removal_that_fails_leaves_the_data_set_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(random.Random(2))
    place = FolderPlace(tmp_path / "set")
    write_data_set(made, {}, DataFormat.FOLDER, place)
    before = everything(tmp_path / "set")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_writer, "save_manifest", full)
    with pytest.raises(DataSetError):
        remove_records(place, {(made[0].device, made[0].id)})
    assert everything(tmp_path / "set") == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
