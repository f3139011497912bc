"""Pages of retraining: what waits for whom, the loop as steps, and what may be done from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, PersonKind, Role
from edgefleet_server.dashboard.retraining.loop_steps import KINDS, MOST_CHARS, cut, loop_steps
from edgefleet_server.dashboard.retraining.trigger_words import budget_left, headline, picked, rollout_text, terms_text
from edgefleet_server.retraining.model import (
    OPEN,
    Collected,
    DataSetView,
    DataWanted,
    DriftAfter,
    DriftAfterView,
    LauncherKind,
    LauncherView,
    RetrainingView,
    RunCause,
    RunState,
    TriggerOn,
    TriggerView,
)
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.forms_of import form, forms, send
from tests.server.dashboard.retrained_fleet import API, begun, retrained
from tests.server.dashboard.test_pages import text_of

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
TRIGGER = TriggerView(
    name="fog", model="digits", on=TriggerOn.DRIFT, objective="", schedule="", tz="UTC", lasting_s=3600, cool_down_s=86_400, budget=4,
    budget_period_s=2_592_000, approval=True, launcher=LauncherView(LauncherKind.RUNNER, {}, False, 21_600), data=DataWanted(),
    rollout={"selector": "site=hall", "strategy": "canary"}, enabled=True, says="it waits for drift", used=1, open_run="", next_at=None,
    created_at=NOW, created_by="ann", changed_at=NOW, changed_by="ann",
)  # fmt: skip
RUN = RetrainingView(
    id="rt-1", trigger="fog", model="digits", state=RunState.TRAINING, says="box trains", cause=RunCause(TriggerOn.DRIFT, "fog", alert=7),
    parent="digits@1.0.0", launcher=LauncherKind.RUNNER, approval=True, data=DataWanted(), collected=Collected(12, 11, 873),
    data_set=DataSetView("ab" * 32, 873, 640), rollout_spec=TRIGGER.rollout, holder="box", lease_until=NOW, attempts=1, given_back=0,
    progress="epoch 3", release="", rollout="", error=None, drift_after=None, created_at=NOW, created_by="fog", maker="ann",
    answered_by="bob", answered_at=NOW, state_since=NOW, until=None, began_at=NOW, ended_at=None,
)  # fmt: skip


def kinds(run: RetrainingView) -> str:
    """Return the kinds of the steps by their first letters."""
    return " ".join(one.kind[0] for one in loop_steps(run))


ENDED: dict[str, Any] = {"ended_at": NOW}
RELEASED: dict[str, Any] = {"release": "digits@1.1.0"}
ROLLED: dict[str, Any] = {**RELEASED, "rollout": "r-1"}


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        ("awaiting_approval", {"answered_by": "", "data_set": None}, "d h n n n n n"), ("collecting", {"data_set": None}, "d d n n n n n"),
        ("queued", {}, "d d d h n n n"), ("training", {}, "d d d n n n n"), ("converting", RELEASED, "d d d d n n n"),
        ("rolling_out", ROLLED, "d d d d d n n"), ("stopped", {**ROLLED, **ENDED}, "d d d d d s n"),
        ("promoted", {**ROLLED, **ENDED}, "d d d d d d n"), ("rejected", {**ENDED, "data_set": None}, "d s n n n n n"),
        ("failed", ENDED, "d d d s n n n"), ("failed", {**ENDED, **RELEASED}, "d d d d s n n"),
        ("failed", {**ENDED, **ROLLED}, "d d d d d s n"), ("cancelled", ENDED, "d d d e n n n"), ("expired", ENDED, "d d d s n n n"),
        ("expired", {**ENDED, "answered_at": None, "answered_by": "", "attempts": 0, "began_at": None, "data_set": None}, "d s n n n n n"),
        ("failed", {**ENDED, "attempts": 0, "began_at": None, "data_set": None}, "d d s n n n n"),
        ("published", {**ENDED, **RELEASED, "rollout_spec": None}, "d d d d d"), ("stopped", {**ENDED, **RELEASED}, "d d d d s n n"),
    ],
)  # fmt: skip
def test_each_state_has_its_place_in_the_loop(state: str, changes: dict[str, Any], expected: str) -> None:
    run = replace(RUN, state=RunState(state), **changes)
    assert kinds(run) == expected
    steps = loop_steps(run)
    current = [one for one in steps if one.kind in ("now", "held")]
    assert len(current) == (1 if run.state in OPEN else 0)
    assert all(one.says for one in current)


def test_a_step_says_what_it_did_and_leads_there() -> None:
    after = DriftAfterView(DriftAfter.GONE, "no device drifts", NOW)
    steps = {one.name: one for one in loop_steps(replace(RUN, state=RunState.PROMOTED, drift_after=after, **ROLLED))}
    assert steps["Cause"].href == "/alerts/7"
    assert (steps["Data set"].says, steps["Data set"].more) == ("873 records", "640 with a label")
    assert (steps["Training"].says, steps["Training"].more) == ("on box", "epoch 3")
    assert steps["New release"].href == "/models/digits/1.1.0"
    assert steps["Rollout"].href == "/rollouts/r-1"
    assert (steps["Cause gone?"].kind, steps["Cause gone?"].says) == ("done", "gone")
    still = replace(RUN, state=RunState.PROMOTED, drift_after=DriftAfterView(DriftAfter.STILL_THERE, "drifts", NOW))
    assert loop_steps(still)[-1].kind == "stop"
    assert "Approval" not in [one.name for one in loop_steps(replace(RUN, approval=False))]
    assert len(cut("x " * 500)) <= MOST_CHARS
    worse = replace(RUN, state=RunState.STOPPED, **RELEASED, **ENDED)
    assert {one.name: one.more for one in loop_steps(worse)}["New release"] == "worse than its parent"


def test_every_state_has_a_colour() -> None:
    assert set(KINDS) == set(RunState)


def test_the_headline_is_about_what_waits_for_a_person_first() -> None:
    waiting = replace(RUN, state=RunState.AWAITING_APPROVAL)
    failed = replace(RUN, state=RunState.FAILED, says="it failed: no memory", ended_at=NOW)
    assert headline([TRIGGER], [RUN, waiting])[:2] == ("warn", "1 retraining waits for approval")
    assert headline([TRIGGER], [RUN, failed])[:2] == ("run", "1 retraining under way")
    assert headline([], [])[:2] == ("off", "No trigger yet")
    assert headline([TRIGGER], [failed])[0] == "bad"
    assert headline([TRIGGER], [])[2] == "1 trigger watches the fleet."


def test_a_trigger_in_words() -> None:
    assert terms_text(TRIGGER) == "at most 4 in 30 d, 1 d between two, after it has lasted 1 h"
    assert budget_left(TRIGGER) == (3, 75.0, "f-ok")
    assert budget_left(replace(TRIGGER, used=9))[0] == 0
    assert budget_left(replace(TRIGGER, budget=0)) == (0, 0.0, "f-bad")
    assert rollout_text(TRIGGER) == "rolled out by canary to site=hall"
    assert rollout_text(replace(TRIGGER, rollout=None)) == "only published"
    assert picked(["a", "b"], "c", "x", "y", "z") == picked(["a", "b"], "a", "drift", "runner", "canary")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, dict[str, str]]]:
    """A fleet with retrainings in many states; tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("retrained") / "server")
    yield fleet, retrained(fleet)
    fleet.close()


