"""What starts a training is sent to receivers that check requests as the real ones do; what they answer is read, retried or reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.retraining.launchers.launch_sender import LaunchSender
from edgefleet_server.retraining.launchers.model import Launched, LaunchNotice, LaunchOutcome, LaunchState
from edgefleet_server.retraining.launchers.settings_reader import read_target
from tests.server.retraining.training_systems import Airflow, Databricks, Github, Gitlab
from tests.server.webhook.independent import is_signed
from tests.support.receivers import LOOPBACK, Answer, Got, receiving
from tests.support.servers import HandClock

NOW = datetime(2026, 12, 1, 20, 0, tzinfo=UTC)
TOKEN = "t0ken-that-nobody-may-read"  # made up
KEY = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
MOVED = tuple({"name": f"input.mean.{n}", "said": "0.9 of its spread", "moved": 9, "of": 10} for n in range(50))
NOTICE = LaunchNotice(
    "rt-abc234",
    "fog",
    "digits",
    "digits@1.1.0",
    "https://fleet.example",
    NOW,
    "3 of 4 devices see other inputs",
    "17",
    MOVED,
)
GITHUB = {"repository": "acme/digits", "workflow": "retrain.yml", "input_epochs": "3"}
GITLAB = {"project": "acme/digits", "input_epochs": "3"}
DATABRICKS = {"job": "4711", "input_epochs": "3"}
AIRFLOW = {"shape": "airflow", "dag": "retrain", "user": "fleet"}


def sender() -> LaunchSender:
    clock = HandClock(NOW)
    return LaunchSender(HttpPoster(parse_networks(LOOPBACK), clock), clock, "urn:edgefleet:lab", 10.0, draw=lambda: 0.0)


def start(
    kind: str,
    settings: dict[str, str],
    answer: Callable[[Got], Answer],
    *,
    place: str = "url",
    secret: str = TOKEN,
    tries: int = 1,
) -> tuple[LaunchOutcome, list[Got]]:
    """Make one try at a receiver. place: the setting that has its address."""
    with receiving(answer) as receiver:
        base = receiver.url.removesuffix("/hook")
        target = read_target(
            kind, {**settings, place: base if place != "url" or "dag" in settings else receiver.url}, secret
        )
        return sender().start(target, NOTICE, tries), receiver.got


def test_github_starts_the_workflow_and_says_which_run() -> None:
    github = Github(TOKEN)
    outcome, got = start("github", GITHUB, github, place="api")
    assert (outcome.state, outcome.status) == (LaunchState.STARTED, 200)
    assert outcome.launched == Launched("22000000001", "https://github.com/acme/digits/actions/runs/22000000001")
    assert got[0].headers["x-github-api-version"] == "2022-11-28"
    [inputs] = github.inputs
    assert {**inputs, "message": ""} == {
        "retraining": "rt-abc234", "model": "digits", "parent": "digits@1.1.0", "epochs": "3", "message": "",
    }  # fmt: skip
    assert json.loads(inputs["message"])["captures"] == "/api/v1/retrainings/rt-abc234/captures"


def test_an_older_github_server_is_asked_again_without_the_details() -> None:
    github = Github(TOKEN, knows_details=False)
    outcome, got = start("github", GITHUB, github, place="api")
    assert (outcome.state, outcome.status, outcome.launched) == (LaunchState.STARTED, 204, Launched())
    assert [("return_run_details" in one.json) for one in got] == [True, False]
    assert len(github.inputs) == 1


def test_gitlab_starts_the_pipeline() -> None:
    gitlab = Gitlab(TOKEN)
    outcome, _ = start("gitlab", GITLAB, gitlab, place="server")
    assert outcome.launched == Launched("4001", "https://gitlab.example/acme/digits/-/pipelines/4001")
    [variables] = gitlab.variables
    assert {name: variables[name] for name in ("EDGEFLEET_RUN", "EDGEFLEET_MODEL", "EDGEFLEET_PARENT_RELEASE", "EPOCHS")} == {
        "EDGEFLEET_RUN": "rt-abc234", "EDGEFLEET_MODEL": "digits", "EDGEFLEET_PARENT_RELEASE": "digits@1.1.0", "EPOCHS": "3",
    }  # fmt: skip
    assert json.loads(variables["EDGEFLEET_MESSAGE"])["cause"]["words"] == NOTICE.words


def test_databricks_starts_one_run_however_often_it_is_asked() -> None:
    databricks = Databricks(TOKEN)
    first, _ = start("mlflow", DATABRICKS, databricks, place="host")
    second, _ = start("mlflow", DATABRICKS, databricks, place="host", tries=2)
    assert first.launched.id == second.launched.id == "501"
    assert first.launched.where.endswith("/#job/4711/run/501")
    assert list(databricks.runs) == ["rt-abc234"]
    assert databricks.runs["rt-abc234"]["epochs"] == "3"


def test_airflow_is_signed_in_to_and_a_second_start_is_the_first() -> None:
    airflow = Airflow("fleet", TOKEN)
    first, _ = start("webhook", AIRFLOW, airflow)
    second, _ = start("webhook", AIRFLOW, airflow, tries=2)
    assert (first.state, first.status) == (LaunchState.STARTED, 200)
    assert (second.state, second.status) == (LaunchState.STARTED, 409)
    assert second.launched.where.endswith("/dags/retrain/runs/rt-abc234")
    assert airflow.runs["rt-abc234"]["model"] == "digits"
    with_token, _ = start("webhook", {"shape": "airflow", "dag": "retrain"}, airflow, secret=airflow.token, tries=3)
    assert with_token.status == 409
    wrong, got = start("webhook", AIRFLOW, airflow, secret="wrong")
    assert (wrong.state, wrong.why) == (LaunchState.FAILED, "Airflow answered 401: Invalid credentials")
    assert [one.path for one in got] == ["/auth/token"]


def test_a_webhook_gets_a_signed_event_with_the_same_id_in_every_try() -> None:
    outcome, got = start(
        "webhook", {}, lambda _got: (202, {}, b'{"id": 7, "url": "https://argo.example/w/7"}'), secret=KEY
    )
    assert outcome.launched == Launched("7", "https://argo.example/w/7")
    again, more = start("webhook", {}, lambda _got: 204, secret=KEY, tries=2)
    assert again.state is LaunchState.STARTED
    assert got[0].id == more[0].id == "start-rt-abc234"
    assert is_signed(KEY, dict(got[0].headers), got[0].body, NOW.timestamp())
    assert "authorization" not in got[0].headers
    event = got[0].json
    assert (event["type"], event["subject"], event["specversion"]) == ("edgefleet.retraining.start", "rt-abc234", "1.0")
    assert event["data"]["parent"] == "digits@1.1.0"
    _, plain = start("webhook", {}, lambda _got: 204)
    assert plain[0].headers["authorization"] == f"Bearer {TOKEN}", "Argo Events asks for a bearer token"
    assert "webhook-signature" not in plain[0].headers


@pytest.mark.parametrize(
    ("answer", "state", "after_s"),
    [
        ((429, {"retry-after": "120"}, b""), LaunchState.AGAIN, 120), ((429, {}, b""), LaunchState.AGAIN, 5),
        ((500, {}, b""), LaunchState.AGAIN, 5), ((503, {"retry-after": "99999999"}, b""), LaunchState.AGAIN, 3600),
        ((403, {"retry-after": "60"}, b"rate limit"), LaunchState.AGAIN, 60), ((403, {}, b""), LaunchState.FAILED, 0),
        ((400, {}, b""), LaunchState.FAILED, 0), ((404, {}, b""), LaunchState.FAILED, 0), ((422, {}, b""), LaunchState.FAILED, 0),
        ((302, {"location": "http://127.0.0.1/"}, b""), LaunchState.FAILED, 0), ((410, {}, b""), LaunchState.FAILED, 0),
    ],
)  # fmt: skip
def test_only_what_may_pass_is_tried_again(answer: Answer, state: LaunchState, after_s: float) -> None:
    outcome, got = start("github", GITHUB, lambda _got: answer, place="api")
    assert (outcome.state, outcome.after_s, len(got)) == (state, after_s, 1)
    assert bool(outcome.next_step) == (state is LaunchState.FAILED)


def test_nobody_there_is_tried_again_and_reported_at_the_end() -> None:
    with receiving() as receiver:
        target = read_target("webhook", {"url": receiver.url}, KEY)
    first = sender().start(target, NOTICE, 1)
    assert (first.state, first.status) == (LaunchState.AGAIN, None)
    last = sender().start(target, NOTICE, 5)
    assert last.state is LaunchState.FAILED
    assert "5 times" in last.why
    assert last.next_step


def test_an_address_of_our_own_network_is_refused_at_once() -> None:
    clock = HandClock(NOW)
    strict = LaunchSender(HttpPoster([], clock, resolve=lambda _host, _port: ["10.0.0.7"]), clock, "urn:x", 5.0)
    outcome = strict.start(read_target("webhook", {"url": "https://inside.example/hook"}, KEY), NOTICE, 1)
    assert outcome.state is LaunchState.FAILED
    assert "10.0.0.7" in outcome.why


@pytest.mark.parametrize(
    ("kind", "settings", "place"),
    [
        ("github", GITHUB, "api"), ("gitlab", GITLAB, "server"), ("mlflow", DATABRICKS, "host"), ("webhook", AIRFLOW, "url"),
        ("webhook", {}, "url"),
    ],
)  # fmt: skip
def test_a_secret_that_a_receiver_repeats_is_shown_nowhere(
    kind: str, settings: dict[str, str], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def parrot(got: Got) -> Answer:
        said: dict[str, Any] = {
            "message": f"got {got.body.decode()} {dict(got.headers)}",
            "html_url": f"https://x.example/{TOKEN}",
        }
        return 400, {}, json.dumps(said).encode()

    refused, _ = start(kind, settings, parrot, place=place)
    taken, _ = start(kind, settings, lambda got: (200, {}, parrot(got)[2]), place=place)  # type: ignore[index]
    assert refused.state is LaunchState.FAILED
    for text in (repr(refused), repr(taken), caplog.text, repr([vars(one) for one in caplog.records])):
        assert TOKEN not in text


def test_no_value_prints_its_secret() -> None:
    target = read_target("github", GITHUB, TOKEN)
    assert TOKEN not in repr(target)


@pytest.mark.parametrize(
    "bad",
    [
        "javascript:alert(1)",
        'https://x.example/"><script>',
        "https://x.example/" + "a" * 600,
        "file:///etc/passwd",
        " ",
    ],
)
def test_an_answer_becomes_no_link_that_a_page_must_not_have(bad: str) -> None:
    outcome, _ = start("webhook", {}, lambda _got: (200, {}, json.dumps({"url": bad}).encode()), secret=KEY)
    assert outcome.launched.where == ""
