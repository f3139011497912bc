"""What fields offer instead of a blank: models, releases, terms of a selector, each with how many devices it is about."""

from __future__ import annotations

import re

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.pickers import (
    MOST,
    Picks,
    model_choices,
    release_choices,
    selector_choices,
)
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import ORT, Fleet, small

VERSIONS = [("digits", "1.1.0", 3), ("digits", "1.0.0", 1), ("ocr", "2", 2)]
FIELD = re.compile(r'name="(?:body\.selector|selector|stage\.match)"[^\n]*?(?=<label|$)', re.MULTILINE)
TEMPLATES = ROOT / "server/edgefleet_server/dashboard/templates"


def test_choices_say_how_many_devices_they_are_about() -> None:
    assert release_choices(["digits@1.1.0", "digits@2.0.0", "digits@1.0.0"], VERSIONS) == [
        ("digits@1.1.0", "runs on 3 devices"),
        ("digits@2.0.0", "runs nowhere"),
        ("digits@1.0.0", "runs on 1 device"),
    ]
    assert model_choices(["digits", "new"], VERSIONS) == [("digits", "runs on 4 devices"), ("new", "runs nowhere")]
    assert selector_choices(["lab"], [("site", "hall", 2)], {"a": 1, "b": 5}, VERSIONS[:1]) == [
        ("group=lab", "a saved selector"),
        ("site=hall", "2 devices"),
        ("profile=b", "5 devices"),
        ("profile=a", "1 device"),
        ("model.digits=1.1.0", "3 devices"),
    ]


def test_only_lists_that_a_field_asked_for_are_read_and_none_is_endless() -> None:
    read = []

    def many() -> list[tuple[str, str]]:
        read.append("many")
        return [(str(n), "") for n in range(10 * MOST)]

    picks = Picks({"many": many, "other": many})
    assert (picks.lists(), read) == ([], [])
    assert picks.pick("many") == picks.pick("many") == "pick-many"
    ((name, choices),) = picks.lists()
    assert (name, len(choices), read) == ("pick-many", MOST, ["many"])
    with pytest.raises(KeyError):
        picks.pick("nothing")


def test_bulk_deploy_and_the_form_of_a_rollout_offer_releases_and_selectors_with_counts(fleet: Fleet) -> None:
    small(fleet)
    browser = fleet.browser(Role.OPERATOR)
    bulk = browser.get("/fleet/bulk?do=deploy&all=4&selector=site%3Dhall").text
    assert re.search(r'<input name="path.ref"[^>]* list="pick-releases"', bulk)
    assert '<option value="digits@1.0.0">runs on 4 devices</option>' in bulk
    assert '<option value="digits@1.1.0">runs nowhere</option>' in bulk
    step = browser.get("/rollouts/new?release=digits@1.1.0&step=devices&selector=arch%3Dx86_64").text
    assert '<option value="site=hall">4 devices</option>' in step
    added = re.search(r'<a class="chip" href="([^"]*)">site=hall <b>4</b>', step)
    assert added is not None
    both = browser.get(added[1].replace("&amp;", "&")).text
    assert 'value="arch=x86_64,site=hall"' in both, "a term is added to what is written"
    taken = re.search(r'<a class="chip on" href="([^"]*)" aria-current="true">site=hall', both)
    assert taken is not None
    assert 'name="selector" value="arch=x86_64"' in browser.get(taken[1].replace("&amp;", "&")).text
    assert f">{ORT} <b>4</b>" in step
    undo = browser.get("/rollouts/undo").text
    assert '<option value="digits">runs on 4 devices</option>' in undo


def test_no_field_for_a_selector_is_left_blank() -> None:
    blank = {
        str(path.relative_to(TEMPLATES))
        for path in TEMPLATES.rglob("*.html")
        for line in path.read_text().splitlines()
        for found in FIELD.findall(line)
        if "list=" not in found and 'type="hidden"' not in line
    }
    assert blank == {"enrolment/list.html"}, "there it is about devices that are not enrolled"
