"""Layers leave int8 in order of loss removed for time lost, and come back where the model still holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgefleet_converters.layer_search import Block, Harm
from edgefleet_converters.onnx.layer_work import saved_by_layer
from edgefleet_converters.precision_ranking import RETURNS, brought_back, by_worth, time_saved
from tests.converters.graphs import model_of

HARMS = st.lists(st.just(0.0) | st.floats(1e-9, 1), max_size=24).map(
    lambda sizes: [Harm(f"n{i}", 0.0, s) for i, s in enumerate(sizes)]
)


def test_few_channels_save_little_time_in_int8() -> None:
    assert time_saved(1000, 3) == 0
    assert time_saved(1000, 16) == pytest.approx(250)
    assert time_saved(1000, 64) > 0.8 * 1000
    assert time_saved(1000, 0) == 0


def test_the_layer_that_costs_little_time_leaves_first() -> None:
    blocks = [Block(("slow",), 0.0, 0.4), Block(("quick",), 0.0, 0.3), Block(("harmless",), 0.0, 0.001)]
    saved = {"slow": 100.0, "quick": 10.0, "harmless": 1.0}
    assert [b.names[0] for b in by_worth(blocks, saved)] == ["quick", "slow", "harmless"]
    assert [b.names[0] for b in by_worth(blocks, {"slow": 1.0})] == ["slow", "quick", "harmless"], "by harm alone"
    assert [b.names[0] for b in by_worth(blocks, {})] == ["slow", "quick", "harmless"]


def test_a_block_counts_with_all_its_layers() -> None:
    blocks = [Block(("a", "b"), 0.0, 0.4), Block(("c",), 0.0, 0.25)]
    assert by_worth(blocks, {"a": 10.0, "b": 90.0, "c": 10.0})[0].names == ("c",), "the block would lose much time"
    assert by_worth(blocks, {"a": 5.0, "b": 5.0, "c": 10.0})[0].names == ("a", "b")
    assert by_worth(blocks, {})[0].names == ("c",), "by the harm of each layer"


@given(harms=HARMS, work=st.floats(1, 1e9))
def test_among_equal_layers_the_order_is_that_of_the_harm(harms: list[Harm], work: float) -> None:
    blocks = [Block((harm.name,), harm.drop, harm.distance) for harm in harms]
    sizes = [block.size**2 for block in by_worth(blocks, dict.fromkeys((harm.name for harm in harms), work))]
    assert sizes == sorted(sizes, reverse=True)


@given(harms=HARMS, data=st.data(), judged=st.integers(0, 40))
def test_what_must_stay_out_stays_and_what_holds_comes_back(
    harms: list[Harm], data: st.DataObject, judged: int
) -> None:
    names = [harm.name for harm in harms]
    needed = set(data.draw(st.lists(st.sampled_from(names), unique=True))) if names else set()
    asked: list[Sequence[str]] = []

    def holds(out: Sequence[str]) -> bool:
        asked.append(out)
        return needed <= set(out)

    nodes, out = brought_back(harms, len(harms), dict.fromkeys(names, 1.0), holds, judged=judged)
    kept = nodes[:out]
    assert sorted(nodes, key=harms.index) == harms, "each layer once"
    assert nodes[out:] == [harm for harm in harms if harm not in kept]
    assert needed <= {harm.name for harm in kept}, "the result holds"
    assert kept == [harm for harm in harms if harm in kept], "in their order"
    assert len(asked) <= judged
    enough = 2 * len(names) + len(names) * len(names).bit_length()
    if judged >= enough:
        assert {harm.name for harm in kept} == needed
    assert RETURNS < 16, "the search has its own budget beside this"


def test_a_layer_that_saves_nothing_is_not_brought_back() -> None:
    harms = [Harm("first", 0.0, 1.0), Harm("second", 0.0, 0.5)]
    assert brought_back(harms, 2, {"first": 0.0, "second": 5.0}, lambda out: True) == (harms, 1)
    assert brought_back(harms, 0, {"first": 5.0, "second": 5.0}, lambda out: True) == (harms, 0), "none was taken out"


def test_work_is_counted_from_stated_shapes() -> None:
    tensors = {
        "w": np.ones((32, 16, 3, 3), np.float32), "t": np.ones((32, 8, 2, 2), np.float32), "m": np.ones((8, 6), np.float32),
        "d": np.ones((16, 1, 3, 3), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("ConvTranspose", ["c", "t"], ["u"], name="up", strides=[2, 2]),
        helper.make_node("Transpose", ["u"], ["v"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["v", "m"], ["y"], name="product"),
        helper.make_node("Conv", ["hidden", "w"], ["z"], name="unknown"),
        helper.make_node("Conv", ["x", "d"], ["e"], name="depthwise", pads=[1] * 4, group=16),
    ]
    model = model_of(nodes, tensors, {"x": ["N", 16, 4, 4]}, {"y": ["N", 8, 8, 6]})
    for name, shape in (("c", [1, 32, 4, 4]), ("u", [1, 8, 8, 8]), ("v", [1, 8, 8, 8]), ("e", [1, 16, 4, 4])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, shape))
    assert saved_by_layer(model) == {
        "conv": time_saved(32 * 16 * 16 * 9, 16),
        "up": time_saved(32 * 16 * 8 * 4, 32),
        "product": time_saved(64 * 6 * 8, 8),
        "depthwise": 16 * 16 * 9,
    }
