"""A job of CI needs no token: `edgectl` gets one by its ID token. The issuers are stand-ins (`local_issuer.py`), the server is real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from edgefleet_cli.core.api.access import IdTokenIn, PipelineToken
from edgefleet_cli.core.ci_identity import RENEW_AFTER_S, CiJob, JobToken
from edgefleet_cli.core.contexts import load_contexts
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from tests.cli.ci_templates import clean_environ, run_action, run_job
from tests.cli.conftest import Edgectl
from tests.server.access.local_issuer import LocalIssuer
from tests.server.dashboard.serving import served
from tests.support.receivers import LOOPBACK, Answer, Got, receiving
from tests.support.servers import ApiHouse, HandClock


@dataclass
class Ci:
    """A server that trusts two pipelines, and what their CI gives to jobs."""

    url: str
    issuer: LocalIssuer
    house: ApiHouse
    github: dict[str, str]

    def gitlab(self) -> dict[str, str]:
        """Return the variables of a new job of GitLab."""
        claims = self.issuer.gitlab(SystemClock().now(), aud=self.url)
        return {"GITLAB_CI": "true", "EDGEFLEET_ID_TOKEN": self.issuer.signed(claims)}


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ci]:
    house = ApiHouse(tmp_path_factory.mktemp("ci") / "server", clock=SystemClock(), webhook_networks=LOOPBACK)
    with receiving() as side, served(house.own_app()) as url:
        house.parts.pipelines.audience = url
        base = side.url.removesuffix("/hook")
        issuer, gitlab = LocalIssuer(f"{base}/github"), LocalIssuer(f"{base}/gitlab")

        def answer(got: Got) -> Answer:
            path = urlsplit(got.path)
            if path.path != "/ask":
                known = issuer if path.path.startswith("/github") else gitlab
                return 200, {}, known.document(got.path)
            if got.headers.get("authorization") != "bearer runner":
                return 401
            claims = issuer.github(SystemClock().now(), aud=parse_qs(path.query)["audience"][0])
            return 200, {}, json.dumps({"value": issuer.signed(claims)}).encode()

        side.answer = answer
        admin = house.client(Role.ADMIN)
        for body in (
            {"name": "hub", "provider": "github", "issuer": issuer.url, "repository": "acme/vision", "ref": "refs/heads/main"},
            {
                "name": "lab", "provider": "gitlab", "issuer": gitlab.url, "repository": "acme/edge/vision", "ref": "refs/tags/v*",
            },
        ):  # fmt: skip
            assert admin.post("/api/v1/trusted-pipelines", json={**body, "roles": ["publisher"]}).status_code == 201
        github = {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{base}/ask?api-version=2",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
        }
        yield Ci(url, gitlab, house, github)
    house.close()


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_job_of_github_signs_in_with_each_command(edgectl: Edgectl, ci: Ci, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**ci.github, "EDGECTL_SERVER": ci.url})
    for _ in range(2):
        ran = edgectl("whoami", "-o", "json")
        assert (ran.code, ran.json["roles"], ran.json["kind"]) == (0, ["publisher"], "service"), ran.err
        assert "signed in as ci:127.0.0.1:" in ran.err
        assert "of GitHub Actions, role publisher, for 15 minutes" in ran.err
    assert edgectl("login", ci.url).code == 0
    saved = load_contexts().get(None)
    assert saved is not None
    assert (saved.server, saved.token) == (ci.url, None), "each command gets a token of its own"
    monkeypatch.delenv("EDGECTL_SERVER")
    assert edgectl("release", "list", "-o", "json").code == 0
    assert edgectl("token", "list").code == 4


def test_a_job_of_gitlab_signs_in_once_and_keeps_its_token(
    edgectl: Edgectl, ci: Ci, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables = ci.gitlab()
    put(monkeypatch, variables)
    assert edgectl("login", ci.url).code == 0
    for _ in range(2):
        assert edgectl("release", "list").code == 0
    assert edgectl("logout").code == 0
    ran = edgectl("whoami")
    assert ran.code == 4
    assert "exchanged before" in ran.told()[0]
    assert "edgectl login URL" in ran.told()[2]
    file = tmp_path / "id-token"
    file.write_text(ci.gitlab()["EDGEFLEET_ID_TOKEN"] + "\n")
    monkeypatch.delenv("EDGEFLEET_ID_TOKEN")
    monkeypatch.setenv("EDGEFLEET_ID_TOKEN_FILE", str(file))
    assert edgectl("whoami").code == 0
    monkeypatch.setenv("EDGEFLEET_ID_TOKEN_FILE", str(tmp_path / "none"))
    assert "EDGEFLEET_ID_TOKEN_FILE" in edgectl("whoami").told()[2]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GITHUB_ACTIONS": "true"}, "id-token: write"),
        ({"GITLAB_CI": "true"}, "id_tokens: {EDGEFLEET_ID_TOKEN: {aud: http"),
        ({}, "edgectl login"),
    ],
)
def test_a_job_without_an_id_token_hears_what_it_lacks(
    edgectl: Edgectl, ci: Ci, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    put(monkeypatch, {**variables, "EDGECTL_SERVER": ci.url})
    ran = edgectl("whoami")
    assert (ran.code, ran.error_code) == (4, "cli.not_logged_in")
    assert words in ran.told()[2]


def test_what_github_refuses_and_what_the_server_refuses_is_said(
    edgectl: Edgectl, ci: Ci, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, {**ci.github, "EDGECTL_SERVER": ci.url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "old"})
    assert edgectl("whoami").told()[0] == "GitHub Actions issued no ID token"
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner")
    monkeypatch.setenv("EDGECTL_PIPELINE", "lab")
    ran = edgectl("whoami")
    assert (ran.code, "no trusted pipeline is this one" in ran.told()[0]) == (4, True)
    monkeypatch.delenv("EDGECTL_PIPELINE")
    monkeypatch.setenv("EDGECTL_SERVER", ci.url.replace("127.0.0.1", "localhost"))
    assert "is meant for" in edgectl("whoami").told()[0]


def test_a_given_token_goes_before_the_jobs(edgectl: Edgectl, ci: Ci, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**ci.github, "EDGECTL_SERVER": ci.url, "EDGECTL_TOKEN": ci.house.token(Role.OPERATOR)})
    assert edgectl("whoami", "-o", "json").json["roles"] == ["operator"]


def test_the_action_and_the_job_log_in_without_a_secret(ci: Ci, tmp_path: Path) -> None:
    environ = {**clean_environ(tmp_path), **ci.github}
    ran = run_action(tmp_path, {"server": ci.url, "release": "none@1.0.0"}, {}, environ)
    assert ran.steps["Log in"] == 0, ran.printed
    assert "signed in as ci:127.0.0.1" in ran.printed
    job = run_job(
        tmp_path,
        ".edgefleet-apply",
        {"FILES": "none"},
        {**clean_environ(tmp_path), **ci.gitlab(), "EDGECTL_SERVER": ci.url},
    )
    assert "signed in as ci:127.0.0.1" in job.printed, job.printed


def test_a_long_command_of_github_gets_a_new_token_in_time() -> None:
    clock = HandClock()
    asked: list[str] = []

    class Api:
        server = "https://fleet.example"

        def exchange(self, given: IdTokenIn) -> PipelineToken:
            asked.append(given.id_token)
            return PipelineToken(name="ci", token=f"edg_{len(asked)}")

    for is_renewable, expected in ((True, "edg_2"), (False, "edg_1")):
        asked.clear()
        clock.turn(days=1)
        job = JobToken(CiJob("CI", lambda audience: audience, is_renewable), clock, lambda _: None)  # type: ignore[arg-type]
        assert [job(Api()) for _ in range(2)] == ["edg_1", "edg_1"]  # type: ignore[arg-type]
        clock.turn(seconds=RENEW_AFTER_S)
        assert job(Api()) == expected  # type: ignore[arg-type]
