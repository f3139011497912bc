"""The search for layers that int8 hurts: its order, its count, and what it finds in a model with one bad layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import helper, numpy_helper

from edgefleet_converters.check.distance import _two_best, distance
from edgefleet_converters.check.metrics import judge
from edgefleet_converters.errors import TransformError
from edgefleet_converters.layer_search import (
    JUDGED,
    PROBES,
    RANKED_RUNS,
    Block,
    Found,
    Harm,
    blocks_of,
    cuts_of,
    fewest,
    fewest_out,
    most_half,
    ranked,
    resolved,
    samples_to_rank,
)
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.onnx.sensitivity import Search, other_operators, regions
from edgefleet_converters.pareto import front
from edgefleet_converters.recipe import WEIGHTED, CandidateSpec
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


def harmful(**harms: float) -> Callable[[Sequence[tuple[str, ...]]], list[Block]]:
    """Return a measure in which the harms of layers add up; those that are not named do none."""
    return lambda groups: [Block(group, 0.0, sum(harms.get(name, 0.0) for name in group)) for group in groups]


def test_the_worst_layer_comes_first_and_equal_ones_keep_their_order() -> None:
    blocks = ranked(list("abcd"), harmful(a=0.1, b=0.2, c=0.1, d=0.3))
    assert [block.names for block in blocks] == [("d",), ("b",), ("a",), ("c",)]
    assert Block(("e",), -0.5, 0.3).size == 0.3, "what gains nothing hides no distance"


@pytest.mark.parametrize(
    ("layers", "probes", "lengths"),
    [(0, 8, []), (3, 8, [1, 1, 1]), (8, 8, [1] * 8), (9, 8, [2, 2, 2, 3]), (2000, 8, [500] * 4), (5, 1, [5])],
)
def test_a_model_of_many_layers_is_ranked_in_blocks(layers: int, probes: int, lengths: list[int]) -> None:
    names = [f"n{i}" for i in range(layers)]
    blocks = blocks_of(names, probes) if names else []
    assert [len(block) for block in blocks] == lengths
    assert [name for block in blocks for name in block] == names, "neighbours stay together"


@given(n=st.integers(1, 4000), probes=st.integers(1, PROBES), data=st.data())
def test_ranking_asks_so_many_times_whatever_the_number_of_layers(n: int, probes: int, data: st.DataObject) -> None:
    bad = data.draw(st.dictionaries(st.integers(0, n - 1), st.floats(0.001, 1.0), max_size=5))
    measure = harmful(**{f"n{i}": harm for i, harm in bad.items()})
    asked: list[tuple[str, ...]] = []

    def seen(groups: Sequence[tuple[str, ...]]) -> list[Block]:
        asked.extend(groups)
        return measure(groups)

    names = [f"n{i}" for i in range(n)]
    blocks = ranked(names, seen, probes)
    assert len(asked) <= probes
    assert sorted(name for block in blocks for name in block.names) == sorted(names), "each layer once"
    assert len(asked) * samples_to_rank(n, 10_000) <= RANKED_RUNS
    shares = [block.size / len(block.names) for block in blocks]
    assert shares == sorted(shares, reverse=True)
    assert ranked(names, measure, probes) == blocks


def test_one_bad_layer_of_two_thousand_is_found_and_leaves_alone() -> None:
    names = [f"n{i}" for i in range(2000)]
    blocks = ranked(names, harmful(n1234=0.5))
    assert blocks[0].names == ("n1234",)
    assert fewest_out(blocks, lambda k: k >= 1) == 1
    crashes = ranked(names, lambda groups: [Block(g, 1.0, 1e9 if "n77" in g else 0.0) for g in groups])
    assert crashes[0].names == ("n77",), "a layer that no runtime takes is searched in the same way"


@given(n=st.integers(65, 5000), wanted=st.integers(1, 5000))
def test_blocks_leave_whole_and_enough_of_them(n: int, wanted: int) -> None:
    blocks = ranked([f"n{i}" for i in range(n)], harmful(n3=1.0, n50=0.5, n64=0.25))
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= wanted

    out = fewest_out(blocks, holds)
    assert len(asked) <= JUDGED
    if wanted > n:
        assert out is None
    else:
        assert out in cuts_of(blocks)
        assert out >= wanted
        assert max((cut for cut in cuts_of(blocks) if cut < out), default=0) < wanted, "no block too many"


def test_no_more_leave_than_int8_is_worth() -> None:
    blocks = [Block(("a", "b"), 0.0, 1.0), Block(("c",), 0.0, 0.4), Block(("d", "e", "f"), 0.0, 0.1)]
    assert cuts_of(blocks) == [0, 2, 3, 6]
    assert cuts_of(blocks, 4) == [0, 2, 3, 4]
    assert fewest_out(blocks, lambda k: k >= 3, 4) == 3
    assert fewest_out(blocks, lambda _: False, 4) == 4, "that so many hold was known"
    assert [(h.name, h.distance, h.together) for h in blocks[0].layers()] == [("a", 0.5, 2), ("b", 0.5, 2)]


def test_many_layers_are_ranked_on_fewer_samples() -> None:
    assert samples_to_rank(1, 100) == 16
    assert samples_to_rank(64, 100) == 4
    assert samples_to_rank(64, 2) == 2
    assert samples_to_rank(2000, 100) == 4


def found(nodes: int, out: int, half: int = 0) -> Found:
    layers = tuple(Harm(f"n{i}", 0.0, 1.0 / (i + 1)) for i in range(nodes))
    return Found(tuple(Harm(f"w{i}", 0.0, 0.0) for i in range(3)), half, layers, out)


@given(elements=st.lists(st.integers(1, 1000), max_size=50), spare=st.integers(-10, 60_000))
def test_no_more_weights_get_16_bits_than_fit(elements: list[int], spare: int) -> None:
    most = most_half(elements, spare)
    assert most == -1 if spare < 0 else sum(elements[:most]) <= spare
    assert most == len(elements) or sum(elements[: most + 1]) > spare


def test_the_search_ends_early_where_only_a_large_model_holds() -> None:
    model, x = convolutions(seed=5), images(48)
    ready, calibration, _ = prepared(model, MIXED, samples_of(x))
    small = Search(ready, calibration, samples_of(x), MIXED, "mae", 1e-9, 10**9)
    with pytest.raises(TransformError, match="even with 16-bit weights"):
        small.run()
    seen: list[onnx.ModelProto] = []
    search = Search(ready, calibration, samples_of(x), MIXED, "mae", 1e-3, 100)
    search._static = lambda *_: seen.append(model) or model  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(TransformError, match="more than 100 bytes"):
        search.run()
    assert not seen, "no layer was tried in int8"


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
    outcome = Search(ready, calibration, samples_of(x), MIXED, "mae", 0.02, 10**9).run()
    taken = [harm.name for harm in outcome.nodes[: outcome.out]]
    assert "c2" in taken, "its input holds the one large channel"
    assert 1 <= outcome.out < 3
    made = candidate(ready, resolved(MIXED, outcome), calibration)
    assert judge("mae", {"y": answer(made, x)}, {"y": answer(model, x)}, {}).value <= 0.02
    again = Search(ready, calibration, samples_of(x), MIXED, "mae", 0.02, 10**9).run()
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
    assert report.bundles[0].bytes <= (rows["int8-static-equalised"].bytes or 0)


@pytest.mark.slow
def test_exploring_measures_every_candidate_and_changes_no_byte(tmp_path: Path) -> None:
    path = save(convolutions(), tmp_path)
    x = np.concatenate([images(60), images(60, seed=2)])
    data = {"calibration": samples(tmp_path, "c.npz", x=x[:60]), "eval": samples(tmp_path, "e.npz", x=x[60:])}
    brief, _ = run(path, tmp_path / "brief", data=data, metric="mae", max_drop=0.05)
    whole, events = run(path, tmp_path / "whole", data=data, metric="mae", max_drop=0.05, explore=True)
    assert whole.bundles[0].sha256 == brief.bundles[0].sha256
    tried = {row.id: row for row in brief.profiles[0].candidates if row.verdict != "not_tried"}
    rows = {row.id: row for row in whole.profiles[0].candidates}
    assert {row.verdict for row in rows.values()} <= {"passed", "rejected"}, "none is left untried"
    assert {row.id for row in brief.profiles[0].candidates} <= set(rows)
    assert len(tried) < len(rows)
    for name, row in tried.items():
        mine = rows[name]
        assert (mine.verdict, mine.bytes, mine.metric) == (row.verdict, row.bytes, row.metric), name
    passed = [row for row in rows.values() if row.verdict == "passed"]
    assert all(row.latency_ms and row.peak_rss_bytes and row.cold_start_ms for row in passed)
    assert rows["fp32"].verdict == "passed"
    exact = [row for row in passed if row.metric is not None and row.metric.drop <= 0]
    smallest = min(exact, key=lambda row: row.bytes or 0)
    assert any(row.pareto for row in exact), f"no other loses less than {smallest.id}"
    assert brief.bundles[0].candidate in rows
    told = [event for event in events if event.get("stage") == "gate"]
    assert len(told) >= len(rows), "the progress tells of each"


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(0, 3), (1, 1), (1, 2), (0, 3), (2, 0)]) == [True, True, False, True, True]


def test_distance_sees_what_a_metric_in_steps_cannot() -> None:
    scores = np.array([[0.1, 0.9, 0.0], [0.6, 0.4, 0.0]], np.float32)
    near, far = scores + 0.01, scores.copy()
    far[1, 0] = 0.45
    for name in ("agreement", "top1"):
        assert distance(name, {"y": near}, {"y": scores}) < distance(name, {"y": far}, {"y": scores})
    assert distance("mae", {"y": np.full_like(scores, np.nan)}, {"y": scores}) == float("inf")


@given(scores=arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(-2, 2)))
def test_the_two_best_are_those_of_a_stable_sort(scores: npt.NDArray[np.float32]) -> None:
    assert _two_best(scores).tolist() == np.argsort(-scores, axis=-1, kind="stable")[..., :2].tolist()


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
    conv, following = regions(model, ["conv", "next"])
    assert set(conv) == {"conv", "gate", "product"}
    assert following == ("next",)
    assert other_operators(model, MIXED) == ("Add", "Conv", "Mul", "Sigmoid")
    plain = model_of(nodes[:1], weights, {"x": ["N", 3, 8, 8]}, {"c": ["N", 3, 8, 8]})
    assert other_operators(plain, MIXED) == (), "nothing to widen the search by"
