"""Which version is newer, and what is said before an older one goes out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.registry.rules import downgrade, is_newer

RISING = [
    "0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0", "1.0.1",
    "1.2", "1.10", "v2",
]  # fmt: skip
NUMBERS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-[a-z0-9]{1,4}(\.[a-z0-9]{1,4})?)?", fullmatch=True)


@pytest.mark.parametrize(("older", "newer"), [*pairwise(RISING), ("1.9.9", "1.10.0")])
def test_versions_are_ordered_as_semver_does(older: str, newer: str) -> None:
    assert is_newer(newer, older, {})
    assert not is_newer(older, newer, {})


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.0.0"), ("1.0.0+a", "1.0.0+b"), ("v1", "1")])
def test_what_is_written_differently_is_not_newer(one: str, other: str) -> None:
    assert not is_newer(one, other, {one: 2, other: 1})
    assert not is_newer(other, one, {one: 2, other: 1})


def test_other_names_are_ordered_by_publication() -> None:
    published = {"autumn": 3, "summer": 1, "1.0.0": 2}
    assert is_newer("autumn", "summer", published)
    assert is_newer("autumn", "1.0.0", published)
    assert not is_newer("summer", "1.0.0", published)
    assert not is_newer("gone", "summer", published)


@given(st.lists(NUMBERS, min_size=3, max_size=3))
def test_the_order_is_one(versions: list[str]) -> None:
    a, b, c = versions
    assert not (is_newer(a, b, {}) and is_newer(b, a, {}))
    if is_newer(a, b, {}) and is_newer(b, c, {}):
        assert is_newer(a, c, {})


@pytest.mark.parametrize(
    ("running", "said"),
    [
        ({}, ""),
        ({"1.0.0": 8}, ""),
        ({"0.9.0": 8}, ""),
        ({"1.1.0": 4, "1.0.0": 4}, "4 of 8 devices run digits@1.1.0, which is newer than digits@1.0.0"),
        (
            {"1.1.0": 4, "1.2.0": 1},
            "5 of 8 devices run digits@1.1.0 or digits@1.2.0, which are newer than digits@1.0.0",
        ),
    ],
)
def test_what_is_said_before_an_older_one_goes_out(running: dict[str, int], said: str) -> None:
    assert downgrade(ReleaseRef.parse("digits@1.0.0"), running, 8, {}) == said
