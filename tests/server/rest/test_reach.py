"""What the API can change, pages and commands can change too; the few exceptions say why."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from edgefleet_server.dashboard.cli_lines import LINES
from edgefleet_server.dashboard.operations import Operations
from tests.house.tree import ROOT

NOT_OF_PEOPLE = {"take_alerts": "Alertmanager calls it, with a token of its own"}
PART_OF_ANOTHER = {
    "put_blob": "the files of a release: sent by `edgectl publish` and by the page /publish before `create_release`"
}
BY_READING = {"plan_rollout": "changes nothing: the page /rollouts/new and `edgectl rollout plan` show it"}


def operations() -> list[str]:
    """Return the operations that may change something."""
    document = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text("utf-8"))
    return sorted(one.id for one in Operations(document) if one.is_changing)


def templates() -> str:
    """Return the text of all pages and scripts."""
    folder = Path(str(files("edgefleet_server.dashboard")))
    return "".join(path.read_text("utf-8") for kind in ("html", "js") for path in folder.rglob(f"*.{kind}"))


PAGES = templates()


@pytest.mark.parametrize("operation", operations())
def test_every_change_can_be_made_from_a_page(operation: str) -> None:
    if operation in NOT_OF_PEOPLE or operation in BY_READING:
        return
    assert re.search(rf'(["/]){operation}(["/$?])', PAGES), f"no page has a form for {operation}"


@pytest.mark.parametrize("operation", operations())
def test_every_change_can_be_made_by_a_command(operation: str) -> None:
    assert operation in LINES or operation in NOT_OF_PEOPLE | PART_OF_ANOTHER | BY_READING, operation


def test_no_exception_is_left_over() -> None:
    assert set(NOT_OF_PEOPLE | PART_OF_ANOTHER | BY_READING) <= set(operations())
    assert set(LINES) <= set(operations())