def test_the_page_lists_triggers_and_retrainings(told: tuple[Fleet, dict[str, str]]) -> None:
    fleet, ids = told
    page = fleet.browser(Role.VIEWER).get("/retraining")
    assert page.status_code == 200
    said = text_of(page.text)
    assert "1 retraining waits for approval" in said
    for run in ids.values():
        assert f'href="/retraining/{run}"' in page.text
    assert "3 of 4 left" in said
    assert "New trigger" not in said, "a viewer makes none"
    only = text_of(fleet.browser(Role.VIEWER).get("/retraining?model=fails").text)
    assert "fails-drift" in only
    assert "stops-drift" not in only


def test_a_retraining_shows_the_whole_loop(told: tuple[Fleet, dict[str, str]]) -> None:
    fleet, ids = told
    browser = fleet.browser(Role.VIEWER)
    said = text_of(browser.get(f"/retraining/{ids['promoted']}").text)
    for word in (
        "873 records",
        "on box-3",
        "digits@1.1.0",
        "finished",
        "gone",
        "input.mean",
        "9 of 12 devices",
        "low_confidence",
    ):
        assert word in said, word
    failed = text_of(browser.get(f"/retraining/{ids['failed']}").text)
    assert "MemoryError: 4.1 GB" in failed
    assert "edgectl retrain start fails-drift" in failed
    assert "epoch 7 of 12" in text_of(browser.get(f"/retraining/{ids['training']}").text)
    assert browser.get("/retraining/rt-nobody").status_code == 404
    assert browser.get("/retraining/triggers/nobody").status_code == 404


