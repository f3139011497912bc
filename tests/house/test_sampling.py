"""What is left out of a run comes in one of the next."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.house import sampling
from tests.house.sampling import ENVIRONMENT, FLOODS, SAME_SQL, STORIES, TWIN_PARTS, flood_of, is_told, part, parts_of
from tests.house.tree import ROOT


@pytest.mark.parametrize("count", [1, 2, 3, 10, 23, 100])
@pytest.mark.parametrize("parts", sorted({1, *FLOODS.values()}))
@pytest.mark.parametrize("first", [0, 7, 0xFFFF_FFFF])
def test_as_many_commits_in_a_row_as_there_are_parts_run_every_case_once(count: int, parts: int, first: int) -> None:
    cases = [f"test[{number}]" for number in range(count)]
    found = [part(cases, parts, first + step) for step in range(parts)]
    assert sorted(case for one in found for case in one) == sorted(cases)
    sizes = sorted(map(len, found))
    assert sizes[-1] - sizes[0] <= 1


def test_the_part_of_a_case_does_not_depend_on_the_order() -> None:
    cases = [f"test[{number}]" for number in range(30)]
    assert part(cases, 3, 1) == part(cases[::-1], 3, 1)
    assert any(int(b[5:-1]) - int(a[5:-1]) != 3 for a, b in pairwise(part(cases, 3, 1))), (
        "neighbours are not always apart"
    )


def test_what_was_changed_is_left_out_of_no_run() -> None:
    def item(nodeid: str, **params: Any) -> Any:
        return SimpleNamespace(nodeid=nodeid, callspec=SimpleNamespace(params=params))

    docs, benches = "tests/house/test_docs.py::test_shell_blocks_run[a]", "tests/house/test_benches.py::test_a"
    page = Path("docs/index.md")
    assert sampling.is_changed(item(docs, page=page), {page})
    assert not sampling.is_changed(item(docs, page=page), {Path("docs/glossary.md"), Path("bench/scrape.py")})
    assert sampling.is_changed(item(docs, page=page), {Path("tests/house/test_docs.py")})
    assert sampling.is_changed(item(benches), {Path("bench/cli.py")})
    assert not sampling.is_changed(item(benches), {page})


def test_every_flood_is_a_test_that_has_cases_or_a_file_of_tests() -> None:
    for flood in FLOODS:
        file, _, name = flood.partition("::")
        if not name:
            assert (ROOT / file).read_text("utf-8").count("\ndef test_") > 1, flood
            continue
        before, found, _ = (ROOT / file).read_text("utf-8").partition(f"def {name}(")
        assert found, flood
        assert "@pytest.mark.parametrize(" in before.rpartition("\n\n\n")[2], flood


@pytest.mark.parametrize("story", STORIES)
def test_a_slow_story_is_told_whole_in_one_of_its_number_of_commits(story: str) -> None:
    file, _, name = story.partition("::")
    text = (ROOT / file).read_text("utf-8")
    assert f"def {name or 'test_'}" in text
    for first in (0, 2592, 0xFFFF_FFFF):
        told = [is_told(f"{file}::{name or 'test_any'}[1]", first + step) for step in range(STORIES[story])]
        assert sum(told) == 1
    assert {is_told(f"{file}::{name or 'test_other'}", step) for step in range(STORIES[story])} == {True, False}


def test_a_test_of_no_story_is_in_every_run() -> None:
    assert all(is_told("tests/journeys/test_rollouts.py::test_any", number) for number in range(12))


def test_the_postgresql_cases_of_a_file_with_the_same_sql_are_one_flood() -> None:
    def item(nodeid: str, *, is_postgres: bool) -> Any:
        return SimpleNamespace(
            nodeid=nodeid, get_closest_marker=lambda _: pytest.mark.postgres if is_postgres else None
        )

    for file in SAME_SQL:
        assert (ROOT / file).is_file()
    file = SAME_SQL[0]
    assert flood_of(item(f"{file}::test_a[postgresql]", is_postgres=True)) == file
    assert parts_of(file) == TWIN_PARTS
    assert flood_of(item(f"{file}::test_a[sqlite]", is_postgres=False)) == f"{file}::test_a"
    assert (
        flood_of(item("tests/server/test_db.py::test_a[postgresql]", is_postgres=True))
        == "tests/server/test_db.py::test_a"
    )
    assert parts_of(f"{file}::test_a") == parts_of("tests/server/test_db.py::test_a") == 1


def test_the_number_is_the_environments_or_gits(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, wanted in (("17", 17), ("all", None)):
        sampling.number.cache_clear()
        monkeypatch.setenv(ENVIRONMENT, given)
        assert sampling.number() == wanted
    said = {"--is-shallow-repository": "false", "--count": "41", "HEAD": "0123456789abcdef"}
    monkeypatch.delenv(ENVIRONMENT)
    monkeypatch.setattr(sampling, "_git", lambda *words: said[words[1]])
    sampling.number.cache_clear()
    assert sampling.number() == 41
    said["--is-shallow-repository"] = "true"
    sampling.number.cache_clear()
    assert sampling.number() == 0x01234567
    monkeypatch.setattr(sampling, "_git", lambda *words: "")
    sampling.number.cache_clear()
    assert sampling.number() == 0
    sampling.number.cache_clear()


def test_all_tests_of_a_file_that_is_a_flood_are_its_cases() -> None:
    for file in (flood for flood in FLOODS if "::" not in flood):
        items = [SimpleNamespace(nodeid=f"{file}::{name}", get_closest_marker=lambda _: None) for name in ("a", "b[1]")]
        assert {flood_of(item) for item in items} == {file}  # type: ignore[arg-type]  # two things of an item are asked for
