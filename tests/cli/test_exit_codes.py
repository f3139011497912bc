"""The page of exit codes is what the code does: every error of the command line is on it, with the code that it ends with."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import edgefleet_cli
from edgefleet_cli.core import errors
from edgefleet_cli.core.errors import ApiError, CliError, exit_code_of
from edgefleet_protocol.errors import EdgefleetError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"
_OTHERS = {"ApiError"}
"""Its exit code is that of the status."""


def _all_errors() -> list[type[CliError]]:
    for module in pkgutil.walk_packages(edgefleet_cli.__path__, "edgefleet_cli."):
        importlib.import_module(module.name)
    found: list[type[CliError]] = []
    left = [CliError]
    while left:
        one = left.pop()
        found.append(one)
        left += one.__subclasses__()
    return [one for one in found if one.__module__.startswith("edgefleet_cli") and one.__name__ not in _OTHERS]


def test_every_error_is_on_the_page_with_its_exit_code() -> None:
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == {one.code: str(one.exit_code) for one in _all_errors()}


def test_every_exit_code_is_on_the_page() -> None:
    rows = set(map(int, re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)))
    assert rows == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {one.exit_code for one in _all_errors()} <= rows


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 5), (409, 6), (410, 5), (412, 6), (422, 2), (429, 1), (500, 1), (503, 1)],
)
def test_a_refusal_ends_with_the_code_of_its_status(status: int, code: int) -> None:
    assert exit_code_of(ApiError("no", status=status, code="x.y", request_id="")) == code


@pytest.mark.parametrize(("name", "code"), [("id.bad", 2), ("profile.bad", 2), ("profile.unknown", 5), ("other", 1)])
def test_errors_of_other_packages_are_known_by_code(name: str, code: int) -> None:
    class OtherError(EdgefleetError):
        """Of another package."""

    OtherError.code = name
    assert exit_code_of(OtherError("no")) == code