def test_a_trigger_shows_its_terms_and_what_it_started(told: tuple[Fleet, dict[str, str]]) -> None:
    fleet, ids = told
    page = fleet.browser(Role.VIEWER).get("/retraining/triggers/digits-drift")
    said = text_of(page.text)
    assert "Drift on several devices; at most 4 in 30 d" in said
    assert ids["promoted"] in page.text
    assert not [one for one in forms(page.text) if one.action.startswith("/do/")], "a viewer changes nothing"


def test_empty_pages_name_the_next_command(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.ADMIN)
    assert "edgectl trigger create NAME --model MODEL --on drift" in text_of(browser.get("/retraining").text)
    assert "edgectl publish MODEL" in text_of(browser.get("/retraining/new").text)
    assert "edgectl trigger create NAME --model MODEL" in text_of(browser.get("/retraining/start").text)


def person(fleet: Fleet, name: str, *roles: Role, model: str = "", kind: PersonKind = PersonKind.PERSON) -> TestClient:
    """Return a browser of a person or a service of their own."""
    is_service = kind is PersonKind.SERVICE
    if is_service:
        fleet.parts.access.people.create(name, kind, by="test")
    scoped = [Grant(role, Scope(models=frozenset({model}))) for role in roles] if model else []
    made = fleet.parts.access.create_token(
        name, () if model else roles, by="test", person=name if is_service else "", scoped=scoped
    )
    browser = fleet.browser()
    assert browser.post("/login", data={"token": made.token}).status_code == 303
    return browser


