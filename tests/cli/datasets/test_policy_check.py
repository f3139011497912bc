"""No data set holds what the privacy policy forbids: whatever a record holds, planted values are in no byte that is written."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_cli.datasets.dataset_writer import write_data_set
from edgefleet_cli.datasets.model import DataFormat, DataSetError, Record
from edgefleet_cli.datasets.places import FolderPlace
from edgefleet_cli.datasets.policy_check import OTHER, kept_fields
from edgefleet_protocol.manifest import TensorSpec
from tests.cli.datasets.planted import (
    IMAGE,
    IMAGE_SPEC,
    TABLE,
    TABLE_SPEC,
    as_packed,
    captured,
    everything,
    facts,
    record,
)

INPUTS = [IMAGE_SPEC, TABLE_SPEC, TensorSpec(name="secret", dtype="float32", shape=[1, 4])]
RECIPES = [IMAGE, TABLE, {"name": "secret", "from": "array"}]
NAMES = ("image", "x", "age", "badge", "dose", "secret")
MARK = 31337.0 / 7.0
"""A number that no rule makes."""
PLANTED = int(os.environ.get("EDGEFLEET_PLANTED_RECORDS", "60"))
"""Records; more of them by the environment."""
MARKS = (b"PLANTED", struct.pack("<f", MARK), struct.pack("<d", MARK), b"4476.7")


def rules(chance: random.Random, name: str) -> list[dict[str, Any]]:
    """Return random rules for a field."""
    plain: list[dict[str, Any]] = [
        {"do": "drop"},
        {"do": "hash"},
        {"do": "bin", "width": chance.choice([0.25, 3, 10])},
        {"do": "keep"},
    ]
    picture: list[dict[str, Any]] = [
        {"do": "crop", "bottom": 0.5}, {"do": "crop", "left": 0.3, "top": 0.1}, {"do": "downscale", "side": 4},
        {"do": "blur", "radius": 1}, {"do": "keep"},
    ]  # fmt: skip
    return chance.sample(picture, chance.randint(1, 3)) if name == "image" else [chance.choice(plain)]


def policy(chance: random.Random) -> dict[str, Any]:
    """Return a random policy."""
    fields = {name: rules(chance, name) for name in chance.sample(NAMES, chance.randint(1, len(NAMES)))}
    return {"fields": fields, "outputs": chance.random() < 0.5}


def arrays(chance: random.Random) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs of one request, nothing planted in them."""
    seed = np.random.default_rng(chance.randrange(2**32))
    return {
        "image": seed.random((1, 1, 8, 8), np.float32),
        "x": seed.random((1, 3), np.float32) * 100,
        "secret": seed.random((1, 4), np.float32),
    }


def forbidden(chance: random.Random, said: dict[str, Any]) -> dict[str, Any]:
    """Return fields that this policy does not keep as they are, each with a mark in it."""
    planted = np.full((1, 1, 8, 8), MARK, np.float32)
    tensor = {"dtype": "<f4", "shape": [1, 1, 8, 8], "data": planted.tobytes()}
    four = {"dtype": "<f4", "shape": [1, 4], "data": planted.tobytes()[:16]}
    one = {"dtype": "<f4", "shape": [1], "data": planted.tobytes()[:4]}
    words = ["PLANTED"]
    found: dict[str, Any] = {
        "PLANTED": tensor, "x.age": one, "image/raw": tensor, "Age": one, " age": one, "": tensor, "subject": "PLANTED",
        "meta": {"PLANTED": {"PLANTED": "PLANTED"}},
    }  # fmt: skip
    for name in NAMES:
        home = "x" if name in {"age", "badge", "dose"} else name
        kept = said["fields"].get(name, said["fields"].get(home))
        do = [rule["do"] for rule in kept or ()]
        value = {
            "image": tensor,
            "secret": four,
            "x": {"dtype": "<f4", "shape": [1, 3], "data": planted.tobytes()[:12]},
        }.get(name, one)
        found |= (
            {name: chance.choice([value, words, "PLANTED", {**one, "note": "PLANTED"}])}
            if kept is None or "drop" in do
            else {}
        )
        if "hash" in do:
            found[name] = chance.choice([value, words, [*words, "0" * 16]])
        elif "bin" in do:
            found[name] = chance.choice([value, words])
        elif {"crop", "downscale"} & set(do):
            found[name] = tensor
        elif kept is not None and "drop" not in do:
            found[name] = chance.choice(
                [words, {**one, "note": "PLANTED"}, {"dtype": "PLANTED", "shape": [1], "data": b"PLANTED"}]
            )
    return dict(chance.sample(sorted(found.items()), chance.randint(1, len(found))))


