"""The search for layers that int8 hurts: its order, its count, and what it finds in a model with one bad layer."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgefleet_converters.check.distance import distance
from edgefleet_converters.check.metrics import judge
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.onnx.sensitivity import Search, other_operators, region
from edgefleet_converters.pareto import front
from edgefleet_converters.recipe import WEIGHTED, CandidateSpec
from edgefleet_converters.sensitivity import JUDGED, Found, Harm, fewest, resolved, samples_to_rank, worst_first
from tests.converters.graphs import model_of, run, samples, save
from tests.converters.test_pipeline import opened
from tests.converters.test_quantize import answer, convolutions, images, samples_of

MIXED = CandidateSpec(
    id="int8-mixed", precision="int8", method="mixed", per_channel=True, op_types=WEIGHTED, weight_bits=8,
    correct_bias=True,
)  # fmt: skip
MIXED_STATIC = CandidateSpec(id="t", precision="int8", method="static", per_channel=True)


@given(n=st.integers(0, 2000), data=st.data())
def test_the_fewest_is_found_with_few_judgements(n: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, n))
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= wanted

    found = fewest(n, holds, judged=32)
    assert found == wanted
    assert len(asked) == len(set(asked)), "nothing is judged twice"
    assert len(asked) <= 2 * n.bit_length() + 3


@given(n=st.integers(1, 5000), wanted=st.integers(0, 5000), judged=st.integers(2, JUDGED))
def test_with_a_small_budget_the_result_still_holds(n: int, wanted: int, judged: int) -> None:
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= wanted

    found = fewest(n, holds, judged=judged)
    assert len(asked) <= judged
    assert found is None or (found in asked and found >= wanted)
    assert found is not None or wanted > n or n not in asked


def test_nothing_found_says_so() -> None:
    assert fewest(5, lambda _: False) is None


def test_the_worst_layer_comes_first_and_equal_ones_keep_their_order() -> None:
    harms = [Harm("a", 0.0, 0.1), Harm("b", 0.2, 0.0), Harm("c", 0.0, 0.1), Harm("d", -0.5, 0.3)]
    assert [harm.name for harm in worst_first(harms)] == ["d", "b", "a", "c"]


def test_many_layers_are_ranked_on_fewer_samples() -> None:
    assert samples_to_rank(1, 100) == 16
    assert samples_to_rank(64, 100) == 4
    assert samples_to_rank(64, 2) == 2


def found(nodes: int, out: int, half: int = 0) -> Found:
    layers = tuple(Harm(f"n{i}", 0.0, 1.0 / (i + 1)) for i in range(nodes))
    return Found(tuple(Harm(f"w{i}", 0.0, 0.0) for i in range(3)), half, layers, out)


def test_what_was_found_becomes_a_recipe_without_a_search() -> None:
    static = resolved(MIXED, found(8, 2, half=1))
    assert (static.method, static.precision, static.exclude) == ("static", "int8", ["n0", "n1"])
    assert static.weights_half == ["w0"]
    alone = resolved(MIXED, found(8, 7))
    assert (alone.method, alone.precision, alone.exclude) == ("weights", "int8-weights", [])


def test_the_next_choice_is_more_careful_until_there_is_none() -> None:
    steps = [found(8, 0, half=1)]
    while (step := steps[-1].further()) is not None:
        steps.append(step)
    assert [(step.out, step.half) for step in steps] == [(0, 1), (1, 2), (2, 3), (4, 3), (8, 3)]


def test_the_search_takes_out_the_layer_that_cannot_be_quantised() -> None:
    model, x = convolutions(seed=5), images(48)
    # One channel of the second layer's input is a thousand times larger than the others and is taken back by w2.
    tensors = {t.name: t for t in model.graph.initializer}
    w1, b1, w2 = (numpy_helper.to_array(tensors[name]).copy() for name in ("w1", "b1", "w2"))
    w1[3], b1[3], w2[:, 3] = w1[3] * 4096, b1[3] * 4096, w2[:, 3] / 4096
    for name, values in (("w1", w1), ("b1", b1), ("w2", w2)):
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    ready, calibration, _ = prepared(model, MIXED, samples_of(x))
    outcome = Search(ready, calibration, samples_of(x), MIXED, "mae", 0.02).run()
    taken = [harm.name for harm in outcome.nodes[: outcome.out]]
    assert "c2" in taken, "its input holds the one large channel"
    assert 1 <= outcome.out < 3
    made = candidate(ready, resolved(MIXED, outcome), calibration)
    assert judge("mae", {"y": answer(made, x)}, {"y": answer(model, x)}, {}).value <= 0.02
    again = Search(ready, calibration, samples_of(x), MIXED, "mae", 0.02).run()
    assert again == outcome, "no clock takes part"


@pytest.mark.slow
def test_a_model_that_static_int8_ruins_is_offered_mixed_and_its_recipe_repeats_it(tmp_path: Path) -> None:
    path = save(convolutions(seed=5), tmp_path)
    x = np.concatenate([images(60), images(60, seed=2)])
    data = {"calibration": samples(tmp_path, "c.npz", x=x[:60]), "eval": samples(tmp_path, "e.npz", x=x[60:])}
    recipe = tmp_path / "search.json"
    recipe.write_text(json.dumps({"candidates": [msgspec.to_builtins(MIXED)]}))
    report, _ = run(path, tmp_path / "a", data=data | {"recipe": str(recipe)}, metric="mae", max_drop=0.01)
    (row,) = report.bundles
    profile = report.profiles[0]
    assert row.candidate.startswith("int8-mixed")
    assert profile.layers
    assert profile.fp32 is not None
    assert profile.fp32.latency_ms is not None
    assert [c.pareto for c in profile.candidates if c.verdict == "passed"] == [True]
    repeat = tmp_path / "repeat.json"
    steps = opened(row.path).manifest.recipe.steps
    assert steps["candidates"][0]["method"] in ("static", "weights"), "a bundle carries the result, not the search"
    repeat.write_text(json.dumps(steps))
    again, _ = run(path, tmp_path / "b", data=data | {"recipe": str(repeat)}, metric="mae", max_drop=0.01)
    assert again.bundles[0].sha256 == row.sha256


@pytest.mark.slow
def test_a_quantised_model_goes_through_as_it_is(tmp_path: Path) -> None:
    x = images(60)
    plain = MIXED_STATIC
    ready, calibration, _ = prepared(convolutions(), plain, samples_of(x))
    made = candidate(ready, plain, calibration)
    data = {"calibration": samples(tmp_path, x=x)}
    report, _ = run(save(made, tmp_path), tmp_path / "out", data=data)
    (row,) = report.bundles
    assert (row.candidate, row.precision) == ("as-given", "int8")
    assert [c.id for c in report.profiles[0].candidates] == ["as-given"]
    assert report.profiles[0].fp32 is not None
    assert report.profiles[0].fp32.precision == "int8", "what was given is no float32 model"
    refused, _ = run(save(made, tmp_path), tmp_path / "fp16", data=data, precision="fp16")
    assert refused.refused[0].code == "convert.precision_unavailable"
    assert "quantised already" in refused.refused[0].reason
    named, _ = run(save(made, tmp_path), tmp_path / "fp32", data=data, precision="fp32")
    assert [row.code for row in named.refused] == ["convert.precision_unavailable"], "it is no float32 model"


@pytest.mark.slow
def test_uneven_channels_are_rescued_by_equalisation(tmp_path: Path) -> None:
    model, x = convolutions(spread=7), images(120)
    data = {"calibration": samples(tmp_path, x=x)}
    report, _ = run(save(model, tmp_path), tmp_path / "out", data=data, metric="mae", max_drop=0.02)
    rows = {row.id: row for row in report.profiles[0].candidates}
    assert rows["int8-static"].verdict == "rejected"
    assert rows["int8-static-equalised"].verdict == "passed"
    assert report.bundles[0].candidate == "int8-static-equalised"


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(0, 3), (1, 1), (1, 2), (0, 3), (2, 0)]) == [True, True, False, True, True]


def test_distance_sees_what_a_metric_in_steps_cannot() -> None:
    scores = np.array([[0.1, 0.9, 0.0], [0.6, 0.4, 0.0]], np.float32)
    near, far = scores + 0.01, scores.copy()
    far[1, 0] = 0.45
    for name in ("agreement", "top1"):
        assert distance(name, {"y": near}, {"y": scores}) < distance(name, {"y": far}, {"y": scores})
    assert distance("mae", {"y": np.full_like(scores, np.nan)}, {"y": scores}) == float("inf")


def test_distance_of_detectors_looks_at_scores_and_not_at_boxes() -> None:
    boxes = np.zeros((2, 6, 40), np.float32)
    boxes[:, :4] = 200
    boxes[:, 4, 3], boxes[:, 5, 7] = 0.9, 0.5
    moved, lost = boxes.copy(), boxes.copy()
    moved[:, :4] += 2
    lost[:, 4, 3] = 0.1
    assert distance("detection", {"y": moved}, {"y": boxes}) == 0
    assert distance("detection", {"y": lost}, {"y": boxes}) > 0.1
    assert judge("scores", {"y": lost}, {"y": boxes}, {}).value == pytest.approx(0.4)


def test_a_wide_search_carries_its_operators_and_regions() -> None:
    layers = tuple(Harm(f"n{i}", 0.0, 1.0) for i in range(8))
    regions = tuple((f"n{i}", f"act{i}") for i in range(8))
    wide = Found((), 0, layers, 2, ("Conv", "Mul"), regions)
    spec = resolved(MIXED, wide)
    assert (spec.method, spec.op_types, spec.head_float) == ("static", ["Conv", "Mul"], True)
    assert spec.exclude == ["act0", "act1", "n0", "n1"]
    assert resolved(MIXED, Found((), 0, layers, 7)).method == "weights"


def test_the_region_of_a_layer_is_its_activation_function() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Sigmoid", ["c"], ["s"], name="gate"),
        helper.make_node("Mul", ["c", "s"], ["a"], name="product"),
        helper.make_node("Conv", ["a", "w"], ["d"], name="next", pads=[1] * 4),
        helper.make_node("Add", ["a", "d"], ["y"], name="sum"),
    ]
    weights = {"w": np.ones((3, 3, 3, 3), np.float32)}
    model = model_of(nodes, weights, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]})
    assert set(region(model, "conv")) == {"conv", "gate", "product"}
    assert region(model, "next") == ("next",)
    assert other_operators(model, MIXED) == ("Add", "Conv", "Mul", "Sigmoid")
    plain = model_of(nodes[:1], weights, {"x": ["N", 3, 8, 8]}, {"c": ["N", 3, 8, 8]})
    assert other_operators(plain, MIXED) == (), "nothing to widen the search by"
