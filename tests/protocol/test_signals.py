"""Sums of signals: they add up exactly, their wire form says just them, and nothing else is taken for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.drift import histogram, reference
from edgefleet_protocol.drift.histogram import SignalSums, merged, merged_windows, pack, unpack
from edgefleet_protocol.drift.reference import BadReferenceError, Confidence, Reference, Signal
from tests.support.samples import SIGNALS

EDGES = (-1.0, 0.0, 0.5, 2.0)
values = st.lists(st.floats(-2_000, 2_000) | st.just(math.nan), max_size=40)


def counted(seen: Sequence[float]) -> SignalSums:
    """Return the sums of values as the rules of the module say, one by one."""
    bins = [0] * (len(EDGES) + 1)
    sums = SignalSums(tuple(bins))
    for value in seen:
        if math.isnan(value):
            one = SignalSums(sums.bins[:0] + (0,) * len(bins), missing=1)
        else:
            z = max(-histogram.MAX_Z, min(histogram.MAX_Z, value))
            place = sum(value >= edge for edge in EDGES)
            one = SignalSums(
                tuple(int(i == place) for i in range(len(bins))),
                beyond=int(abs(value) > 5),
                total=round(z * histogram.Z_PARTS),
                squares=round(z * z * histogram.Z_PARTS),
                low=round(z * histogram.EXTREME_PARTS),
                high=round(z * histogram.EXTREME_PARTS),
            )
        sums = merged([sums, one])
    return sums


windows = st.lists(values.map(counted), min_size=1, max_size=6)


@given(values, values)
def test_two_windows_added_say_the_same_as_one_over_both(first: list[float], second: list[float]) -> None:
    assert merged([counted(first), counted(second)]) == counted([*first, *second])
    assert merged([counted(second), counted(first)]) == counted([*first, *second])


@given(windows)
def test_the_wire_form_says_just_the_signals(signals: list[SignalSums]) -> None:
    assert unpack(pack(signals)) == signals
    assert unpack(pack(merged_windows([signals, signals, signals]))) == merged_windows([signals] * 3)


@given(windows, st.data())
def test_a_changed_wire_form_says_something_else_or_is_refused(signals: list[SignalSums], data: st.DataObject) -> None:
    wire = bytearray(pack(signals))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] = data.draw(st.integers(0, 255))
    try:
        found = unpack(bytes(wire))
    except ValueError:
        return
    assert pack(found) == bytes(wire)


@given(st.binary(max_size=80))
def test_any_bytes_are_signals_or_refused(noise: bytes) -> None:
    try:
        found = unpack(b"\2" + noise)
    except ValueError:
        return
    assert pack(found) == b"\2" + noise
    for one in found:
        assert max(one.n, one.missing, abs(one.total), one.squares) < 2**63
        assert math.isfinite(one.mean_z + one.std_z)


FULL = SignalSums((3, 4), total=90, squares=700, low=-8, high=16)


@pytest.mark.parametrize(
    "wrong",
    [
        SignalSums((8, -1), total=90, squares=700),
        SignalSums((3, 4), total=90, squares=-1),
        SignalSums((3, 4), total=7 * 64_000 + 1, squares=700),
        SignalSums((3, 4), squares=7 * 64_000_000 + 1),
        SignalSums((3, 4), beyond=8),
        SignalSums((3, 4), low=9, high=8),
        SignalSums((3, 4), high=8_001),
        SignalSums((3, 4), low=-8_001),
        SignalSums((2**36, 1)),
        SignalSums((0, 0), missing=2**36 + 1),
        SignalSums((3, 4), missing=2**36 + 1),
        SignalSums((1,) * 65),
    ],
)
def test_what_nobody_can_have_counted_is_refused(wrong: SignalSums) -> None:
    with pytest.raises(ValueError, match=r"cannot be|bins"):
        unpack(pack([FULL, wrong]))


def test_no_more_signals_are_read_than_a_reference_may_have() -> None:
    assert len(unpack(pack([SignalSums((0,))] * 256))) == 256
    with pytest.raises(ValueError, match="more than 256"):
        unpack(pack([SignalSums((0,))] * 257))


@pytest.mark.parametrize("cut", range(1, len(pack(SIGNALS))))
def test_a_cut_wire_form_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="signals"):
        unpack(pack(SIGNALS)[:cut])


def test_nothing_may_follow() -> None:
    with pytest.raises(ValueError, match="followed"):
        unpack(pack(SIGNALS) + b"\0")


def test_another_form_and_no_signals() -> None:
    assert unpack(b"") == []
    assert pack([]) == b""
    with pytest.raises(ValueError, match="form 1"):
        unpack(b"\1")


def test_different_bins_are_never_added() -> None:
    with pytest.raises(ValueError, match="bins"):
        merged([SignalSums((1, 2)), SignalSums((1, 2, 3))])
    with pytest.raises(ValueError, match="signals"):
        merged_windows([[SignalSums((1, 2))], []])


@pytest.mark.parametrize(("n", "most"), [(60, 10.5), (900, 14.5), (9_000, 18.5)])
def test_a_normal_signal_takes_few_bytes(n: int, most: float) -> None:
    draw = np.random.default_rng(7)
    edges = NormalDist().inv_cdf
    signals = []
    for _ in range(100):
        z = draw.normal(size=n)
        bins = np.bincount(np.searchsorted([edges(i / 10) for i in range(1, 10)], z), minlength=10)
        total, squares = int(np.rint(z * 64).sum()), int(np.rint(z * z * 64).sum())
        signals.append(SignalSums(tuple(bins.tolist()), 0, 0, total, squares, round(z.min() * 8), round(z.max() * 8)))
    assert len(pack(signals)) <= len(signals) * most


def signal(**changed: object) -> Signal:
    fields = {"name": "x", "std": 1.0, "edges": [1.0, 2.0], "counts": [1, 2, 3]} | changed
    return Signal(**fields)  # type: ignore[arg-type]  # what is wrong on purpose


@pytest.mark.parametrize(
    "wrong",
    [
        signal(edges=[2.0, 1.0]),
        signal(edges=[1.0, 1.0]),
        signal(edges=[1.0, math.nan]),
        signal(counts=[1, 2]),
        signal(counts=[1, 2, -3]),
        signal(missing=-1),
        signal(std=-1.0),
        signal(std=math.nan),
        signal(std=math.inf),
        signal(mean=math.nan),
        signal(edges=[math.nan], counts=[1, 2]),
        signal(edges=[1.0, math.inf]),
        signal(kind="categorical", values=[math.nan], counts=[1, 2]),
        signal(edges=[float(i) for i in range(64)], counts=[1] * 65),
    ],
)
def test_a_reference_that_cannot_be_counted_by_is_refused(wrong: Signal) -> None:
    with pytest.raises(BadReferenceError):
        reference.read_reference(reference.write_reference(Reference(n=6, features=[signal(), wrong])))


def test_the_basis_names_the_bins_and_nothing_else() -> None:
    known = Reference(n=6, features=[signal()], confidence=Confidence([0.5], [1, 5]))
    same = Reference(n=9, features=[signal(counts=[4, 4, 1], high=9.0)], confidence=Confidence([0.5], [9, 0]))
    assert reference.basis_of(known) == reference.basis_of(same)
    others = [
        Reference(n=6, features=[signal(edges=[1.0, 2.5])], confidence=Confidence([0.5], [1, 5])),
        Reference(n=6, features=[signal(mean=0.5)], confidence=Confidence([0.5], [1, 5])),
        Reference(n=6, features=[signal()]),
    ]
    assert len({reference.basis_of(one) for one in [known, *others]}) == 4
