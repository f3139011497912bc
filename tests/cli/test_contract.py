"""The contract of output: every command that reads, against a server without anything and one with a fleet, in every format.

The tree itself is walked: a command that is in no table here fails the test, so that none is forgotten.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefleet_cli.admin.installation.reference_page import leaves
from edgefleet_cli.tree import build
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, PersonKind, Principal, Role
from edgefleet_server.alerting.model import AlertAction
from tests.cli.conftest import Edgectl
from tests.server.access.known_identity import add_identity
from tests.server.access.local_issuer import rule
from tests.server.dashboard.fleet import ORT, Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.objectives.test_openslo import latency
from tests.server.rest.client_fleet import plan_move

FORMS = ("table", "wide", "json", "yaml", "name", "csv")

LISTS: dict[str, tuple[str, ...]] = {
    "model list": (),
    "release list": (),
    "bundle list": (),
    "key list": (),
    "rollout list": (),
    "rollout strategy": (),
    "experiment list": (),
    "device list": (),
    "group list": (),
    "protection list": (),
    "policy list": (),
    "device readmissions": (),
    "server move status": (),
    "key device-ca status": (),
    "profile list": (),
    "token list": (),
    "person list": (),
    "identity list": (),
    "trusted-pipeline list": (),
    "webhook list": (),
    "alert list": (),
    "alert rules list": (),
    "alert silence list": (),
    "alert window list": (),
    "alert contact list": (),
    "slo list": (),
    "alert-receiver list": (),
    "predictions list": (),
    "data list": (),
    "data sets": (),
    "trigger list": (),
    "retrain list": (),
    "audit list": (),
    "audit heads": (),
    "context list": (),
    "config view": (),
    "events": (),
    "get": ("group",),
}
"""Commands whose answer has `items`; they need no object."""

FACTS: dict[str, tuple[str, ...]] = {
    "key progress": (),
    "fleet summary": (),
    "fleet metrics": (),
    "cost": (),
    "whoami": (),
    "version": (),
    "doctor": (),
    "top": (),
    "export": (),
    "key trust": (),
}
"""Commands whose answer is something else, and that need no object."""

OBJECTS: dict[str, tuple[str, ...]] = {
    "model show": ("digits",),
    "release show": ("digits@1.1.0",),
    "release devices": ("digits@1.1.0",),
    "release performance": ("digits@1.1.0",),
    "bundle show": ("BUNDLE",),
    "key show": ("root",),
    "key export-public": ("director",),
    "model metrics": ("digits",),
    "model explain": ("digits",),
    "model compare": ("digits@1.0.0", "digits@1.1.0"),
    "rollout show": ("GOOD",),
    "rollout plan": ("GOOD",),
    "rollout simulate": ("GOOD",),
    "rollout explain": ("GOOD",),
    "rollout devices": ("GOOD",),
    "rollout status": ("GOOD",),
    "rollout history": ("digits",),
    "device show": ("DEVICE",),
    "device events": ("DEVICE",),
    "device metrics": ("DEVICE",),
    "device explain": ("DEVICE",),
    "device tasks": ("DEVICE",),
    "experiment show": ("TRIAL",),
    "group show": ("yard",),
    "protection show": ("vault",),
    "policy show": ("ecg-owned",),
    "identity show": ("i-dora",),
    "trusted-pipeline show": ("ci",),
    "group members": ("yard",),
    "group metrics": ("yard",),
    "profile show": (ORT,),
    "profile cost": (ORT,),
    "drift show": ("digits",),
    "trigger show": ("fog",),
    "retrain show": ("RUN",),
    "model card show": ("digits@1.0.0",),
    "drift features": ("digits",),
    "model accuracy": ("digits",),
    "alert show": ("ALERT",),
    "alert rules show": ("device_offline",),
    "slo show": ("digits-fast",),
    "alert contact deliveries": ("CONTACT",),
    "person show": ("dora",),
    "webhook show": ("WEBHOOK",),
    "webhook deliveries": ("WEBHOOK",),
}
"""Commands that read what a fleet has."""

EMPTY_TOO: dict[str, tuple[str, ...]] = {
    "capture-key show": (),
    "device claims": (),
    "device pending": (),
    "model alias list": ("digits",),
    "search": ("digits",),
}
"""Commands of ELSEWHERE that read a server: here they are run where there is nothing."""

ELSEWHERE = {
    "audit export": "tests/cli/test_audit.py: a file",
    "audit prove": "tests/cli/test_audit.py: a file",
    "audit verify": "tests/cli/test_audit.py: what TUF publishes",
    "bundle inspect": "tests/cli/test_bundles_and_keys.py: a file",
    "bundle verify": "tests/cli/test_bundles_and_keys.py: a file",
    "capture-key show": "tests/cli/test_captures.py",
    "context show": "tests/cli/test_contexts.py",
    "device watch": "tests/cli/test_watching.py: a stream",
    "device claims": "tests/cli/test_device_approval.py",
    "device pending": "tests/cli/test_device_approval.py",
    "explain": "tests/cli/explanation: a capture key and a child",
    "import show": "tests/cli/importing: reads another registry",
    "import watch": "tests/cli/importing/test_mlflow.py: a stream",
    "server openapi": "tests/server/rest: a document",
    "device logs": "tests/cli/test_device_tasks.py: asks the device",
    "diff": "tests/cli/test_declaring.py",
    "drift baseline show": "tests/cli/test_drift_commands.py: a release with a baseline",
    "feedback list": "tests/cli/test_feedback_commands.py: an upload of labels",
    "feedback show": "tests/cli/test_feedback_commands.py: an upload of labels",
    "drift explain": "tests/cli/test_drift_commands.py: a model whose devices counted signals",
    "model alias list": "tests/cli/test_more_commands.py",
    "predictions show": "tests/cli/test_predictions.py: a model whose answers are kept",
    "predictions files": "tests/cli/test_predictions.py: a log with a file",
    "predictions verify": "tests/cli/test_predictions.py: a log with parts",
    "data show": "tests/cli/test_predictions.py: a receipt",
    "prices show": "tests/cli/test_cost_commands.py: prices that were set",
    "profile validate": "tests/cli/test_profile_commands.py: a file",
    "profile schema": "tests/cli/test_profile_commands.py: a schema, always JSON",
    "policy check": "tests/cli/test_declaring.py: a file, or a release",
    "report verify": "tests/cli/test_report_commands.py: a file",
    "release report": "tests/cli/test_release_commands.py: a file",
    "rollout lint": "tests/cli/test_rollout_commands.py: a file",
    "rollout watch": "tests/cli/test_rollout_watch.py: a stream",
    "search": "tests/cli/test_more_commands.py",
    "server check broker": "tests/broker/test_outside_check.py: a broker that the server does not run",
    "server garbage-collect": "tests/cli/test_garbage_commands.py: a data folder",
    "server upgrade-schema": "tests/cli/test_schema_upgrade_command.py: a database",
    "server verify-backup": "tests/server/backup: a place of backups",
    "server check": "tests/cli/test_server_check.py: a data folder",
    "server seal": "tests/cli/test_server_check.py: a data folder",
    "tool list": "tests/cli/test_tool_commands.py: this machine",
}
"""Commands that read something else than a server's lists and objects, and where they are tested."""

