"""Settings of launchers: what is taken, what is refused and why; and that nothing sent is larger than its receiver takes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.retraining.launchers import databricks_job, github_workflow, gitlab_pipeline
from edgefleet_server.retraining.launchers.errors import BadLauncherError, LaunchTooLargeError
from edgefleet_server.retraining.launchers.launch_notice import message_text
from edgefleet_server.retraining.launchers.launch_rules import safe_where, said_of
from edgefleet_server.retraining.launchers.model import (
    DatabricksJob,
    GithubWorkflow,
    GitlabPipeline,
    LaunchNotice,
    ReceiverKind,
)
from edgefleet_server.retraining.launchers.settings_reader import read_target
from tests.house.tree import ROOT

NOW = datetime(2026, 12, 1, 20, 0, tzinfo=UTC)
GITHUB = {"repository": "acme/digits", "workflow": "retrain.yml"}


@pytest.mark.parametrize(
    ("kind", "settings", "receiver"),
    [
        ("github", GITHUB, ReceiverKind.GITHUB),
        ("github", {**GITHUB, "api": "https://ghe.example/api/v3/", "ref": "release/1.x", "workflow": "12345"}, ReceiverKind.GITHUB),
        ("gitlab", {"project": "17"}, ReceiverKind.GITLAB),
        ("gitlab", {"project": "group/sub-group/digits", "server": "https://git.example"}, ReceiverKind.GITLAB),
        ("mlflow", {"host": "https://dbc-1.cloud.databricks.com", "job": "4711"}, ReceiverKind.DATABRICKS),
        ("webhook", {"url": "https://air.example", "shape": "airflow", "dag": "retrain"}, ReceiverKind.AIRFLOW),
        ("webhook", {"url": "https://argo.example/hook?x=1", "shape": "event"}, ReceiverKind.WEBHOOK),
    ],
)  # fmt: skip
def test_what_is_taken(kind: str, settings: dict[str, str], receiver: ReceiverKind) -> None:
    assert read_target(kind, settings, "token").kind is receiver


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        ("jenkins", {}, "jenkins"), ("github", {"workflow": "a.yml"}, "repository"),
        ("github", {**GITHUB, "repository": "digits"}, "OWNER/"),
        ("github", {**GITHUB, "repository": "acme/.."}, "OWNER/"), ("github", {**GITHUB, "workflow": "../x.yml"}, "workflow"),
        ("github", {**GITHUB, "repository": "acme/a?b"}, "OWNER/"), ("github", {**GITHUB, "ref": "a b"}, "branch"),
        ("github", {**GITHUB, "api": "ftp://x"}, "api"), ("github", {**GITHUB, "api": "https://x.example/?a"}, "query"),
        ("github", {**GITHUB, "api": "https://user@x.example"}, "api"), ("github", {**GITHUB, "projekt": "x"}, "projekt"),
        ("github", {**GITHUB, "input_message": "x"}, "input_message"), ("github", {**GITHUB, "input_a b": "x"}, "input_a b"),
        ("github", {**GITHUB, **{f"input_a{n}": "x" for n in range(21)}}, "at most 20"),
        ("github", {**GITHUB, "input_a": "x" * 4000}, "4000 bytes"),
        ("gitlab", {"project": "../x"}, "GROUP"), ("gitlab", {"project": "1", "input_edgefleet_run": "x"}, "edgefleet_run"),
        ("mlflow", {"uri": "git+https://x.example/p"}, "no call that starts a project"),
        ("mlflow", {"host": "https://x", "job": "0"}, "job"),
        ("webhook", {}, "url"), ("webhook", {"url": "https://x.example", "shape": "jenkins"}, "event or airflow"),
        ("webhook", {"url": "https://x.example", "shape": "airflow", "dag": ".."}, "DAG"),
        ("webhook", {"url": "https://x.example", "input_a": "x"}, "input_a"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(kind: str, settings: dict[str, str], word: str) -> None:
    with pytest.raises(BadLauncherError) as refused:
        read_target(kind, settings, "token")
    assert word in refused.value.message
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("kind", "settings", "secret"),
    [
        ("github", GITHUB, ""), ("github", GITHUB, "two words"), ("github", GITHUB, "line\nbreak"), ("github", GITHUB, "x" * 1001),
        ("webhook", {"url": "https://x.example"}, "whsec_c2hvcnQ="), ("webhook", {"url": "https://x.example"}, "whsec_not base64"),
        ("webhook", {"url": "https://x.example"}, "whsec_!"),
    ],
)  # fmt: skip
def test_a_secret_that_cannot_be_sent_is_refused_and_not_repeated(
    kind: str, settings: dict[str, str], secret: str
) -> None:
    with pytest.raises(BadLauncherError) as refused:
        read_target(kind, settings, secret)
    assert not secret or secret not in refused.value.message + refused.value.next_step


notices = st.builds(
    LaunchNotice,
    retraining=st.from_regex(r"rt-[a-z2-7]{13}", fullmatch=True),
    trigger=st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True),
    model=st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True),
    parent=st.from_regex(r"[a-z]{1,60}@[0-9.]{1,60}", fullmatch=True),
    server=st.from_regex(r"https://[a-z]{1,200}\.example", fullmatch=True),
    deadline=st.just(NOW),
    words=st.text(max_size=3000),
    alert=st.from_regex(r"[0-9]{0,12}", fullmatch=True),
    moved=st.lists(
        st.fixed_dictionaries({"name": st.text(max_size=300), "said": st.text(max_size=300)}), max_size=80
    ).map(tuple),
)
extras = st.dictionaries(st.from_regex(r"[a-z]{1,20}x", fullmatch=True), st.text(max_size=200), max_size=20).filter(
    lambda found: len(json.dumps(found)) <= 4000
)


def is_whole(text: str, notice: LaunchNotice) -> None:
    """Check that what a training needs is in a message, and that it says what is not."""
    found: dict[str, Any] = json.loads(text)
    assert found["retraining"] == notice.retraining
    assert found["captures"].endswith("/captures")
    assert len(found["cause"]["moved"]) + found["cause"].get("moved_left_out", 0) == len(notice.moved)
    assert notice.words.startswith(found["cause"]["words"])


@given(notices, extras)
def test_no_request_is_larger_than_its_receiver_takes(notice: LaunchNotice, more: dict[str, str]) -> None:
    inputs = github_workflow.inputs_of(GithubWorkflow("https://api.github.com", "a/b", "c.yml", "main", more), notice)
    assert len(inputs) <= 25
    assert sum(len(name) + len(text) for name, text in inputs.items()) <= 65_535
    parameters = databricks_job.parameters_of(DatabricksJob("https://x.example", 1, more), notice)
    assert len(json.dumps(parameters, ensure_ascii=False, separators=(",", ":")).encode()) <= 10_000
    variables = gitlab_pipeline.variables_of(GitlabPipeline("https://x.example", "1", "main", more), notice)
    assert all("\0" not in text for text in variables.values() if text not in more.values())
    for text in (inputs["message"], parameters["message"], variables["EDGEFLEET_MESSAGE"]):
        is_whole(text, notice)
    token = json.loads(databricks_job.request_of(DatabricksJob("https://x.example", 1, more), "t", notice).body)[
        "idempotency_token"
    ]
    assert token == notice.retraining


def test_a_message_that_can_never_fit_is_said_to() -> None:
    notice = LaunchNotice("rt-a", "t", "m", "m@1", "https://x.example", NOW, "", "", ())
    with pytest.raises(LaunchTooLargeError):
        message_text(notice, lambda _text: False)


@given(st.text(max_size=400))
def test_what_a_receiver_says_is_one_short_printable_line(text: str) -> None:
    for body in (text, json.dumps({"message": text}), json.dumps({"error": {"x": text}}), json.dumps([text])):
        said = said_of(body)
        assert len(said) <= 300
        assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in said)
    where = safe_where(text)
    assert where == "" or where.startswith(("http://", "https://"))


def test_a_page_of_a_proxy_says_nothing() -> None:
    assert said_of("<html><body>502 Bad Gateway</body></html>") == ""
    assert said_of('{"message": {"base": ["Reference not found"]}}') == '{"base": ["Reference not found"]}'
    assert said_of("[" * 5000) != ""


EXAMPLE = ROOT / "examples" / "retraining"


def test_the_example_workflow_declares_what_is_sent_and_pastes_nothing_into_a_script() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "retrain.yml").read_text())
    declared = workflow[True]["workflow_dispatch"]["inputs"]  # PyYAML reads `on` as true
    notice = LaunchNotice("rt-a", "t", "m", "m@1", "https://x.example", NOW, "", "", ())
    sent = github_workflow.inputs_of(
        GithubWorkflow("https://api.github.com", "a/b", "c.yml", "main", {"epochs": "5"}), notice
    )
    assert set(declared) == set(sent)
    [job] = workflow["jobs"].values()
    assert [step for step in job["steps"] if "${{" in step.get("run", "")] == []
    assert workflow["concurrency"]["group"] == "${{ inputs.retraining }}"


def test_the_example_pipeline_uses_what_is_sent() -> None:
    text = (EXAMPLE / ".gitlab-ci.yml").read_text()
    notice = LaunchNotice("rt-a", "t", "m", "m@1", "https://x.example", NOW, "", "", ())
    sent = gitlab_pipeline.variables_of(GitlabPipeline("https://x.example", "1", "main", {"epochs": "5"}), notice)
    used = set(re.findall(r"\$(EDGEFLEET_[A-Z_]+|EPOCHS)", text))
    assert used == set(sent)
