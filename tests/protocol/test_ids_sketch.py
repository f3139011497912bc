"""Ids have one grammar; the latency sketch adds up and keeps its error bound."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_profiles.profile import ProfileError, profile_from_dict
from edgefleet_protocol import ids
from edgefleet_protocol.digest import folder_sha256, parse_sha256, sha256_hex
from edgefleet_protocol.errors import BadIdError
from edgefleet_protocol.sketch import BOUNDS_S, LatencySketch


@pytest.mark.parametrize("name", ["root", "targets", "director", "", "A", "-a", "a" * 64, "a/b", "a b", "ä"])
def test_bad_model_names(name: str) -> None:
    with pytest.raises(BadIdError):
        ids.parse_model_name(name)


@pytest.mark.parametrize("ref", ["digits", "digits@", "@1", "a@b@c", "Digits@1", "../x@1"])
def test_bad_release_refs(ref: str) -> None:
    with pytest.raises(BadIdError):
        ids.ReleaseRef.parse(ref)


def test_release_and_target_round_trip() -> None:
    ref = ids.ReleaseRef.parse("digits@1.1.0+b.2")
    assert str(ref) == "digits@1.1.0+b.2"
    path = ids.target_path(ref.model, ref.version, ids.parse_profile_name("p-1"))
    assert ids.parse_target_path(path) == (ref.model, ref.version, "p-1")


@pytest.mark.parametrize("path", ["a/b", "a/b/c", "a/b/c/d.bundle", "../b/c.bundle", "a/b/C.bundle"])
def test_bad_target_paths(path: str) -> None:
    with pytest.raises(BadIdError):
        ids.parse_target_path(path)


@pytest.mark.parametrize("device", ["srv-1", "+", "a", "a/b", "d-A", "-abc"])
def test_bad_device_ids(device: str) -> None:
    with pytest.raises(BadIdError):
        ids.parse_device_id(device)


@pytest.mark.parametrize("text", ["", "AB" * 32, "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n"])
def test_bad_digests(text: str) -> None:
    with pytest.raises(BadIdError):
        parse_sha256(text)


def test_a_folder_is_named_by_its_paths_and_contents() -> None:
    a, b = ("a/x.bin", sha256_hex(b"1")), ("model.onnx", sha256_hex(b"2"))
    text = f"a/x.bin\0{a[1]}\nmodel.onnx\0{b[1]}\n"
    assert folder_sha256([b, a]) == folder_sha256([a, b]) == sha256_hex(text.encode())
    assert folder_sha256([a]) != folder_sha256([a, b])
    assert folder_sha256([("a/y.bin", a[1])]) != folder_sha256([a])


seconds = st.floats(2e-6, 100.0)


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_within_one_percent(values: list[float], q: float) -> None:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    rank = max(1, math.ceil(q * len(values)))
    exact = sorted(values)[rank - 1]
    got = sketch.quantile_s(q)
    assert got is not None
    assert abs(got - exact) <= 0.01 * exact


@given(st.lists(seconds, max_size=50), st.lists(seconds, max_size=50))
def test_merge_is_the_sketch_of_both_and_survives_the_wire(a: list[float], b: list[float]) -> None:
    both, one, two = LatencySketch(), LatencySketch(), LatencySketch()
    for value in a:
        one.add(value)
        both.add(value)
    for value in b:
        two.add(value)
        both.add(value)
    one.merge(two)
    assert one == both
    assert LatencySketch.unpacked(both.packed()) == both
    low = min(both.counts, default=0)
    dense = [both.counts.get(i, 0) for i in range(low, max(both.counts, default=-1) + 1)]
    assert LatencySketch.unpacked([low, *dense]) == both, "as agents of 0.1 tell it"


def test_one_slow_answer_takes_few_bytes() -> None:
    sketch = LatencySketch()
    for value in (1e-4, 1e-4, 1.02e-4, 2.0):
        sketch.add(value)
    assert sketch.packed() == [233, 2, 1, -498, 1]


@pytest.mark.parametrize("packed", [[-1, 1], [0, -1_402], [1_400, 1, 1], [1_400, -1, 1], [-1], [0, 1, -(2**60), 1]])
def test_a_bad_sketch_is_refused(packed: list[int]) -> None:
    with pytest.raises(ValueError, match="range"):
        LatencySketch.unpacked(packed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
def test_odd_latencies_are_counted_not_lost(value: float) -> None:
    sketch = LatencySketch()
    sketch.add(value)
    assert sketch.n == 1


def test_an_unknown_profile_key_is_refused() -> None:
    with pytest.raises(ProfileError, match="nonsense"):
        profile_from_dict({"name": "x", "nonsense": 1})


def test_a_sketch_becomes_a_histogram() -> None:
    found = LatencySketch()
    for value_s in (0.0005, 0.003, 0.003, 0.2, 99.0):
        found.add(value_s)
    by_bound = dict(zip((*BOUNDS_S, "inf"), found.up_to(), strict=True))
    assert [by_bound[one] for one in (0.001, 0.0025, 0.005, 0.1, 0.25, 10.0, "inf")] == [1, 1, 3, 3, 4, 4, 5]
