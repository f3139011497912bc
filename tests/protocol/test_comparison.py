"""Shadow figures add up, whatever way they are grouped; what no device can have counted is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.comparison import (
    MAX_DELTA_BUCKET,
    ShadowFigures,
    check_shadow,
    delta_bucket,
    delta_quantile,
    delta_value,
    iou_bucket,
    mean_overlap,
    merge_shadows,
    pack_counts,
    unpack_counts,
)
from edgefleet_protocol.sketch import LatencySketch

counts = st.integers(0, 1000)
histograms = st.dictionaries(st.integers(0, MAX_DELTA_BUCKET), st.integers(1, 50), max_size=6).map(pack_counts)
sketches = st.lists(st.floats(1e-6, 10), max_size=5).map(
    lambda values: LatencySketch.merged([LatencySketch()] + [_sketch(v) for v in values]).packed()
)


def _sketch(value: float) -> LatencySketch:
    one = LatencySketch()
    one.add(value)
    return one


figures = st.builds(
    ShadowFigures,
    offered=counts,
    dropped=counts,
    compared=counts,
    judged=counts,
    deltas=histograms,
    overlaps=st.just([]) | st.lists(counts, min_size=10, max_size=10),
    primary_latency=sketches,
)


@given(st.lists(figures, max_size=5), st.integers(0, 5))
def test_merging_does_not_depend_on_the_grouping(all_: list[ShadowFigures], cut: int) -> None:
    parts = [merge_shadows(all_[:cut]), merge_shadows(all_[cut:])]
    assert merge_shadows(parts) == merge_shadows(all_)
    check_shadow(merge_shadows(all_))


@given(st.floats(1.01e-6, 9e5))
def test_a_delta_is_found_again_within_its_half_octave(value: float) -> None:
    found = delta_quantile(pack_counts({delta_bucket(value): 1}), 0.5)
    assert found is not None
    assert value / 2**0.26 <= found <= value * 2**0.26


def test_edges_of_the_buckets() -> None:
    assert delta_bucket(0.0) == delta_bucket(-1.0) == 0
    assert delta_value(0) == 0.0
    assert delta_bucket(float("inf")) == delta_bucket(float("nan")) == delta_bucket(1e30) == MAX_DELTA_BUCKET
    assert (iou_bucket(0.0), iou_bucket(0.05), iou_bucket(1.0)) == (0, 0, 9)
    assert delta_quantile([], 0.5) is None
    assert mean_overlap([]) is None
    assert mean_overlap([0] * 9 + [4]) == pytest.approx(0.95)


@pytest.mark.parametrize(
    "bad",
    [
        ShadowFigures(judged=1, agreed=2),
        ShadowFigures(dropped=-1),
        ShadowFigures(deltas=[-1, 3]),
        ShadowFigures(deltas=[MAX_DELTA_BUCKET, 1, 1]),
        ShadowFigures(deltas=[0, -1]),
        ShadowFigures(overlaps=[1] * 11),
        ShadowFigures(overlaps=[-1]),
        ShadowFigures(primary_latency=[-4, 1]),
    ],
)
def test_what_no_device_counts_is_refused(bad: ShadowFigures) -> None:
    with pytest.raises(ValueError, match=r"range|agreed"):
        check_shadow(bad)


@given(st.dictionaries(st.integers(0, MAX_DELTA_BUCKET), st.integers(1, 50), max_size=6))
def test_packed_counts_come_back(counted: dict[int, int]) -> None:
    assert unpack_counts(pack_counts(counted)) == counted