def test_a_trigger_is_made_started_and_approved_by_another_person_from_pages(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", "generic-x86_64-ort")
    ann = person(fleet, "ann", Role.PUBLISHER, Role.OPERATOR, Role.APPROVER)
    page = ann.get("/retraining/new?model=digits&on=hand&launcher=runner&strategy=canary")
    answer = send(ann, form(page.text, "/do/create_trigger"), {"body.rollout.selector": "site=hall"})
    assert answer.headers["location"] == "/retraining/triggers/digits-hand", answer.text
    made = fleet.house.client(Role.VIEWER).get(f"{API}/triggers/digits-hand").json()
    assert (made["approval"], made["rollout"], made["data"]["most"]) == (
        True,
        {"strategy": "canary", "selector": "site=hall"},
        1000,
    )
    started = send(ann, form(ann.get("/retraining/start?model=digits").text, "/do/start_retraining"))
    run = started.headers["location"]
    assert re.fullmatch(r"/retraining/rt-[0-9a-f]+", run)
    mine = ann.get(run).text
    assert [one.action for one in forms(mine) if one.action.startswith("/do/")] == ["/do/cancel_retraining"]
    assert "needs a person who did not make this trigger or start it" in text_of(mine)
    robot = person(fleet, "robot", Role.APPROVER, kind=PersonKind.SERVICE)
    assert "/do/approve_retraining" not in robot.get(run).text, "a service approves nothing"
    bob = person(fleet, "bob", Role.APPROVER, model="digits")
    approve = form(bob.get(run).text, "/do/approve_retraining")
    untyped = send(bob, approve)
    assert untyped.status_code != 303, "the model's name is typed"
    assert send(bob, approve, {"confirm": "digits"}).status_code == 303
    state = fleet.house.client(Role.VIEWER).get(f"{API}/retrainings/{run.rpartition('/')[2]}").json()
    assert (state["state"], state["answered_by"]) == ("collecting", "bob")


def test_who_may_not_sees_no_button_and_is_refused(fleet: Fleet) -> None:
    run = begun(fleet, "digits", approval=True)
    other = person(fleet, "eve", Role.APPROVER, Role.PUBLISHER, model="ocr")
    page = other.get(f"/retraining/{run}").text
    assert not [one for one in forms(page) if one.action.startswith("/do/")]
    assert "for another part of the fleet" in text_of(page)
    key = re.search(r'name="form_key" value="([^"]+)"', page)
    assert key is not None
    for operation in ("approve_retraining", "cancel_retraining"):
        sent = other.post(
            f"/do/{operation}", data={"form_key": key[1], "path.retraining_id": run, "about.model": "ocr"}
        )
        assert sent.status_code == 403, operation


def test_a_trigger_is_switched_off_and_on_again_by_undo(fleet: Fleet) -> None:
    begun(fleet, "digits")
    admin = fleet.browser(Role.ADMIN)
    own = "/retraining/triggers/digits-drift"
    assert send(admin, form(admin.get(own).text, "/do/update_trigger", body__enabled="false")).status_code == 303
    page = admin.get(own)
    assert "It is switched off" in text_of(page.text)
    undo = next(
        one for one in forms(page.text) if one.action == "/do/update_trigger" and ("said", "Undone.") in one.fields
    )
    assert send(admin, undo).status_code == 303
    assert fleet.house.client(Role.VIEWER).get(f"{API}/triggers/digits-drift").json()["enabled"] is True


def test_which_records_are_collected_is_said_and_changed_on_pages(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", "generic-x86_64-ort")
    admin, api = fleet.browser(Role.ADMIN), fleet.house.client(Role.VIEWER)
    page = admin.get("/retraining/new?model=digits&on=hand&strategy=none").text
    picked_fields = {"body.data.most": "50", "body.data.wait_s": "3600", "body.data.reasons": "low_confidence"}
    assert send(admin, form(page, "/do/create_trigger"), picked_fields).status_code == 303
    data = api.get(f"{API}/triggers/digits-hand").json()["data"]
    assert data == {"most": 50, "devices": 20, "reasons": ["low_confidence"], "wait_s": 3600}
    own = admin.get("/retraining/triggers/digits-hand").text
    change = form(own, "/do/update_trigger", body__data__most="50")
    checked = re.findall(r'name="body.data.reasons" value="([a-z_]+)" checked', own)
    assert checked == ["low_confidence"]
    assert ("body.data.wait_s", "3600") in change.fields
    assert (
        "edgectl trigger change digits-hand --most 50 --devices 20 --reason low_confidence --collect-for 3600s" in own
    )
    assert send(admin, change, {"body.data.devices": "5", "body.data.reasons": "drift"}).status_code == 303
    changed = api.get(f"{API}/triggers/digits-hand").json()["data"]
    assert (changed["devices"], changed["most"], changed["reasons"]) == (5, 50, ["drift"])


def test_a_secret_of_a_launcher_is_on_no_page(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    fleet.release("digits@1.0.0", "generic-x86_64-ort")
    admin = fleet.browser(Role.ADMIN)
    page = admin.get("/retraining/new?model=digits&on=hand&launcher=github&strategy=none")
    fields = {"body.launcher.settings.repository": "acme/digits", "body.launcher.settings.workflow": "retrain.yml"}
    sent = send(admin, form(page.text, "/do/create_trigger"), {**fields, "body.launcher.secret": "t0p-secret-token"})
    assert sent.status_code == 303, sent.text
    shown = admin.get("/retraining/triggers/digits-hand").text
    assert "acme/digits" in shown
    assert "with a stored secret" in text_of(shown)
    assert "t0p-secret-token" not in shown + admin.get("/retraining").text
    assert "t0p-secret-token" not in fleet.house.client(Role.ADMIN).get(f"{API}/triggers/digits-hand").text
    fleet.close()


def test_retrain_is_offered_where_drift_and_models_are_shown(fleet: Fleet) -> None:
    begun(fleet, "digits")
    link = 'href="/retraining/start?model=digits"'
    for path in ("/models/digits", "/models/digits/drift"):
        assert link in fleet.browser(Role.PUBLISHER).get(path).text, path
        assert link not in fleet.browser(Role.VIEWER).get(path).text, path
