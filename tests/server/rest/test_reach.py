"""What the API can change, pages and commands can change too; the few exceptions say why.

Pages: an admin who follows links comes to a page that offers it, by a form, a button, an htmx attribute or a script. Nor can a page do
by a script what the API cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.operations.catalog import Operations
from edgefleet_server.dashboard.operations.command_preview import LINES
from tests.house.tree import ROOT
from tests.server.rest.client_fleet import client_fleet
from tests.server.rest.walking import Walk, busy, calls_of, changes_of, read

NOT_OF_PEOPLE = {
    "take_alerts": "Alertmanager calls it, with a token of its own",
    **dict.fromkeys(
        ("lease_retraining", "renew_retraining", "complete_retraining", "fail_retraining"),
        "what trains calls it: `edgectl retrain worker`, or the system that a launcher called",
    ),
    **dict.fromkeys(
        ("create_data_set", "purge_data_set"),
        "the program that wrote or changed the files calls it: `edgectl data export`, `edgectl data purge`",
    ),
    "create_pipeline_token": "jobs of CI call it, with their ID token: each command of theirs does",
}
PART_OF_ANOTHER = {
    "put_blob": "the files of a release: sent by `edgectl publish` and by the page /publish before `create_release`",
    "end_release_search": "Ctrl-C while `edgectl publish` follows the conversion",
}
BY_READING = {
    "plan_rollout": "changes nothing: the page /rollouts/new and `edgectl rollout plan` show it",
    "price_cost": "changes nothing: `edgectl cost --prices FILE` shows it, the page /cost has the prices that are set",
}
OF_THE_BROWSER = {
    "/logout": "ends this browser's session, which the API knows nothing of",
    "/views": "keeps an address in this browser by a name, which the API knows nothing of",
}
QUESTIONS = {"/command/": "asks for the command that does what a form would do; it changes nothing"}
STATIC = Path(str(files("edgefleet_server.dashboard"))) / "static"


def operations() -> list[str]:
    """Return the operations that may change something."""
    document = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text("utf-8"))
    return sorted(one.id for one in Operations(document) if one.is_changing)


ON_PAGES = sorted(set(operations()) - NOT_OF_PEOPLE.keys() - BY_READING.keys())


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """An admin's browser that was everywhere where links lead to, at a server on which something waits for every kind of decision."""
    fleet, _ = client_fleet(tmp_path_factory.mktemp("reach") / "server")
    quiet = Walk(fleet.browser(Role.ADMIN))
    quiet.go({"plan_server_move"})  # offered while no move is under way
    busy(fleet)
    made = Walk(fleet.browser(Role.ADMIN))
    made.changes["plan_server_move"] = quiet.changes["plan_server_move"]
    made.go(set(ON_PAGES))
    yield made
    fleet.close()


@pytest.mark.parametrize("operation", ON_PAGES)
def test_every_change_can_be_made_from_a_page_that_links_lead_to(walk: Walk, operation: str) -> None:
    assert operation in walk.changes, f"none of {walk.pages} pages has a form, a button or a script for {operation}"


def test_a_change_by_a_script_counts_for_the_pages_that_load_it(walk: Walk) -> None:
    assert walk.changes["put_blob"] == "/publish"


def test_pages_send_nothing_past_the_operations(walk: Walk) -> None:
    assert walk.sends == OF_THE_BROWSER.keys()
    assert walk.changes.keys() <= set(operations())


@pytest.mark.parametrize("script", sorted(STATIC.glob("*.js")), ids=lambda one: one.name)
def test_scripts_send_nothing_past_the_operations(script: Path) -> None:
    text = script.read_text("utf-8")
    calls = calls_of(text)
    assert len(re.findall(r"\bmethod:", text)) == len(calls), "a call whose address cannot be read where it stands"
    assert not re.search(r"XMLHttpRequest|sendBeacon|WebSocket|/api/v1", text)
    others = [address for _, address in calls if not any(address.startswith(one) for one in QUESTIONS)]
    assert len(others) == len([one for one in others if one.startswith("/do/")]), others
    assert changes_of(text) <= set(operations())


def test_what_counts_as_a_way_to_change_something() -> None:
    page = read(
        '<form method="post" action="/do/one"><button formaction="/do/two"></button></form><form action="/find"><input name="q" value="x">'
        '<button name="do" value="a"></button><button name="do" value="b"></button></form><a hx-delete="/do/three">x</a>'
        '<p hx-get="/do/four" data-operation="five">six("seven")</p><b hx-post="/elsewhere">x</b>'
    )
    assert (page.changes, page.sends) == ({"one", "two", "three"}, {"/elsewhere"})
    assert [one.addresses() for one in page.forms.values()] == [["/find?q=x&do=a", "/find?q=x&do=b"]]
    script = """
    // "/do/zero" is only spoken of
    const one = await fetch(`/do/one/${it}`, { method: "PUT", body });
    const two = await fetch("/do/two", { headers }); htmx.ajax("POST", "/do/three", {}); htmx.ajax("GET", "/do/four", {});
    """
    assert changes_of(script) == {"one", "three"}


@pytest.mark.parametrize("operation", operations())
def test_every_change_can_be_made_by_a_command(operation: str) -> None:
    assert operation in LINES or operation in NOT_OF_PEOPLE | PART_OF_ANOTHER | BY_READING, operation


def test_no_exception_is_left_over() -> None:
    assert set(NOT_OF_PEOPLE | PART_OF_ANOTHER | BY_READING) <= set(operations())
    assert set(LINES) <= set(operations())