def a_record(seed: int) -> tuple[Record, dict[str, Any], set[str]]:
    """Return a record with planted fields, its policy, and the honest fields that must stay."""
    chance = random.Random(seed)
    said = policy(chance)
    release = facts(said, inputs=INPUTS, recipes=RECIPES)
    honest = captured(release, said, arrays(chance))
    planted = forbidden(chance, said)
    outputs = {} if said["outputs"] else {"y": [{"label": "PLANTED", "PLANTED": MARK}], "PLANTED": "PLANTED"}
    fields = {**honest, **as_packed(planted)}
    return record(release, fields, seed + 1, reason="drift", outputs=outputs), said, set(honest) - set(planted)


@pytest.mark.parametrize("seed", range(PLANTED))
def test_planted_fields_are_in_no_byte_of_any_format(seed: int, tmp_path: Path) -> None:
    one, said, honest = a_record(seed)
    for format_ in DataFormat:
        try:
            manifest = write_data_set([one], {}, format_, FolderPlace(tmp_path / format_))
        except DataSetError:
            assert not honest or format_ is DataFormat.COCO, "nothing is kept, or there is no picture"
            continue
        found = everything(tmp_path / format_)
        assert [mark for mark in MARKS if mark in found] == [], (format_, said, one.fields)
        assert set(manifest.fields) == honest
        assert sum(manifest.left_out.values()) >= len(set(one.fields) - honest)
        assert set(manifest.left_out) <= {*NAMES, OTHER, "(answers)"}


def test_what_the_device_keeps_is_kept() -> None:
    for seed in range(PLANTED):
        _device_keeps(random.Random(seed))


def _device_keeps(chance: random.Random) -> None:
    said = policy(chance)
    release = facts(said, inputs=INPUTS, recipes=RECIPES)
    fields = captured(release, said, arrays(chance))
    kept, left = kept_fields(fields, release)
    assert (set(kept), left) == (set(fields), [])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"fields": [1]}',
        b'{"fields": {"image": [{"do": "keep-all"}]}}',
        b'{"fields": {"image": [{}]}}',
        b'{"fields": {"image": []}}',
    ],
)
def test_a_policy_that_cannot_be_read_keeps_nothing(text: bytes) -> None:
    from dataclasses import replace

    from edgefleet_cli.datasets.policy_check import parse_policy

    said = replace(facts(None), policy=parse_policy(text))
    tensor = {"dtype": "<f4", "shape": [1, 1, 8, 8], "data": bytes(256)}
    assert kept_fields({"image": tensor}, said) == ({}, ["image"])


def test_a_bundle_without_a_policy_keeps_nothing() -> None:
    assert kept_fields({"image": {"dtype": "<f4", "shape": [1, 1, 8, 8], "data": bytes(256)}}, facts(None)) == (
        {},
        ["image"],
    )


def test_a_whole_table_does_not_pass_where_its_columns_have_rules() -> None:
    said = facts({"fields": {"x": [{"do": "keep"}], "badge": [{"do": "drop"}]}}, inputs=[TABLE_SPEC], recipes=[TABLE])
    assert kept_fields({"x": {"dtype": "<f4", "shape": [1, 3], "data": bytes(12)}}, said) == ({}, ["x"])
