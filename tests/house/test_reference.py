"""Pages of the reference that are made from code say what the code says now."""

from __future__ import annotations

import re

import pytest

from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.rules import POLICY, role_of
from edgefleet_server.settings import ServerSettings
from tests.house.reference import FOLDER, PAGES, sentences


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == PAGES[name](), "run `./dev run python -m tests.house.reference`"


def test_every_setting_of_the_server_has_a_sentence() -> None:
    assert set(sentences()) == set(ServerSettings.model_fields)


def test_roles_page_says_of_each_route_who_may_call_it() -> None:
    page = (FOLDER / "roles.md").read_text("utf-8")
    told = set()
    for row in re.findall(r"^\| \w[\w-]* \| (`\w+ /.*`) \|(.*)\|$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row[1].split("|")]
        for route in re.findall(r"`(\w+) (\S+)`", row[0]):
            told |= {(*route, role) for role, cell in zip(Role, cells, strict=True) if cell == "yes"}
    each = {role: Principal("1", "one", frozenset({role})) for role in Role}
    needs = {route: role_of(*route) for route in POLICY}
    assert told == {
        (*route, role) for route, needed in needs.items() for role in Role if needed and each[role].may(needed)
    }


def test_roles_page_describes_every_role() -> None:
    page = (FOLDER / "roles.md").read_text("utf-8")
    assert re.findall(r"^\| (\w+) \| \w", page, re.MULTILINE)[: len(Role) + 1] == ["role", *Role]
