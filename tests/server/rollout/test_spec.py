"""The spec of a rollout: everything wrong is told at once, with its place; the normal form reads back as the same spec."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.model import (
    DeviceTerms,
    GateKind,
    Gates,
    Inconclusive,
    InstallGate,
    OnFail,
    Promote,
    Size,
    Spec,
    StageSpec,
    WebhookGate,
)
from edgefleet_server.rollout.spec.parser import dump_document, dump_spec, parse_spec, size_text
from edgefleet_server.rollout.spec.parts import duration_text
from tests.house.pages import blocks
from tests.house.tree import ROOT
from tests.server.rollout.corpus import accepted, refused

BASE: dict[str, Any] = {"release": "digits@1.1.0", "selector": "demo=yes"}
ALL: dict[str, Any] = {"name": "rest", "size": {"percent": 100}}


def errors_of(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(document)
    return [(error["path"], error["message"]) for error in caught.value.errors]


def with_stages(*stages: Any) -> dict[str, Any]:
    return {**BASE, "stages": list(stages)}


def with_size(**size: Any) -> dict[str, Any]:
    return with_stages({"name": "canary", "size": size}, ALL)


def test_the_shortest_spec_gets_the_documented_defaults() -> None:
    assert parse_spec(BASE) == Spec(
        release="digits@1.1.0",
        selector="demo=yes",
        stages=(
            StageSpec("canary", Size(percent=5, min=2), timedelta(minutes=10), Promote.AUTO),
            StageSpec("half", Size(percent=50), timedelta(minutes=10), Promote.AUTO),
            StageSpec("rest", Size(percent=100), timedelta(0), Promote.AUTO),
        ),
        device=DeviceTerms(timedelta(hours=72), timedelta(hours=6), timedelta(minutes=10), timedelta(minutes=30)),
        gates=Gates(InstallGate(0.03, 0.05, 0.01, 0.05)),
        on_fail=OnFail.ROLLBACK,
        on_inconclusive=Inconclusive(timedelta(hours=48), OnFail.PAUSE),
    )


def test_stages_without_name_soak_and_promote_get_theirs() -> None:
    spec = parse_spec({**with_stages({"size": {"count": 2}}, {"size": {"percent": 100}}), "promote": "all_healthy"})
    assert [(s.name, s.soak, s.promote) for s in spec.stages] == [
        ("stage-1", timedelta(minutes=10), Promote.ALL_HEALTHY),
        ("stage-2", timedelta(0), Promote.ALL_HEALTHY),
    ]


def test_a_whole_document_is_read_like_its_spec() -> None:
    document = {"apiVersion": "edgefleet/v1", "kind": "Rollout", "metadata": {"name": "digits-1-1-0"}, "spec": BASE}
    assert parse_spec(document).name == "digits-1-1-0"
    assert dump_spec(parse_spec(document)) == dump_spec(parse_spec(BASE))


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        (None, "$", "expected an object"),
        ([], "$", "got a list"),
        ("release: x", "$", "expected an object"),
        ({}, "$.release", "is missing"),
        ({"release": "digits@1"}, "$.selector", "'' means every device"),
        ({**BASE, "release": "digits"}, "$.release", "model@version"),
        ({**BASE, "release": 3}, "$.release", "expected text, got 3"),
        ({**BASE, "selector": "a in"}, "$.selector", "not valid"),
        ({**BASE, "selector": None}, "$.selector", "got nothing"),
        ({**BASE, "selecter": "x"}, "$.selecter", "did you mean selector?"),
        ({**BASE, "5": "x"}, "$['5']", "is not a field here"),
        ({**BASE, "promote": "yes"}, "$.promote", "expected auto, all_healthy or evidence"),
        ({**BASE, "on_fail": "explode"}, "$.on_fail", "rollback or pause"),
        ({**BASE, "on_fail": ["rollback"]}, "$.on_fail", "got a list"),
        ({**BASE, "stages": []}, "$.stages", "1 to 32"),
        ({**BASE, "stages": [ALL] * 33}, "$.stages", "got 33"),
        ({**BASE, "stages": {"rest": 100}}, "$.stages", "expected a list, got an object"),
        (with_stages(ALL, ALL), "$.stages[1].name", "also the name of $.stages[0]"),
        (with_stages({"name": "Canary", "size": {"percent": 100}}), "$.stages[0].name", "[a-z0-9]"),
        (with_stages({"name": "x" * 32, "size": {"percent": 100}}), "$.stages[0].name", "matches"),
        (with_stages({"name": "x"}), "$.stages[0].size", "is missing"),
        (
            with_stages(7),
            "$.stages[0]",
            "expected an object with name, size, soak, promote, gates, webhook, rate, match, mode, share_pct and approval, got 7",
        ),
        (with_stages({"name": "x", "size": {"percent": 99}}), "$.stages[0].size", "must be `percent: 100`"),
        (with_stages({"name": "x", "size": {"count": 99}}), "$.stages[0].size", "nobody decided about"),
        (with_size(percent=0), "$.stages[0].size.percent", "greater than 0 and at most 100, got 0"),
        (with_size(percent=100.1), "$.stages[0].size.percent", "at most 100"),
        (with_size(percent=-1), "$.stages[0].size.percent", "greater than 0"),
        (with_size(percent=True), "$.stages[0].size.percent", "got true"),
        (with_size(percent=math.nan), "$.stages[0].size.percent", "got nan"),
        (with_size(percent=math.inf), "$.stages[0].size.percent", "got inf"),
        (with_size(percent=10**400), "$.stages[0].size.percent", "a long one"),
        (with_size(percent="50%"), "$.stages[0].size.percent", "got '50%'"),
        (with_size(count=0), "$.stages[0].size.count", "from 1 to 1000000"),
        (with_size(count=1_000_001), "$.stages[0].size.count", "from 1 to 1000000"),
        (with_size(count=1.0), "$.stages[0].size.count", "a whole number"),
        (with_size(count=True), "$.stages[0].size.count", "got true"),
        (with_size(count=1, percent=1), "$.stages[0].size", "got both"),
        (with_size(min=1), "$.stages[0].size", "got neither"),
        (with_size(percent=1, min=-1), "$.stages[0].size.min", "a whole number"),
        (with_size(percent=1, count_total=True), "$.stages[0].size.count_total", "only a count"),
        (with_size(count=1, count_total="yes"), "$.stages[0].size.count_total", "true or false"),
        (with_size(percent=1, least=3), "$.stages[0].size.least", "expected percent, count, min and count_total"),
        ({**BASE, "stages": [{**ALL, "soak": "1 h"}]}, "$.stages[0].soak", "such as 90s, 10m, 6h or 2d"),
        ({**BASE, "stages": [{**ALL, "soak": "366d"}]}, "$.stages[0].soak", "at most 365d"),
        ({**BASE, "stages": [{**ALL, "soak": -1}]}, "$.stages[0].soak", "0s or more"),
        ({**BASE, "stages": [{**ALL, "soak": 1.5}]}, "$.stages[0].soak", "whole seconds"),
        ({**BASE, "stages": [{**ALL, "soak": True}]}, "$.stages[0].soak", "got true"),
        ({**BASE, "device": {"ack_deadline": 0}}, "$.device.ack_deadline", "at least 1s"),
        ({**BASE, "device": {"ack": "1h"}}, "$.device.ack", "did you mean ack_deadline?"),
        ({**BASE, "device": []}, "$.device", "expected an object"),
        ({**BASE, "gates": {"install": {"max_failure": 1}}}, "$.gates.install.max_failure", "less than 1"),
        ({**BASE, "gates": {"install": {"max_failure": 0}}}, "$.gates.install.max_failure", "greater than 0"),
        ({**BASE, "gates": {"install": {"alpha_abort": 0.51}}}, "$.gates.install.alpha_abort", "at most 0.5"),
        ({**BASE, "gates": {"install": {"alpha_promote": 0}}}, "$.gates.install.alpha_promote", "greater than 0"),
        ({**BASE, "gates": {"install": {"promote_below": 0.01}}}, "$.gates.install.promote_below", "stand still"),
        (
            {**BASE, "gates": {"install": {"max_failure": 1e-9, "promote_below": 1e-9}}},
            "$.gates.install.promote_below",
            "no number of devices",
        ),
        ({**BASE, "gates": {"instal": {}}}, "$.gates.instal", "did you mean install?"),
        ({**BASE, "on_inconclusive": {"after": "0s"}}, "$.on_inconclusive.after", "at least 1s"),
        ({**BASE, "on_inconclusive": {"do": "promote"}}, "$.on_inconclusive.do", "rollback or pause"),
        ({"spec": BASE, "kind": "Rollout"}, "$.apiVersion", "edgefleet/v1"),
        ({"spec": BASE, "kind": "Release", "apiVersion": "edgefleet/v1"}, "$.kind", "expected 'Rollout'"),
        ({"kind": "Rollout", "apiVersion": "edgefleet/v1"}, "$.spec", "is missing"),
        (
            {"spec": BASE, "kind": "Rollout", "apiVersion": "edgefleet/v1", "metadata": {"name": "a b"}},
            "$.metadata.name",
            "matches",
        ),
        (
            {"spec": {**BASE, "promte": 1}, "kind": "Rollout", "apiVersion": "edgefleet/v1"},
            "$.spec.promte",
            "did you mean promote?",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(document: Any, path: str, words: str) -> None:
    told = errors_of(document)
    assert any(where == path and words in message for where, message in told), told


def test_everything_wrong_is_told_at_once() -> None:
    bad = {"release": "x", "stages": [{"name": "A", "size": {"percent": 0}}, 5], "on_fail": 1, "device": {"ack": 1}}
    assert {path for path, _ in errors_of(bad)} == {
        "$.release",
        "$.selector",
        "$.stages[0].name",
        "$.stages[0].size.percent",
        "$.stages[1]",
        "$.device.ack",
        "$.on_fail",
    }


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"percent": 10}, {"percent": 9.9}, "stages only grow"),
        ({"count": 10}, {"count": 9}, "stages only grow"),
        ({"percent": 10}, {"count": 1000}, "counts first"),
        ({"count": 10}, {"count": 100, "count_total": True}, "totals first"),
        ({"count": 10, "count_total": True}, {"count": 9, "count_total": True}, "stages only grow"),
        ({"count": 10}, {"percent": 1}, ""),
        ({"count": 10}, {"count": 10}, ""),
        ({"percent": 1, "min": 80}, {"percent": 10}, ""),
        ({"count": 10, "count_total": True}, {"count": 10}, ""),
        ({"percent": 100}, {"percent": 100}, ""),
    ],
)
def test_stages_only_grow(before: dict[str, Any], after: dict[str, Any], words: str) -> None:
    document = with_stages({"name": "a", "size": before}, {"name": "b", "size": after}, ALL)
    if not words:
        parse_spec(document)
        return
    assert [(path, words in message) for path, message in errors_of(document)] == [("$.stages[1].size", True)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["release", "selector", "stages", "size", "percent", "count", "device", "spec", "gates", "kind"]
            )
            | st.text(max_size=6),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    JSON,
    st.sampled_from(["", "release", "selector", "stages", "device", "gates", "on_fail", "on_inconclusive", "promote"]),
)
def test_whatever_a_document_holds_it_is_read_or_refused_with_places(value: Any, field: str) -> None:
    document = {**BASE, field: value} if field else value
    told = _errors_or_none(document)
    assert told is None or told
    for error in told or []:
        assert error["path"].startswith("$")
        assert error["message"]
    json.dumps(told)


def _errors_or_none(document: Any) -> list[dict[str, Any]] | None:
    try:
        parse_spec(document)
    except BadSpecError as refusal:
        return refusal.errors
    return None


SPANS = st.integers(0, 365 * 86_400).map(lambda s: timedelta(seconds=s))
POSITIVE = st.integers(1, 365 * 86_400).map(lambda s: timedelta(seconds=s))
PERCENTS = st.floats(0, 100, exclude_min=True)
RATIOS = st.floats(0.001, 0.999)


@st.composite
def gates(draw: st.DrawFn) -> tuple[WebhookGate, ...]:
    kinds = draw(st.lists(st.sampled_from(GateKind), max_size=3))
    waits = st.integers(1, 20).map(lambda s: timedelta(seconds=s))
    return tuple(
        WebhookGate(f"g-{index}", kind, f"https://h.example/{index}", draw(POSITIVE), draw(waits))
        for index, kind in enumerate(kinds)
    )


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    least = st.integers(0, 1_000_000)
    totals = [Size(count=n, count_total=True, min=draw(least)) for n in draw(growing(st.integers(1, 1000)))]
    counts = [Size(count=n, min=draw(least)) for n in draw(growing(st.integers(1000, 1_000_000)))]
    percents = [Size(percent=p, min=draw(least)) for p in draw(growing(PERCENTS))]
    sizes = [*totals, *counts, *percents, Size(percent=100.0)]
    stages = tuple(
        StageSpec(f"s-{index}", size, draw(SPANS), draw(st.sampled_from(Promote)), gates=draw(gates()))
        for index, size in enumerate(sizes)
    )
    low, high = sorted((draw(RATIOS), draw(RATIOS)))
    return Spec(
        release=draw(st.sampled_from(["digits@1.1.0", "a@b", "det_x.1@2.0+cpu"])),
        selector=draw(st.sampled_from(["", "a=b", "a in (b,c),!d", "free_mb>500"])),
        stages=stages,
        device=DeviceTerms(draw(POSITIVE), draw(POSITIVE), draw(POSITIVE), draw(POSITIVE)),
        gates=Gates(InstallGate(low, high, draw(st.floats(0.001, 0.5)), draw(st.floats(0.001, 0.5)))),
        on_fail=draw(st.sampled_from(OnFail)),
        on_inconclusive=Inconclusive(draw(POSITIVE), draw(st.sampled_from(OnFail))),
        name=draw(st.sampled_from(["", "digits-1-1-0"])),
    )


def growing(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=3).map(sorted)


@given(specs())
def test_the_normal_form_reads_back_as_the_same_spec(spec: Spec) -> None:
    document = json.loads(json.dumps(dump_document(spec)))
    assert parse_spec(document) == spec
    assert dump_document(parse_spec(document)) == document
    assert dump_spec(parse_spec(json.loads(json.dumps(dump_spec(spec))))) == dump_spec(spec)


@given(st.integers(0, 365 * 86_400))
def test_durations_are_written_as_they_are_read(seconds: int) -> None:
    text = duration_text(timedelta(seconds=seconds))
    assert parse_spec({**BASE, "stages": [{**ALL, "soak": text}]}).stages[0].soak == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "90s"), (600, "10m"), (21_600, "6h"), (172_800, "2d"), (86_401, "86401s")]
)
def test_durations_are_written_in_the_largest_exact_unit(seconds: int, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (Size(percent=50.0, min=2), "50 %, at least 2"),
        (Size(percent=0.1), "0.1 %"),
        (Size(percent=100), "100 %"),
        (Size(count=1), "1 per stratum"),
        (Size(count=10, count_total=True), "10 over all strata"),
        (Size(count=10, count_total=True, min=1), "10 over all strata, at least 1 per stratum"),
    ],
)
def test_sizes_are_told_in_words(size: Size, text: str) -> None:
    assert size_text(size) == text


# ---- the corpus, the examples and the page


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
def test_an_accepted_spec_of_the_corpus_is_read(case: Any) -> None:
    spec = parse_spec(case.document)
    assert parse_spec(dump_document(spec)) == spec
    assert case.about
    assert case.fleet


@pytest.mark.parametrize("case", refused(), ids=lambda case: case.name)
def test_a_refused_spec_of_the_corpus_is_refused_as_it_says(case: Any) -> None:
    told = errors_of(case.document)
    assert any(path == case.path and case.words in message for path, message in told), told


def test_the_corpus_is_large_enough() -> None:
    assert len(accepted()) >= 50
    assert len(accepted()) + len(refused()) >= 60
    names = [case.name.split("-")[0] for case in accepted()]
    assert len(set(names)) == len(names)


def test_the_reference_page_shows_specs_that_are_read() -> None:
    page = Path("docs/reference/rollout-spec.md")
    shown = [block.text for block in blocks(page) if block.language == "yaml"]
    assert len(shown) >= 4
    for text in shown:
        parse_spec(yaml.safe_load(text))


def test_the_reference_page_names_every_field_and_default() -> None:
    text = (ROOT / "docs/reference/rollout-spec.md").read_text()
    whole = dump_document(parse_spec({**BASE, "stages": [{"size": {"percent": 5, "min": 2}}, ALL]}))

    def fields(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(fields, value))
        return set(value).union(*map(fields, value.values())) if isinstance(value, dict) else set()

    assert {name for name in fields(whole) | {"count", "count_total"} if f"`{name}`" not in text} == set()
