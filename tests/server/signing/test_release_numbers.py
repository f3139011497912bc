"""Security versions and withdrawals in a model's role: they order releases, shut out exactly what was meant, and never shrink."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_server.signing.named_files import release_numbers
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal

NOW = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
NOW_S = int(NOW.timestamp())


def role(*numbers: tuple[str, int], custom: Any = None) -> Targets:
    """Return a role with one bundle per version; number 0: signed without one."""
    made = Targets(version=1)
    for version, number in numbers:
        add(made, version, number)
    if custom is not None:
        made.unrecognized_fields["custom"] = custom
    return made


def add(made: Targets, version: str, number: int, profile: str = "p") -> None:
    """Name one more bundle."""
    fields = {"custom": {"leaves": "x", **({"sec_version": number} if number else {})}}
    path = f"digits/{version}/{profile}.bundle"
    made.targets[path] = TargetFile(1, {"sha256": "a" * 64}, path, unrecognized_fields=fields)


def said(made: Targets) -> dict[str, int]:
    """Return the number of each bundle that is still named, 0 where it has none."""
    return {path.split("/")[1]: target.custom.get("sec_version", 0) for path, target in made.targets.items()}


@pytest.mark.parametrize(
    ("known", "version", "number"),
    [
        ((), "1.0.0", NOW_S),
        ((("1.0.0", NOW_S),), "1.1.0", NOW_S + 1),
        ((("1.0.0", NOW_S + 50),), "1.1.0", NOW_S + 51),
        ((("1.0.0", 7),), "1.0.0", 7),
        ((("1.0.0", 0),), "1.0.0", 0),
        ((("1.0.0", 0),), "1.1.0", NOW_S),
    ],
)
def test_a_new_bundle_has_the_number_of_its_release_or_the_next(
    known: tuple[tuple[str, int], ...], version: str, number: int
) -> None:
    assert release_numbers.of_new(role(*known), f"digits/{version}/q.bundle", NOW) == number


def test_a_new_release_is_never_below_the_floor() -> None:
    ahead = role(custom={"sec_floor": NOW_S + 9})
    assert release_numbers.of_new(ahead, "digits/1.0.0/p.bundle", NOW) == NOW_S + 9


def test_releases_without_a_number_get_that_of_their_publication_each_its_own() -> None:
    made = dict.fromkeys(("1.0.0", "1.1.0", "1.2.0"), NOW)
    found = release_numbers.of_all(role(("1.2.0", NOW_S + 100)), made)
    assert found == {"1.0.0": NOW_S, "1.1.0": NOW_S + 1, "1.2.0": NOW_S + 100}


def test_a_withdrawal_names_exactly_one_and_leaves_the_others_as_they_were() -> None:
    made = role(("1.0.0", 0), ("1.1.0", 0), ("1.2.0", 9))
    assert release_numbers.withdraw(made, TargetWithdrawal("digits", ["digits/1.1.0/p.bundle"], ["1.1.0"]), NOW)
    assert said(made) == {"1.0.0": 0, "1.2.0": 9}
    assert made.unrecognized_fields["custom"] == {"withdrawn": ["1.1.0"]}
    assert not release_numbers.withdraw(made, TargetWithdrawal("digits", ["digits/1.1.0/p.bundle"], ["1.1.0"]), NOW)


def test_with_a_floor_what_stays_is_signed_with_its_number() -> None:
    made = role(("1.0.0", 0), ("1.1.0", 0), ("1.2.0", 0))
    paths = ["digits/1.0.0/p.bundle", "digits/1.1.0/p.bundle"]
    numbers = {"1.0.0": 5, "1.1.0": 6, "1.2.0": 7}
    assert release_numbers.withdraw(made, TargetWithdrawal("digits", paths, ["1.0.0", "1.1.0"], 7, numbers), NOW)
    assert said(made) == {"1.2.0": 7}
    assert made.unrecognized_fields["custom"] == {"withdrawn": ["1.0.0", "1.1.0"], "sec_floor": 7}


def test_a_floor_is_never_later_than_now() -> None:
    made = role(("1.0.0", 5))
    release_numbers.withdraw(made, TargetWithdrawal("digits", [], ["0.9.0"], NOW_S + 999), NOW)
    assert made.unrecognized_fields["custom"]["sec_floor"] == NOW_S


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, NOW_S)), max_size=8))
def test_nothing_that_was_said_is_ever_taken_back(steps: list[tuple[str, int]]) -> None:
    made = role(*((version, 0) for version in "abcdef"))
    before: dict[str, Any] = {}
    for version, floor in steps:
        release_numbers.withdraw(made, TargetWithdrawal("digits", [], [version], floor), NOW)
        after = made.unrecognized_fields["custom"]
        assert set(before.get("withdrawn", [])) <= set(after["withdrawn"])
        assert before.get("sec_floor", 0) <= after.get("sec_floor", 0)
        before = after
