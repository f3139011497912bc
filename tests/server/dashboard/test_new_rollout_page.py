"""A new rollout in the browser, written step by step; all of it without scripts."""

from __future__ import annotations

import html
import json
import re

import pytest

from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.manifest import RANDOM_DATA
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import LITERT, ORT, STAGES, Fleet, small
from tests.server.dashboard.forms_of import form, forms, send
from tests.server.dashboard.shelf import bundled, shelve
from tests.server.dashboard.test_pages import part_of, text_of

NEW = "/rollouts/new"


def test_the_steps_follow_each_other_and_carry_what_was_written(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, _bad = story
    browser = fleet.browser(Role.OPERATOR)
    first = browser.get(NEW).text
    assert "digits@1.2.0" in text_of(first)
    second = send(browser, form(first, NEW), {"release": "digits@1.2.0"}, "step=devices").text
    assert "Enter a selector, or choose all devices" in second
    third = send(browser, form(second, NEW), {"selector": "site=hall"}, "step=how").text
    assert "canary 5 %, at least 2" in part_of(third, "plan")
    assert "digits@1.2.0 has no bundle for profile generic-x86_64-litert" in part_of(third, "plan")
    own = send(browser, form(third, NEW), {}, "edit=ab").text
    assert 'value="winner"' in own
    longer = send(browser, form(own, NEW), {"downloads": "5"}, "add=stage").text
    assert 'value="stage-1"' in longer
    fourth = send(browser, form(longer, NEW), {"supersede": "queue"}, "step=review").text
    assert "concurrent_downloads: 5" in fourth
    assert "edgectl rollout create -f -" in fourth
    plan = part_of(fourth, "plan")
    assert re.search(r"\d+ devices match , \d+ cannot take part", plan)
    assert "ab 20 %, at least 2, for 50 % of the requests" in plan
    assert "Fails on 10 %" in plan
    started = json.loads(dict(form(fourth, "/do/create_rollout").fields)["body"])
    assert [one["name"] for one in started["spec"]["stages"]] == ["ab", "stage-1", "winner"]
    assert started["spec"]["selector"] == "site=hall"


def test_the_count_says_who_is_meant_and_who_has_no_bundle(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, _bad = story
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get(f"{NEW}?step=devices&release=digits@1.2.0&who=all").text
    told = text_of(page)
    assert "10 devices match now; 9 online; 3 with a profile that digits@1.2.0 has no bundle for" in told
    assert f"{LITERT} 3 none: excluded" in told
    assert "No matching devices" in browser.get(f"{NEW}?step=devices&selector=site=nowhere").text
    wrong = browser.get(f"{NEW}?step=devices&selector=a+in+(").text
    assert 'aria-invalid="true"' in wrong


def test_devices_are_chosen_from_what_the_fleet_has(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, _bad = story
    page = fleet.browser(Role.OPERATOR).get(f"{NEW}?step=devices&release=digits@1.2.0&who=all").text
    assert re.search(r"Label .*site=hall \d+ .*Profile .*generic-x86_64-ort 7 .*Runs digits@1\.1\.0 9 ", text_of(page))
    found = re.search(r'<a class="chip" href="([^"]+)">site=hall', page)
    assert found is not None
    assert html.unescape(found[1]) == f"{NEW}?step=devices&release=digits%401.2.0&selector=site%3Dhall"


def test_a_plan_names_the_profiles_whose_accuracy_was_not_measured(fleet: Fleet) -> None:
    fleet.device("cam")
    fleet.device("lab", LITERT)
    release = shelve(fleet, "digits@1.0.0", ORT)
    random = {"name": "agreement", "value": 1.0, "n": 100, "data": RANDOM_DATA, "is_measured": False}
    bundled(fleet, ReleaseRef.parse("digits@1.0.0"), ProfileName(LITERT), verdict="unproven", metric=random)
    spec = {"release": str(release), "stages": [STAGES[-1]]}
    plan = fleet.parts.rollout.plan({**spec, "selector": ""})
    assert plan.ok
    [found] = [one for one in plan.findings if one.code == "unproven"]
    assert (found.level, found.stratum) == ("warning", LITERT)
    assert "digits@1.0.0 is unproven" in found.message
    assert "--calibration" in found.next
    told = text_of(fleet.browser(Role.OPERATOR).get(f"{NEW}?step=review&release=digits@1.0.0&who=all").text)
    assert f"warning {found.message}." in told
    assert "unproven" not in {
        one.code for one in fleet.parts.rollout.plan({**spec, "selector": f"profile={ORT}"}).findings
    }
    assert "unproven" in {one.code for one in fleet.parts.rollout.plan_of(fleet.rollout(**spec, selector="")).findings}


@pytest.mark.parametrize(
    ("query", "title"),
    [("", "release"), ("release=digits@1.2.0", "devices"), ("selector=site=hall", "release"),
     ("release=digits@1.2.0&selector=site=hall", "strategy"), ("yaml=release:%20digits@1.2.0", "review")],
)  # fmt: skip
def test_a_link_leads_to_the_first_step_that_is_not_done(story: tuple[Fleet, str, str], query: str, title: str) -> None:
    page = story[0].browser(Role.OPERATOR).get(f"{NEW}?{query}").text
    assert f"New rollout: {title} " in text_of(page)


def test_what_cannot_be_started_says_why_and_has_no_button(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    browser = fleet.browser(Role.OPERATOR)

    def page(query: str) -> str:
        found = browser.get(f"{NEW}?step=review&{query}").text
        assert not [one for one in forms(found) if one.action == "/do/create_rollout"]
        return text_of(found)

    assert "$.spec.selector is missing" in page("release=digits@1.2.0")
    assert "no release digits@9.9.9" in page("release=digits@9.9.9&who=all")
    assert "error stage canary reaches 1 of 7 devices" in page(
        "release=digits@1.2.0&who=all&stage.name=canary&stage.size=1&stage.name=rest&stage.size=100%25"
    )
    assert "error no device matches" in page("release=digits@1.2.0&selector=site=nowhere")
    assert "this is not valid YAML" in page("yaml=a: [")
    open_ = text_of(browser.get(f"{NEW}?step=review&release=digits@1.2.0&who=all").text)
    assert re.search(rf"Rollout {bad} of digits@1\.2\.0 is open and includes \d of these devices", open_)
    assert "Queue" in open_


def test_hostile_text_in_an_address_stays_text(story: tuple[Fleet, str, str]) -> None:
    hostile = "</textarea><script>x</script>\"'"
    for name in ("release", "selector", "yaml", "strategy", "stage.name", "cron"):
        page = story[0].browser(Role.OPERATOR).get(NEW, params={name: hostile, "step": "how"}).text
        assert "<script>x" not in page


def conflict_in(page: str) -> str:
    """Return what a step says of open rollouts that want the same devices."""
    return text_of(page.partition('id="conflict"')[2].partition("</div>")[0])


def test_a_conflict_is_said_in_the_second_step_and_never_loses_the_form(fleet: Fleet) -> None:
    small(fleet)
    other = fleet.rollout(release="digits@1.1.0", selector="site=hall", stages=STAGES)
    browser = fleet.browser(Role.OPERATOR)
    drafted = "release=digits%401.0.0&selector=site%3Dhall"
    page = browser.get(f"{NEW}?step=devices&{drafted}").text
    told = conflict_in(page)
    assert f"Rollout {other} of digits@1.1.0 is open and includes 4 of these devices." in told
    links = dict(
        re.findall(
            r'<a class="btn[^"]*" href="([^"]+)">(Queue|Abort the other)</a>', page.partition('id="conflict"')[2]
        )
    )
    chosen = {name: html.unescape(link) for link, name in links.items()}
    assert "supersede=queue" in chosen["Queue"]
    queued = browser.get(chosen["Queue"]).text
    assert "the new rollout starts when it has ended" in conflict_in(queued)
    assert 'value="site=hall"' in queued
    stops = browser.get(chosen["Abort the other"]).text
    assert "devices that have switched keep its release until they get the new one" in conflict_in(stops)
    assert "conflict" not in browser.get(f"{NEW}?step=devices&release=digits%401.0.0&selector=site%3Dyard").text
    review = browser.get(f"{NEW}?step=review&{drafted}").text
    assert "/do/create_rollout" not in review, "it would be refused"
    assert "Abort the other" in part_of(review, "plan")
    ready = browser.get(f"{NEW}?step=review&{drafted}&supersede=queue").text
    start = form(ready, "/do/create_rollout")
    fields = dict(start.fields)
    assert "supersede=queue" in fields["back"]
    body = fields["body"].replace('"queue"', '"reject"')
    refused = send(browser, start, {"body": body})
    assert refused.status_code == 409
    assert f'href="{html.escape(fields["back"])}">Back</a>' in refused.text
    assert "`" not in text_of(refused.text)
