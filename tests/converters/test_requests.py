"""Requests and recipes: what is refused before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgefleet_profiles
from edgefleet_converters import errors
from edgefleet_converters.recipe import FP32, Recipe, default_recipe, load_recipe
from edgefleet_converters.request import parse_request
from edgefleet_profiles.profile import profile_to_dict

GOOD: dict[str, Any] = {
    "v": 1, "model": "digits", "version": "1.0.0", "source": {"path": "m.onnx"},
    "profiles": [profile_to_dict(edgefleet_profiles.load("generic-x86_64-ort"))], "out_dir": "out",
}  # fmt: skip


def test_a_minimal_request_takes_the_defaults() -> None:
    request = parse_request(GOOD)
    assert (request.model, request.version) == ("digits", "1.0.0")
    assert (request.options.precision, request.options.max_drop, request.options.seed) == ("auto", 0.01, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"v": 2}, r"\$\.v"),
        ({"model": "Digits"}, "model name"),
        ({"model": "root"}, "reserved"),
        ({"version": "a b"}, "version"),
        ({"profiles": []}, "no profile"),
        ({"profiles": [{"name": "x"}]}, "hardware profile"),
        ({"profiles": GOOD["profiles"] * 2}, "same name"),
        ({"options": {"precision": "int4"}}, "precision"),
        ({"options": {"max_drop": 2}}, "between 0 and 1"),
        ({"options": {"speed": 1}}, "speed"),
        ({"options": {"shapes": {"x": [1, 0]}}}, "at least 1"),
        ({"options": {"shapes": {"x": "1,2"}}}, "shapes"),
        ({"options": {"values": {"sr": "fast"}}}, "values"),
        ({"data": {"calibration": 1}}, "calibration"),
        ({"source": {}}, "path"),
    ],
)
def test_a_wrong_request_names_the_key(change: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.BadRequestError, match=told):
        parse_request(GOOD | change)


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_anything_else_is_no_request(document: Any) -> None:
    with pytest.raises(errors.BadRequestError):
        parse_request(document)


def test_recipes_follow_the_profile_and_survive_their_file(tmp_path: Path) -> None:
    import yaml

    x86 = default_recipe(edgefleet_profiles.load("generic-x86_64-ort"), seed=3)
    arm = default_recipe(edgefleet_profiles.load("generic-aarch64-ort"), seed=3)
    assert x86.candidates[0].act_dtype == "uint8"
    assert x86.candidates[0].reduce_range, "8-bit products saturate on x86 without VNNI"
    assert arm.candidates[0].act_dtype == "int8"
    assert not arm.candidates[0].reduce_range
    assert x86.candidates[-1] == FP32
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(x86.to_data()))
    assert load_recipe(path) == x86
    assert load_recipe(path).sha256 == x86.sha256 != arm.sha256


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("candidates: []", "at least one"),
        ("candidates: [{id: a, precision: fp32, method: magic}]", "method"),
        (
            "candidates: [{id: a, precision: fp32, method: none}, {id: a, precision: fp32, method: none}]",
            "id of its own",
        ),
        ("candidates: [{id: a, precision: fp32, method: none}]\ngolden_vectors: 3", "golden_vectors"),
        ("{", "cannot read"),
        ("wish: fast", "not valid"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(errors.RecipeError, match=told):
        load_recipe(path)


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.RecipeError, match="cannot read"):
        load_recipe(tmp_path / "none.yaml")


def test_the_seed_changes_the_digest() -> None:
    assert Recipe(candidates=[FP32], seed=0).sha256 != Recipe(candidates=[FP32], seed=1).sha256
