"""Nothing of an input leaves but what the policy names, in the form that it names."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import privacy
from edgefleet_runtime.preprocess import ArrayInput, ColumnsInput, Preprocess
from edgefleet_runtime.privacy import NOTHING, Privacy, PrivacyError, Tensor, parse_privacy

SALT = b"s" * 32
COLUMNS = Preprocess(inputs=[ColumnsInput(name="x", columns=["age", "id", "city", "note"])])
TABLE = (TensorSpec(name="x", dtype="float32", shape=["n", 4]),)
ROWS = np.array([[37.0, 1234.0, 2.0, 9.0], [41.0, 1234.0, 3.0, 9.0]], np.float32)
IMAGE = (TensorSpec(name="image", dtype="uint8", shape=[1, 3, 32, 48], layout="NCHW"),)
PLAIN = Preprocess(inputs=[ArrayInput(name="image")])


def policy(**fields: list[dict[str, Any]]) -> Privacy:
    """Return a policy of these fields."""
    return parse_privacy(json.dumps({"fields": fields}).encode())


def values(field: Tensor) -> np.ndarray[Any, Any]:
    """Return a field as an array."""
    return np.frombuffer(field.data, field.dtype).reshape(field.shape)


def test_without_a_policy_nothing_is_kept() -> None:
    assert privacy.apply(NOTHING, COLUMNS, TABLE, {"x": ROWS}, SALT) == ({}, ["age", "id", "city", "note"])


def test_each_column_has_its_own_rule() -> None:
    rules = policy(age=[{"do": "bin", "width": 10}], id=[{"do": "hash"}], city=[{"do": "keep"}])
    kept, dropped = privacy.apply(rules, COLUMNS, TABLE, {"x": ROWS}, SALT)
    assert values(kept["age"]).tolist() == [30.0, 40.0]
    assert values(kept["city"]).tolist() == [2.0, 3.0]
    assert kept["id"][0] == kept["id"][1] != privacy.apply(rules, COLUMNS, TABLE, {"x": ROWS}, b"other")[0]["id"][0]
    assert dropped == ["note"]


NAMES = ["x.age", "x.id", "x.city", "x.note"]


@pytest.mark.parametrize(
    ("rules", "signals", "hidden"),
    [
        ({}, NAMES, set()),
        ({"age": "bin", "city": "keep"}, NAMES, set()),
        ({"age": "drop", "id": "hash"}, NAMES, {"x.age", "x.id"}),
        ({"age": "drop"}, ["x.0", "x.1", "x.2", "x.3"], {"x.0"}),
        ({"x": "drop", "city": "keep"}, NAMES, {"x.age", "x.id", "x.note"}),
        ({"x": "keep", "note": "drop"}, NAMES, {"x.note"}),
        ({"note": "drop"}, ["x.mean", "x.std"], {"x.mean", "x.std"}),
        ({"note": "keep"}, ["x.mean", "x.std"], set()),
    ],
)
def test_of_a_field_that_is_dropped_or_hashed_by_name_nothing_is_counted(
    rules: dict[str, str], signals: list[str], hidden: set[str]
) -> None:
    width = {"bin": {"width": 1}}
    fields = {name: [{"do": do, **width.get(do, {})}] for name, do in rules.items()}
    assert privacy.uncounted(policy(**fields), COLUMNS, TABLE, [*signals, "z.0"]) == hidden


def test_a_column_that_is_named_like_another_ones_place_is_hidden_with_it() -> None:
    declared = Preprocess(inputs=[ColumnsInput(name="x", columns=["1", "2", "3"])])
    rules = policy(**{"1": [{"do": "drop"}]})
    assert privacy.uncounted(rules, declared, TABLE, ["x.0", "x.1", "x.2", "x.3"]) == {"x.0", "x.1"}


def test_of_a_picture_that_is_dropped_nothing_is_counted() -> None:
    names = ["image.brightness", "image.blur"]
    assert privacy.uncounted(policy(image=[{"do": "drop"}]), PLAIN, IMAGE, names) == set(names)
    assert privacy.uncounted(policy(image=[{"do": "blur", "radius": 2}]), PLAIN, IMAGE, names) == set()


@pytest.mark.parametrize(("after", "stays"), [("keep", True), ("drop", False)])
def test_what_stands_behind_a_hash_holds_too(after: str, stays: bool) -> None:
    kept, _ = privacy.apply(policy(id=[{"do": "hash"}, {"do": after}]), COLUMNS, TABLE, {"x": ROWS}, SALT)
    assert ("id" in kept) == stays


def test_columns_that_cannot_be_told_apart_any_more_are_dropped() -> None:
    rules = policy(age=[{"do": "keep"}])
    assert privacy.apply(rules, COLUMNS, TABLE, {"x": ROWS[:, :3]}, SALT) == ({}, ["x"])


@pytest.mark.parametrize("array", [np.array(["text"], object), np.zeros((4, 4), np.float32)])
def test_a_rule_that_cannot_be_applied_drops_the_field(array: Any) -> None:
    rules = policy(image=[{"do": "downscale", "side": 2}])
    assert privacy.apply(rules, PLAIN, IMAGE, {"image": array}, SALT) == ({}, ["image"])


def test_an_image_is_cut_made_small_and_blurred_in_its_own_layout() -> None:
    image = np.arange(3 * 32 * 48, dtype=np.uint32).reshape(1, 3, 32, 48).astype(np.uint8)
    rules = policy(image=[{"do": "crop", "right": 0.5}, {"do": "downscale", "side": 8}, {"do": "blur", "radius": 1}])
    kept, dropped = privacy.apply(rules, PLAIN, IMAGE, {"image": image}, SALT)
    found = values(kept["image"])
    assert (found.shape, found.dtype, dropped) == ((1, 3, 8, 6), np.uint8, [])
    last = np.moveaxis(image, 1, 3)
    spec = (TensorSpec(name="image", dtype="uint8", shape=[1, 32, 48, 3]),)
    other, _ = privacy.apply(rules, PLAIN, spec, {"image": last}, SALT)
    assert (np.moveaxis(values(other["image"]), 3, 1) == found).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_downscaling_keeps_the_mean_and_the_side(height: int, width: int, side: int) -> None:
    image = np.random.default_rng(height * width).random((1, 3, height, width), dtype=np.float32)
    spec = (TensorSpec(name="image", dtype="float32", shape=[1, 3, "h", "w"], layout="NCHW"),)
    rules = policy(image=[{"do": "downscale", "side": side}])
    found = values(privacy.apply(rules, PLAIN, spec, {"image": image}, SALT)[0]["image"])
    assert max(found.shape[2:]) <= side
    if (
        height % found.shape[2] == 0
        and width % found.shape[3] == 0
        and height // found.shape[2] == width // found.shape[3]
    ):
        assert np.allclose(found.mean(), image.mean(), atol=1e-4)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_a_blur_is_the_mean_of_the_square_around_each_pixel(height: int, width: int, radius: int) -> None:
    image = np.random.default_rng(7).random((1, 1, height, width), dtype=np.float32)
    spec = (TensorSpec(name="image", dtype="float32", shape=[1, 1, "h", "w"], layout="NCHW"),)
    rules = policy(image=[{"do": "blur", "radius": radius}])
    found = values(privacy.apply(rules, PLAIN, spec, {"image": image}, SALT)[0]["image"])
    padded = np.pad(image[0, 0], radius, mode="edge")
    size = 2 * radius + 1
    expected = [[padded[r : r + size, c : c + size].mean() for c in range(width)] for r in range(height)]
    assert np.allclose(found[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"fields": {"x": [{"do": "guess"}]}},
        {"fields": {"x": []}},
        {"fields": {"x": [{"do": "bin", "width": 0}]}},
        {"fields": {"x": [{"do": "bin"}]}},
        {"fields": {"x": [{"do": "blur", "radius": 0}]}},
        {"fields": {"x": [{"do": "downscale", "side": 0}]}},
        {"fields": {"x": [{"do": "crop", "left": 0.5, "right": 0.5}]}},
        {"fields": {"x": [{"do": "keep", "why": "?"}]}},
        {"low_confidence": 2},
        {"v": 2},
        {"rules": {}},
    ],
)
def test_a_bad_declaration_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        parse_privacy(json.dumps(bad).encode())


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(PrivacyError, match="agee"):
        privacy.check_against(policy(agee=[{"do": "drop"}]), COLUMNS, TABLE)
    privacy.check_against(policy(age=[{"do": "drop"}], x=[{"do": "keep"}]), COLUMNS, TABLE)
