"""The lists of what is slow name files and fixtures that are there, and nothing else."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT, SLOW, WITH_A_DATABASE

FIXTURE = re.compile(r"@pytest\.fixture[^\n]*\n(?:async )?def (\w+)")


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_file_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_a_slow_fixture_exists() -> None:
    there = {name for file in ROOT.rglob("*.py") for name in FIXTURE.findall(file.read_text("utf-8"))}
    assert there >= WITH_A_DATABASE


@pytest.mark.parametrize("fleet", ["a parameter"])
def test_a_parameter_with_the_name_of_a_slow_fixture_is_quick(fleet: str, request: pytest.FixtureRequest) -> None:
    assert fleet
    assert request.node.get_closest_marker("slow") is None
