"""The selector grammar, in tables and by properties."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.fleet.errors import BadLabelError, BadSelectorError
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors.grammar import (
    RESERVED,
    Operator,
    Requirement,
    Selector,
    check_labels,
    facts_of,
    parse_selector,
)

FACTS = {
    "env": "prod",
    "tier": "2",
    "empty": "",
    "profile": "p",
    "free_mb": "700",
    "model.digits": "1.1.0",
    "site/a.b": "x",
}

TABLE = [
    ("", True),
    ("  ", True),
    ("env=prod", True),
    ("env==prod", True),
    (" env = prod ", True),
    ("env=dev", False),
    ("env!=dev", True),
    ("env!=prod", False),
    ("other!=dev", True),
    ("env in (prod, dev)", True),
    ("env in (dev)", False),
    ("env notin (dev)", True),
    ("env notin (prod)", False),
    ("other notin (prod)", True),
    ("env", True),
    ("other", False),
    ("!other", True),
    ("!env", False),
    ("! other", True),
    ("free_mb>500", True),
    ("free_mb>700", False),
    ("free_mb<701", True),
    ("env>1", False),
    ("other<1", False),
    ("tier>-1", True),
    ("env=prod,tier=2", True),
    ("env=prod,tier=3", False),
    ("env=prod , !other,free_mb > 1", True),
    ("model.digits=1.1.0", True),
    ("model.digits!=1.0.0,model.digits", True),
    ("empty=", True),
    ("empty in (,a)", True),
    ("env=", False),
    ("site/a.b=x", True),
    ("in=in", False),
]


@pytest.mark.parametrize(("text", "matches"), TABLE)
def test_selector_matches(text: str, matches: bool) -> None:
    assert parse_selector(text).matches(FACTS) is matches


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "env=prod,",
        ",env",
        "env prod",
        "env=prod dev",
        "=prod",
        "env in",
        "env in ()x",
        "env in (a",
        "env in a",
        "env in (a b)",
        "env>",
        "env>x",
        "env<1.5",
        "!!env",
        "!env=1",
        "-env",
        "env=-x",
        "a/b/c=1",
        "env=a;drop",
        "env='prod'",
        "env like x",
        "env=" + "x" * 200,
        "x" * 5000,
    ],
)
def test_bad_selector_is_refused_and_names_the_place(text: str) -> None:
    with pytest.raises(BadSelectorError) as caught:
        parse_selector(text)
    assert re.search(r"at character \d+ \(|at its end|5000 characters", caught.value.message)
    assert caught.value.next_step


KEYS = st.sampled_from(["env", "tier", "free_mb", "model.digits", "a/b", "x-1"])
VALUES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._+-]{0,5}[A-Za-z0-9])?", fullmatch=True)
NUMBERS = st.integers(-(10**6), 10**6).map(str)
REQUIREMENTS = st.one_of(
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EXISTS, Operator.MISSING])),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EQUALS, Operator.NOT_EQUALS]), st.tuples(VALUES)),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.GREATER, Operator.LESS]), st.tuples(NUMBERS)),
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(VALUES, min_size=1, max_size=3, unique=True).map(tuple),
    ),
)
SELECTORS = st.builds(Selector, st.lists(REQUIREMENTS, max_size=4).map(tuple))
DEVICES = st.dictionaries(KEYS, st.one_of(VALUES, NUMBERS), max_size=5)


@given(SELECTORS)
def test_what_is_written_is_read_back(selector: Selector) -> None:
    assert parse_selector(str(selector)) == selector


@given(SELECTORS, SELECTORS, DEVICES)
def test_comma_means_and(a: Selector, b: Selector, facts: dict[str, str]) -> None:
    both = Selector(a.requirements + b.requirements)
    assert both.matches(facts) == (a.matches(facts) and b.matches(facts))


OPPOSITES = [
    (Operator.EQUALS, Operator.NOT_EQUALS),
    (Operator.IN, Operator.NOT_IN),
    (Operator.EXISTS, Operator.MISSING),
]


@given(KEYS, VALUES, DEVICES)
def test_each_operator_and_its_opposite_split_the_fleet(key: str, value: str, facts: dict[str, str]) -> None:
    for yes, no in OPPOSITES:
        assert Requirement(key, yes, (value,)).holds(facts) != Requirement(key, no, (value,)).holds(facts)


@given(st.text(max_size=60), DEVICES)
def test_any_text_is_a_selector_or_a_clear_error(text: str, facts: dict[str, str]) -> None:
    try:
        selector = parse_selector(text)
    except BadSelectorError:
        return
    selector.matches(facts)
    assert parse_selector(str(selector)) == selector


@given(SELECTORS, DEVICES)
def test_the_index_of_a_query_never_loses_a_match(selector: Selector, facts: dict[str, str]) -> None:
    for key in ("env", "tier"):
        values = selector.exactly(key)
        if values is not None and selector.matches(facts):
            assert facts.get(key) in values


def test_facts_beat_labels() -> None:
    labels = {"env": "prod", "profile": "lie", "model.digits": "lie"}
    device = DeviceFacts(
        DeviceId("d-abc"), ProfileName("p"), "x86_64", DeviceStatus.ONLINE, labels, None, {"digits": "1.1.0"}
    )
    facts = facts_of(device)
    assert facts == {
        "env": "prod",
        "id": "d-abc",
        "profile": "p",
        "arch": "x86_64",
        "status": "online",
        "model.digits": "1.1.0",
    }


@pytest.mark.parametrize("key", [*sorted(RESERVED), "model.digits", "", "-a", "a b", "a=b", "a,b", "é", "x" * 200])
def test_a_label_key_that_is_a_fact_or_no_key_is_refused(key: str) -> None:
    with pytest.raises(BadLabelError):
        check_labels({key: "x"})


@pytest.mark.parametrize("value", ["a b", "a,b", "-a", "a-", "x" * 128, "é", "(a)"])
def test_a_bad_label_value_is_refused(value: str) -> None:
    with pytest.raises(BadLabelError):
        check_labels({"a": value})


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{1,10}", fullmatch=True).filter(lambda k: k not in RESERVED), VALUES)
)
def test_every_allowed_label_can_be_selected(labels: dict[str, str]) -> None:
    for key, value in check_labels(labels).items():
        assert parse_selector(f"{key}={value}").matches(labels)