UNNAMED = {
    ("profile cost", "name"), ("drift features", "name"), ("model explain", "name"), ("model accuracy", "name"),
    ("group metrics", "table"), ("group metrics", "wide"), ("group metrics", "name"),
    ("key device-ca status", "table"), ("key device-ca status", "wide"), ("key device-ca status", "name"),
}  # fmt: skip
"""Commands that have nothing to name until devices have reported on a model, or for a while, or until a CA is rotated."""

ACTS = {
    "alert ack", "alert contact create", "alert contact delete", "alert contact set", "alert contact test", "alert rules set",
    "slo delete", "slo set", "prices remove", "prices set",
    "data export", "data purge", "model card set", "report compliance",
    "retrain approve", "retrain cancel", "retrain fail", "retrain reject", "retrain start", "retrain worker",
    "trigger change", "trigger create", "trigger disable", "trigger enable", "trigger remove", "trigger start",
    "alert silence create",
    "alert silence end", "alert window create", "alert window delete",
    "alert-receiver create", "alert-receiver delete", "drift baseline clear", "drift baseline set", "feedback upload",
    "apply", "capture-key create", "capture-key open", "capture-key remove",
    "capture-key set",
    "device approve", "device ask", "device reject", "device revoke-claim", "import write-back", "server down", "server up",
    "completion", "context add", "context remove", "context use", "convert", "dashboard", "delete", "demo", "deploy",
    "device capture", "device clear-suspicion", "device diag", "device enroll", "device label", "device measure", "device pin",
    "device rename", "device restart", "device revoke", "device set-profile", "device unpin", "group change", "group create",
    "group delete",
    "key ceremony", "key device-ca finish", "key device-ca start", "key device-ca undo",
    "key init", "key revoke", "key rotate", "key sign", "key team",
    "device readmit",
    "policy approve", "policy delete", "policy keep", "policy set",
    "protection add", "protection break-glass", "protection keep", "protection remove",
    "login", "logout", "model alias remove", "options", "predictions keep", "predictions stop", "predictions export", "data erase",
    "model alias set", "model pull", "publish",
    "release cancel", "release delete", "release sign", "release withdraw", "server agent-packages add", "server monitoring-files",
    "server backup", "server backup-key create",
    "server broker-files", "server broker-trust", "server migrate", "server restore", "server restored", "server signer",
    "server move finish", "server move plan", "server move start", "server move undo",
    "rollout abort", "rollout approve", "rollout create", "rollout deny", "rollout pause", "rollout promote",
    "rollout resume", "rollout retry", "rollout rollback", "rollout skip", "server init", "server start", "sim", "sim fleet",
    "identity link", "identity unlink",
    "trusted-pipeline add", "trusted-pipeline remove",
    "person add", "person invite", "person disable", "person enable", "person grant", "person revoke-grant",
    "token create", "token revoke",
    "tool install", "tool remove",
    "undo", "webhook create", "webhook delete", "webhook redeliver", "webhook rotate", "webhook test",
}  # fmt: skip
"""Commands that change something, or write something else than data."""


