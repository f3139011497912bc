"""The GitHub action and the GitLab template: their schemas, and their shell really run against a live server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.ci_templates import ACTION, TEMPLATE, clean_environ, run_action, run_job
from tests.cli.conftest import Edgectl, Server, a_server
from tests.cli.enrolled import enrolled
from tests.converters.graphs import classifier
from tests.house.tree import ROOT
from tests.support.receivers import Got, receiving
from tests.support.tool_environments import CHECK_JSONSCHEMA, environment

PROFILE = "generic-x86_64-ort"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this file's own: the devices that it enrols would be in the way of others."""
    with a_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository as a runner checks it out, with a small model."""
    (tmp_path / "net.onnx").write_bytes(classifier(features=16).SerializeToString())
    return tmp_path


def inputs(server: Server, **more: str) -> dict[str, str]:
    token = server.tokens["admin"]
    return {"server": server.url, "token": token, **{name.replace("_", "-"): value for name, value in more.items()}}


def test_the_action_publishes_and_rolls_out(edgectl: Edgectl, admin: Server, checkout: Path) -> None:
    enrolled(edgectl, checkout, "site=action")
    wanted = inputs(
        admin, model="net.onnx", name="action", version="1.0.0", profiles=PROFILE, publish_args="--precision\nfp32",
        to="site=action",
    )  # fmt: skip
    ran = run_action(checkout, wanted, {}, clean_environ(checkout))
    assert ran.is_good, ran.printed
    assert ran.outputs["publish"]["release"] == "action@1.0.0"
    assert "action@1.0.0" in ran.summary
    rollout = edgectl("rollout", "show", ran.outputs["deploy"]["rollout"], "-o", "json").json
    assert (rollout["release"], rollout["selector"]) == ("action@1.0.0", "site=action")
    assert not (checkout / ".temp" / "edgectl.json").exists(), "the token is forgotten"
    again = run_action(checkout, {**wanted, "to": ""}, {}, clean_environ(checkout))
    assert again.is_good, again.printed
    assert "Roll out" not in again.steps


def test_what_an_input_holds_is_never_run(admin: Server, checkout: Path) -> None:
    trap = "x; touch owned $(touch owned) `touch owned`\n--output\nname"
    wanted = inputs(admin, model=trap, name=trap, version=trap, profiles=trap, to=trap, strategy=trap)
    ran = run_action(checkout, wanted, {}, clean_environ(checkout))
    assert ran.steps["Publish"] == 2, ran.printed
    assert not (checkout / "owned").exists()
    variables = {"MODEL": trap, "NAME": trap, "VERSION": trap, "PROFILES": trap, "PUBLISH_ARGS": "$(touch owned)"}
    job = run_job(checkout, ".edgefleet-publish", variables, gitlab(admin, checkout))
    assert job.steps["script"] != 0
    assert not (checkout / "owned").exists()


def test_a_refused_model_fails_the_job_and_says_why(admin: Server, checkout: Path) -> None:
    (checkout / "net.onnx").write_bytes(b"no model")
    wanted = inputs(admin, model="net.onnx", name="refused", version="1.0.0", profiles=PROFILE, to="site=nowhere")
    ran = run_action(checkout, wanted, {}, clean_environ(checkout))
    assert ran.steps["Publish"] == 1
    assert "Roll out" not in ran.steps
    assert ran.steps["Forget the token"] == 0
    assert "refused@1.0.0" in ran.summary


def test_a_bad_token_ends_the_action(admin: Server, checkout: Path) -> None:
    ran = run_action(checkout, {**inputs(admin, model="net.onnx"), "token": admin.revoked}, {}, clean_environ(checkout))
    assert ran.steps["Log in"] == 4
    assert "Publish" not in ran.steps


def gitlab(server: Server, folder: Path) -> dict[str, str]:
    return {**clean_environ(folder), "EDGECTL_SERVER": server.url, "EDGECTL_TOKEN": server.tokens["admin"]}


def test_the_jobs_publish_and_roll_out(edgectl: Edgectl, admin: Server, checkout: Path) -> None:
    enrolled(edgectl, checkout, "site=job")
    variables = {
        "MODEL": "net.onnx", "NAME": "job", "VERSION": "1.0.0", "PROFILES": PROFILE, "PUBLISH_ARGS": "--precision\nfp32",
    }  # fmt: skip
    ran = run_job(checkout, ".edgefleet-publish", variables, gitlab(admin, checkout))
    assert ran.is_good, ran.printed
    assert (checkout / "edgefleet.env").read_text() == "RELEASE=job@1.0.0\n"
    assert not list(checkout.glob("edgectl-*.json")), "the token is forgotten"
    deployed = run_job(
        checkout, ".edgefleet-deploy", {"RELEASE": "job@1.0.0", "TO": "site=job"}, gitlab(admin, checkout)
    )
    assert deployed.is_good, deployed.printed
    items = edgectl("rollout", "list", "-o", "json").json["items"]
    assert [one["selector"] for one in items if one["release"] == "job@1.0.0"] == ["site=job"]
    nobody = run_job(checkout, ".edgefleet-deploy", {"RELEASE": "job@1.0.0"}, gitlab(admin, checkout))
    assert nobody.steps["script"] == 2


def test_a_difference_becomes_a_comment_that_is_written_anew(admin: Server, checkout: Path) -> None:
    (checkout / "fleet.yaml").write_text(
        "apiVersion: edgefleet/v1\nkind: Group\nmetadata: {name: ci-lab}\nspec: {selector: site=lab}\n"
    )
    comments: list[dict[str, Any]] = []
    written: list[str] = []

    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        if got.body:
            written.append(got.path.rsplit("/issues/", 1)[1])
            comments[:] = [{"id": 77, "body": got.json["body"]}]
        return 200, {}, json.dumps(comments).encode()

    with receiving(answer) as receiver:
        environ = {**clean_environ(checkout), "GITHUB_API_URL": receiver.url.removesuffix("/hook")}
        github = {"event_name": "pull_request", "event.pull_request.number": "5", "token": "t"}
        wanted = inputs(admin, diff="fleet.yaml", github_token="t")
        for _push in range(2):
            ran = run_action(checkout, wanted, github, environ)
            assert ran.is_good, ran.printed
    assert ran.outputs["diff"]["changed"] == "true"
    assert written == ["5/comments", "comments/77"]
    assert "ci-lab" in comments[0]["body"]


def test_no_expression_stands_in_a_script() -> None:
    action = yaml.safe_load(ACTION.read_text())
    assert [step["name"] for step in action["runs"]["steps"] if "${{" in step["run"]] == []


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", ACTION),
        ("vendor.gitlab-ci", TEMPLATE),
        ("vendor.github-workflows", ROOT / ".github" / "workflows" / "release.yml"),
        ("vendor.github-workflows", ROOT / "examples" / "gitops" / ".github" / "workflows" / "fleet.yml"),
        ("vendor.gitlab-ci", ROOT / "examples" / "gitops" / ".gitlab-ci.yml"),
        ("vendor.github-workflows", ROOT / "examples" / "retraining" / ".github" / "workflows" / "retrain.yml"),
        ("vendor.gitlab-ci", ROOT / "examples" / "retraining" / ".gitlab-ci.yml"),
    ],
    ids=["action", "template", "release", "workflow", "pipeline", "retraining-workflow", "retraining-pipeline"],
)
def test_the_files_keep_to_their_schemas(schema: str, file: Path) -> None:
    python = environment("check-jsonschema", CHECK_JSONSCHEMA)
    more = ["--data-transform", "gitlab-ci"] if schema == "vendor.gitlab-ci" else []
    command = [str(python), "-m", "check_jsonschema", "--builtin-schema", schema, *more, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
