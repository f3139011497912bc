"""Figures of costs: totals are the sums of their parts, money is linear in prices, and what nobody measured is not claimed."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.costing import price_list, rules
from edgefleet_server.costing.errors import BadPricesError, CostSpanError
from edgefleet_server.costing.model import (
    Blob,
    Candidate,
    Choice,
    CostBy,
    CostFacts,
    CostLine,
    CostMoney,
    Devices,
    GroupPrice,
    Kind,
    Prices,
    Running,
    Stored,
    Traffic,
)
from edgefleet_server.costing.service import span_of
from tests.server.fleet.house import START

MODELS = ("digits", "pump", "(other)")
GROUPS = ("hall", "mobile", "yard")
BUNDLES = ("a" * 64, "b" * 64)
counts = st.integers(0, 10**12)
prices_of = st.one_of(st.none(), st.floats(0, 1000))
sets = st.lists(st.sampled_from(GROUPS), unique=True, max_size=3).map(lambda names: tuple(sorted(names)))
traffic = st.builds(
    lambda model, kind, bundle, groups, size, n: Traffic(
        model, kind, bundle if kind is Kind.BUNDLE else "", groups, size, n
    ),
    st.sampled_from(MODELS), st.sampled_from(Kind), st.sampled_from(BUNDLES), sets, counts, st.integers(0, 10**6),
)  # fmt: skip
running = st.builds(
    Running, st.sampled_from(MODELS), st.sampled_from(BUNDLES), st.none(), counts, counts, st.integers(0, 10**6)
)
stored = st.builds(Stored, counts, counts, counts, counts)
facts_of = st.builds(
    CostFacts,
    seconds=st.floats(3600, 10**7),
    traffic=st.lists(traffic, max_size=12).map(tuple),
    running=st.lists(running, max_size=6).map(tuple),
    joules=st.dictionaries(st.sampled_from(BUNDLES), st.floats(0, 100)),
    conversion_s=st.dictionaries(st.sampled_from(MODELS), st.floats(0, 10**6)),
    stored=st.dictionaries(st.sampled_from(MODELS), stored),
    devices=st.dictionaries(st.sampled_from(MODELS), st.builds(Devices, st.integers(0, 99), st.integers(0, 9))),
)
price_lists = st.builds(
    Prices, st.just("EUR"), prices_of, prices_of, prices_of, prices_of, prices_of, prices_of,
    st.lists(st.builds(GroupPrice, st.sampled_from(GROUPS), prices_of, prices_of), unique_by=lambda one: one.group, max_size=3).map(tuple),
)  # fmt: skip
UNITS = [one.name for one in fields(CostLine) if one.name not in {"name", "money"}]
PARTS = [one.name for one in fields(CostMoney)]


@given(facts_of, price_lists)
def test_the_total_of_models_is_the_sum_of_the_lines(facts: CostFacts, prices: Prices) -> None:
    lines, total = rules.by_model(facts, prices), rules.total_of(facts, prices)
    for name in UNITS:
        parts = [one for line in lines if (one := getattr(line, name)) is not None]
        assert (getattr(total, name) or 0) == pytest.approx(sum(parts)), name
    for name in PARTS:
        parts = [one for line in lines if (one := getattr(line.money, name)) is not None]
        assert (getattr(total.money, name) or 0) == pytest.approx(sum(parts)), name


def _times(prices: Prices, factor: float) -> Prices:
    def many(price: float | None) -> float | None:
        return None if price is None else price * factor

    return Prices(
        currency=prices.currency,
        down_gb=many(prices.down_gb),
        up_gb=many(prices.up_gb),
        device_hour=many(prices.device_hour),
        kwh=many(prices.kwh),
        conversion_hour=many(prices.conversion_hour),
        stored_gb_month=many(prices.stored_gb_month),
        groups=tuple(GroupPrice(one.group, many(one.down_gb), many(one.up_gb)) for one in prices.groups),
    )


@given(facts_of, price_lists, st.floats(0, 100))
def test_money_is_linear_in_prices(facts: CostFacts, prices: Prices, factor: float) -> None:
    once, often = rules.total_of(facts, prices).money, rules.total_of(facts, _times(prices, factor)).money
    assert once is not None
    assert often is not None
    for name in [one for one in PARTS if one != "unpriced_bytes"]:
        before, after = getattr(once, name), getattr(often, name)
        assert (before is None) == (after is None)
        assert after is None or after == pytest.approx(before * factor)


@given(facts_of, price_lists)
def test_groups_overlap_and_the_total_counts_each_byte_once(facts: CostFacts, prices: Prices) -> None:
    lines, total = rules.by_group(facts, prices), rules.total_of(facts, prices)
    assert total.down_bytes + total.up_bytes == sum(one.bytes for one in facts.traffic)
    of_groups = sum(line.down_bytes + line.up_bytes for line in lines)
    assert of_groups == sum(one.bytes * max(1, len(one.groups)) for one in facts.traffic)
    assert all(line.stored_bytes is line.conversion_s is line.devices is None for line in lines)


@given(facts_of, price_lists, st.sampled_from(GROUPS))
def test_models_of_one_group_add_up_to_the_line_of_the_group(facts: CostFacts, prices: Prices, group: str) -> None:
    lines, total = rules.by_model(facts, prices, group), rules.total_of(facts, prices, group)
    assert sum(one.up_bytes for one in lines) == total.up_bytes
    assert [one.up_bytes for one in rules.by_group(facts, prices, group)] == ([total.up_bytes] if lines else [])


def test_a_device_pays_the_price_of_the_first_group_that_has_one() -> None:
    groups = (GroupPrice("mobile", down_gb=4.0), GroupPrice("hall", down_gb=1.0, up_gb=2.0))
    prices = Prices("EUR", down_gb=0.1, up_gb=0.2, groups=groups)
    assert rules.down_price(prices, ("hall", "mobile")) == 4.0
    assert rules.up_price(prices, ("hall", "mobile")) == 2.0
    assert (rules.down_price(prices, ()), rules.up_price(prices, ("mobile",))) == (0.1, 0.2)


def test_what_nobody_measured_costs_nothing_that_is_claimed() -> None:
    facts = CostFacts(3600, running=(Running("digits", BUNDLES[0], None, 7200, 100, 8),))
    line = rules.by_model(facts, Prices("EUR", kwh=0.3, device_hour=2))[0]
    assert (line.joules, line.measured_answers, line.answers, line.device_hours) == (None, 0, 100, 2.0)
    assert line.money is not None
    assert (line.money.energy, line.money.device_hours, line.money.total) == (None, 4.0, 4.0)
    known = rules.by_model(replace(facts, joules={BUNDLES[0]: 36_000.0}), Prices("EUR", kwh=0.3))[0]
    assert known.money is not None
    assert known.joules == 3_600_000.0
    assert known.money.energy == pytest.approx(0.3)


def test_bytes_without_a_price_are_named() -> None:
    came = (
        Traffic("digits", Kind.TELEMETRY, "", ("mobile",), 10**9, 1),
        Traffic("digits", Kind.TELEMETRY, "", (), 30, 1),
        Traffic("digits", Kind.BUNDLE, "", (), 4, 1),
    )
    line = rules.by_model(CostFacts(1, came), Prices("EUR", groups=(GroupPrice("mobile", up_gb=4.0),)))[0]
    assert line.money is not None
    assert (line.money.down, line.money.up, line.money.total, line.money.unpriced_bytes) == (None, 4.0, 4.0, 34)


def test_a_blob_of_two_models_counts_for_one() -> None:
    blobs = [Blob("a", "pump", 10, True), Blob("a", "digits", 10, True), Blob("b", "pump", 5, False)]
    found = rules.stored_of(blobs, {"pump": 7}, {"late": 1})
    assert found == {"digits": Stored(sources=10), "late": Stored(captures=1), "pump": Stored(5, 0, 7)}


def test_a_smaller_bundle_saves_its_share_of_what_was_sent() -> None:
    taken = Candidate("fp32", 4000, 0.0)
    choice = Choice("digits@1.0.0", "board", taken, (Candidate("int8", 1000, 0.004), Candidate("fp16", 2000, 0.0)))
    sent = (
        Traffic("digits", Kind.BUNDLE, BUNDLES[0], (), 8 * 10**9, 9),
        Traffic("digits", Kind.BUNDLE, BUNDLES[0], ("mobile",), 4 * 10**9, 9),
        Traffic("digits", Kind.BUNDLE, BUNDLES[1], (), 10**9, 9),
    )
    facts = CostFacts(1, sent, choices={BUNDLES[0]: choice, BUNDLES[1]: replace(choice, others=())})
    prices = Prices("EUR", down_gb=1.0, groups=(GroupPrice("mobile", down_gb=10.0),))
    (found,) = rules.smaller_bundles(facts, prices)
    assert (found.smaller, found.sent_bytes, found.saved_bytes, found.drop) == ("int8", 12 * 10**9, 9 * 10**9, 0.004)
    assert found.saved == pytest.approx(0.75 * (8 + 40))
    assert "12,000,000,000 bytes sent × (1 - 1,000 / 4,000)" in found.how
    assert rules.smaller_bundles(facts, None)[0].saved is None


def test_longer_windows_save_at_most_all_but_one_of_so_many() -> None:
    came = (Traffic("digits", Kind.TELEMETRY, "", (), 40_000, 100),)
    facts = CostFacts(1, came, (Running("digits", BUNDLES[0], None, 90_000, 5, 100),))
    two, four = rules.longer_windows(facts, Prices("EUR", up_gb=100.0))
    assert (two.times, two.saved_bytes, two.window_s, two.window_bytes) == (2, 20_000, 900.0, 400.0)
    assert (four.times, four.saved_bytes) == (4, 30_000)
    assert four.saved == pytest.approx(30_000 / 1e9 * 100)
    assert "the most that is saved" in four.how
    assert rules.longer_windows(CostFacts(1), None) == []


def test_a_price_file_reads_back_as_it_was() -> None:
    document = {"currency": "EUR", "down_gb": 1, "kwh": 0.3, "groups": [{"group": "mobile", "up_gb": 4}]}
    prices = price_list.parsed(document)
    assert (prices.down_gb, prices.up_gb, prices.groups) == (1.0, None, (GroupPrice("mobile", None, 4.0),))
    assert price_list.parsed(price_list.document_of(prices)) == prices


@pytest.mark.parametrize(
    ("document", "path", "says"),
    [
        ([], "$", "expected fields"),
        ({"down_gb": 1}, "$.currency", "it is missing"),
        ({"currency": "euro", "down_gb": 1}, "$.currency", "found euro"),
        ({"currency": "EUR"}, "$", "it has no price"),
        ({"currency": "EUR", "down_gb": "1"}, "$.down_gb", "found 1"),
        ({"currency": "EUR", "up_gb": True}, "$.up_gb", "a number from 0"),
        ({"currency": "EUR", "kwh": -1}, "$.kwh", "of a kilowatt-hour"),
        ({"currency": "EUR", "kwh": float("nan")}, "$.kwh", "found nan"),
        ({"currency": "EUR", "down": 1}, "$.down", "did you mean down_gb?"),
        ({"currency": "EUR", "groups": {}}, "$.groups", "expected a list"),
        ({"currency": "EUR", "groups": [1]}, "$.groups[0]", "such as `group: mobile`"),
        ({"currency": "EUR", "groups": [{"group": "No no", "up_gb": 1}]}, "$.groups[0].group", "the name of a group"),
        ({"currency": "EUR", "groups": [{"group": "a", "up_gb": 1}] * 2}, "$.groups[1].group", "listed twice"),
        ({"currency": "EUR", "groups": [{"group": "a"}]}, "$.groups[0]", "it has no price"),
    ],
)
def test_mistakes_in_a_price_file_name_their_place(document: Any, path: str, says: str) -> None:
    with pytest.raises(BadPricesError) as raised:
        price_list.parsed(document)
    assert says in next(one["message"] for one in raised.value.errors if one["path"] == path)


def test_a_span_is_of_whole_hours_or_days() -> None:
    begin, end, scale = span_of(START + timedelta(minutes=20), START - timedelta(hours=5), None)
    assert (begin, end, scale) == (START - timedelta(hours=5), START + timedelta(minutes=20), 3600)
    begin, end, scale = span_of(START, None, None)
    assert (begin, end, scale) == (START.replace(hour=0) - timedelta(days=30), START, 86_400)
    with pytest.raises(CostSpanError):
        span_of(START, START, None)
    with pytest.raises(CostSpanError):
        span_of(START, None, START - timedelta(days=2000))


def test_lines_are_by_model_unless_groups_are_asked_for() -> None:
    facts = CostFacts(1, (Traffic("digits", Kind.CAPTURES, "", ("hall",), 5, 1),))
    assert [one.name for one in rules.lines_of(facts, None, CostBy.MODEL)] == ["digits"]
    assert [one.name for one in rules.lines_of(facts, None, CostBy.GROUP)] == ["hall"]