def test_every_command_is_in_a_table() -> None:
    known = [*LISTS, *FACTS, *OBJECTS, *ELSEWHERE, *ACTS]
    assert len(known) == len(set(known))
    assert {path.removeprefix("edgectl ") for path, _ in leaves(build())} == set(known)


TRIAL = [
    {"name": "beside", "size": {"percent": 100}, "soak": "1h", "mode": "shadow"},
    {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
]
"""Stages of a rollout that is an experiment too."""


class Served:
    """A fleet behind an address, with the names that commands are given."""

    def __init__(self, fleet: Fleet, url: str) -> None:
        self.url = url
        self.token = fleet.house.token(Role.ADMIN)
        self.names: dict[str, str] = {}


def alarming(fleet: Fleet, device: str) -> dict[str, str]:
    """Let an alert fire, and make a contact point, a silence and a maintenance window; return the names of the first two."""
    fleet.parts.fleet.suspicion.mark(device, "it reported a golden failure that nobody else sees")
    fleet.parts.alarm.engine.tick()
    (alert, *_rest) = fleet.parts.alarm.alerts.firing(5)
    admin = fleet.house.client(Role.ADMIN)
    contact = admin.post("/api/v1/contact-points", json={"name": "ops", "url": "ntfy://edgefleet"}).json()["id"]
    for path, body in (
        ("alert-silences", {"matchers": ["site=osaka"], "for_s": 3600, "comment": "new router"}),
        ("maintenance-windows", {"name": "nightly", "cron": "0 1 * * *", "duration_s": 3600}),
    ):
        assert admin.post(f"/api/v1/{path}", json=body).status_code == 201
    assert admin.put("/api/v1/slos/digits-fast", json=latency()).status_code == 201
    return {"ALERT": str(alert.id), "CONTACT": contact}


def retraining(fleet: Fleet) -> str:
    """Make a trigger and start it; return the id of the retraining."""
    admin = fleet.house.client(Role.ADMIN)
    assert admin.post("/api/v1/triggers", json={"name": "fog", "model": "digits", "on": "hand"}).status_code == 201
    started = admin.post("/api/v1/triggers/fog:start", json={"reason": "fog"})
    assert started.status_code == 201, started.text
    return str(started.json()["id"])


def owned(fleet: Fleet) -> None:
    """Set a policy about a model that there is not."""
    maker = Principal("", "ann", frozenset())
    fleet.parts.governance.policies.set("ecg-owned", ["ecg"], ["owner"], None, maker)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without anything."""
    fleet = Fleet(tmp_path_factory.mktemp("empty") / "server")
    with served(fleet.house.own_app()) as url:
        made = Served(fleet, url)
        made.names = {"BUNDLE": "0" * 64, "ALERT": "1"}
        yield made
    fleet.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with ten devices, a good and a bad rollout, groups, a webhook, an alert receiver."""
    fleet = Fleet(tmp_path_factory.mktemp("filled") / "server", webhook_networks=["192.0.2.0/24"], broker_port=8883)
    good, bad = staged(fleet)
    fleet.parts.fleet.groups.create("yard", "site=yard", "ann")
    fleet.parts.access.people.create("dora", PersonKind.PERSON, by="ann")
    scope = Scope(frozenset({"digits"}), frozenset({"yard"}), frozenset({"yard", "berlin-brandenburg"}))
    fleet.parts.access.people.grant("dora", Grant(Role.OPERATOR, scope))
    fleet.parts.fleet.protection.add("vault", "site=vault", "ann")
    owned(fleet)
    plan_move(fleet)
    fleet.parts.pipelines.add(rule("ci"))
    add_identity(fleet.parts.db, "i-dora")
    hook = fleet.parts.webhooks.create("ops", "https://192.0.2.7/hook", ["edgefleet.rollout.*"], "ann")
    fleet.parts.alerts.create("prod", AlertAction.PAUSE, ["severity=critical"], "digits", "ann")
    device = min(fleet.by_id)
    fleet.by_id[device].measure()
    fleet.by_id[max(fleet.by_id)].ask_to_come_back()
    fleet.release("seeds@1.0.0", ORT)  # of another model: devices still go back from the bad rollout
    trial = fleet.parts.rollout.create({"release": "seeds@1.0.0", "selector": "", "stages": TRIAL}, "ann")
    bundle = fleet.parts.registry.newest_bundles(ORT, 1)[0].sha256
    admin = fleet.house.client(Role.ADMIN)
    assert admin.post(f"/api/v1/devices/{device}/tasks", json={"kind": "diag"}).status_code == 201
    assert admin.post(f"/api/v1/webhooks/{hook.webhook.id}:ping", json={}).status_code == 202
    fleet.parts.predictions.set("digits", "ann", ratio=1.0, inputs=False, keep_days=30)
    fleet.parts.erasures.erase("ann", [], "ann")
    written = {
        "model": "digits",
        "digest": "a" * 64,
        "format": "npz",
        "place": "ann:/fog",
        "records": [{"device": device, "record": "ab"}],
    }
    assert admin.post("/api/v1/data-sets", json=written).status_code == 201
    alarms = alarming(fleet, device)
    assert admin.post(f"/api/v1/contact-points/{alarms['CONTACT']}:test", json={}).status_code == 202
    assert fleet.parts.access.chain.make_head() is not None
    with served(fleet.house.own_app()) as url:
        made = Served(fleet, url)
        made.names = {
            "GOOD": good,
            "BAD": bad,
            "DEVICE": device,
            "WEBHOOK": hook.webhook.id,
            "BUNDLE": bundle,
            "TRIAL": str(trial),
            "RUN": retraining(fleet),
            **alarms,
        }
        yield made
    fleet.close()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server where everything that commands name is there, and nothing in it: no report, no member, no delivery."""
    fleet = Fleet(tmp_path_factory.mktemp("bare") / "server", webhook_networks=["192.0.2.0/24"], broker_port=8883)
    fleet.release("digits@1.0.0")
    fleet.release("digits@1.1.0", ORT)
    device = fleet.device("cam").id
    fleet.parts.fleet.groups.create("yard", "site=yard", "ann")
    fleet.parts.access.people.create("dora", PersonKind.PERSON, by="ann")
    fleet.parts.fleet.protection.add("vault", "site=vault", "ann")
    owned(fleet)
    plan_move(fleet)
    fleet.parts.pipelines.add(rule("ci"))
    add_identity(fleet.parts.db, "i-dora")
    hook = fleet.parts.webhooks.create("ops", "https://192.0.2.7/hook", ["edgefleet.rollout.*"], "ann")
    trial = fleet.parts.rollout.create({"release": "digits@1.1.0", "selector": "", "stages": TRIAL}, "ann")
    bundle = fleet.parts.registry.newest_bundles(ORT, 1)[0].sha256
    alarms = alarming(fleet, device)
    with served(fleet.house.own_app()) as url:
        made = Served(fleet, url)
        made.names = {
            "GOOD": str(trial),
            "TRIAL": str(trial),
            "RUN": retraining(fleet),
            "DEVICE": device,
            "WEBHOOK": hook.webhook.id,
            "BUNDLE": bundle,
            **alarms,
        }
        yield made
    fleet.close()


def _run(edgectl: Edgectl, there: Served, command: str, arguments: tuple[str, ...], form: str) -> Any:
    named = [there.names.get(word, word) for word in arguments]
    return edgectl(*command.split(), *named, "-o", form, "--server", there.url, "--token", there.token)


def _check(out: str, form: str, *, has_items: bool) -> None:
    """Fail unless what is on stdout is what the format promises, and nothing else."""
    if form == "json":
        document = json.loads(out)
        assert isinstance(document, dict)
        assert not has_items or isinstance(document["items"], list)
    elif form == "yaml":
        assert all(isinstance(one, dict) for one in yaml.safe_load_all(out))
    elif form == "csv":
        rows = list(csv.reader(io.StringIO(out)))
        assert rows
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(rows[0])
    elif form == "name":
        assert all(line.strip() == line and line for line in out.splitlines())
    elif form == "table":
        assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", [*LISTS, *FACTS])
def test_an_empty_server(
    edgectl: Edgectl, empty: Served, monkeypatch: pytest.MonkeyPatch, command: str, form: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = (LISTS | FACTS)[command]
    ran = _run(edgectl, empty, command, arguments, form)
    assert ran.code == 0, ran.err
    _check(ran.out, form, has_items=command in LISTS)


@pytest.mark.parametrize("command", [*OBJECTS, *EMPTY_TOO])
def test_what_an_empty_server_has_not_is_an_error_and_no_half_document(
    edgectl: Edgectl, empty: Served, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for form in FORMS:
        ran = _run(edgectl, empty, command, (OBJECTS | EMPTY_TOO)[command], form)
        assert ran.code in {0, 5}, (form, ran.err)
        if ran.code == 5:
            assert ran.out == "", form
            ran.told()
        else:
            _check(ran.out, form, has_items=command in {"device claims", "device pending", "search"})


@pytest.mark.parametrize("command", OBJECTS)
def test_a_thing_with_nothing_in_it(
    edgectl: Edgectl, bare: Served, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    goes_on = {"rollout status": 8, "device explain": 1}
    for form in FORMS:
        ran = _run(edgectl, bare, command, OBJECTS[command], form)
        assert ran.code in {0, goes_on.get(command, 0)}, (form, ran.err)
        _check(ran.out, form, has_items=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", [*LISTS, *FACTS, *OBJECTS])
def test_a_server_with_a_fleet(
    edgectl: Edgectl, filled: Served, monkeypatch: pytest.MonkeyPatch, command: str, form: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = (LISTS | FACTS | OBJECTS)[command]
    edgectl("context", "add", "lab", "--server", filled.url)
    ran = _run(edgectl, filled, command, arguments, form)
    assert ran.code in ({0, 1} if command in {"doctor", "device explain"} else {0}), ran.err
    assert ran.out.strip() or (command, form) in UNNAMED, "no device has reported on a model yet"
    _check(ran.out, form, has_items=command in LISTS)


def test_what_is_empty_is_an_empty_list_and_a_remark(edgectl: Edgectl, empty: Served) -> None:
    for command in ("model list", "release list", "rollout list", "device list", "group list", "webhook list"):
        assert _run(edgectl, empty, command, (), "json").json["items"] == []
        ran = _run(edgectl, empty, command, (), "table")
        assert (ran.out, ran.err.startswith("no ")) == ("", True)


def test_the_page_of_the_commands_is_current() -> None:
    from edgefleet_cli.admin.installation.reference_page import page

    written = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
    assert written.read_text("utf-8") == page(), (
        "run: ./dev run python -m edgefleet_cli.admin.installation.reference_page docs/reference"
    )
