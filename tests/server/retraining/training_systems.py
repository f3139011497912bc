"""GitHub, GitLab, Databricks and Airflow as their documentation says: each checks a request as strictly as it does, and answers alike."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.support.receivers import Answer, Got

DECLARED = ("retraining", "model", "parent", "message", "epochs")
_JSON = {"content-type": "application/json"}


def _answer(status: int, body: Any) -> Answer:
    return status, _JSON, json.dumps(body).encode()


@dataclass
class Github:
    """`POST /repos/{owner}/{repo}/actions/workflows/{file}/dispatches`. knows_details: github.com, or Enterprise Server 3.21."""

    token: str
    knows_details: bool = True
    inputs: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, got: Got) -> Answer:
        body = got.json
        if got.headers.get("authorization") != f"Bearer {self.token}":
            return _answer(401, {"message": "Bad credentials", "status": "401"})
        if re.fullmatch(r"/repos/acme/digits/actions/workflows/retrain\.yml/dispatches", got.path) is None:
            return _answer(404, {"message": "Not Found", "status": "404"})
        known = {"ref", "inputs"} | ({"return_run_details"} if self.knows_details else set())
        for name in set(body) - known:
            return _answer(400, {"message": f'Invalid request.\n\n"{name}" is not a permitted key.'})
        inputs = body["inputs"]
        if body.get("ref") != "main":
            return _answer(422, {"message": f"No ref found for: {body.get('ref')}"})
        if any(not isinstance(value, str) for value in inputs.values()):
            return _answer(422, {"message": "For 'properties/inputs', a value is not a string."})
        if len(inputs) > 25 or sum(len(name) + len(value) for name, value in inputs.items()) > 65_535:
            return _answer(422, {"message": "inputs are too large."})
        unknown = sorted(set(inputs) - set(DECLARED))
        if unknown:
            return _answer(422, {"message": f"Unexpected inputs provided: {json.dumps(unknown)}"})
        self.inputs.append(inputs)
        if not body.get("return_run_details"):
            return 204
        run = 22_000_000_000 + len(self.inputs)
        page = f"https://github.com/acme/digits/actions/runs/{run}"
        return _answer(
            200, {"workflow_run_id": run, "run_url": page.replace("github.com", "api.github.com"), "html_url": page}
        )


@dataclass
class Gitlab:
    """`POST /api/v4/projects/{id}/trigger/pipeline`: a form with `token`, `ref` and `variables[NAME]`."""

    token: str
    variables: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, got: Got) -> Answer:
        assert "?" not in got.path, "a token in a URL ends up in logs"
        assert got.headers["content-type"] == "application/x-www-form-urlencoded"
        form = dict(parse_qsl(got.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))
        found = re.fullmatch(r"/api/v4/projects/([^/]+)/trigger/pipeline", got.path)
        if found is None or unquote(found[1]) != "acme/digits" or form.pop("token") != self.token:
            return _answer(404, {"message": "404 Not Found"})
        if form.pop("ref") != "main":
            return _answer(400, {"message": {"base": ["Reference not found"]}})
        made = {re.fullmatch(r"variables\[(\w+)]", name)[1]: value for name, value in form.items()}  # type: ignore[index]
        self.variables.append(made)
        number = 4000 + len(self.variables)
        page = f"https://gitlab.example/acme/digits/-/pipelines/{number}"
        return _answer(201, {"id": number, "status": "created", "web_url": page})


@dataclass
class Databricks:
    """`POST /api/2.2/jobs/run-now`: one token, one run."""

    token: str
    runs: dict[str, dict[str, str]] = field(default_factory=dict)

    def __call__(self, got: Got) -> Answer:
        if got.headers.get("authorization") != f"Bearer {self.token}":
            return _answer(403, {"error_code": "PERMISSION_DENIED", "message": "Invalid access token."})
        body = got.json
        assert got.path == "/api/2.2/jobs/run-now"
        assert set(body) == {"job_id", "idempotency_token", "job_parameters"}
        assert len(body["idempotency_token"]) <= 64
        if len(json.dumps(body["job_parameters"], ensure_ascii=False, separators=(",", ":")).encode()) > 10_000:
            return _answer(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "parameters exceed 10000 bytes"})
        if body["job_id"] != 4711:
            return _answer(
                400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"Job {body['job_id']} does not exist."}
            )
        self.runs.setdefault(body["idempotency_token"], body["job_parameters"])
        return _answer(200, {"run_id": 500 + len(self.runs), "number_in_job": len(self.runs)})


@dataclass
class Airflow:
    """Airflow 3: `POST /auth/token`, and `POST /api/v2/dags/{dag}/dagRuns` with a strict body."""

    user: str
    password: str
    runs: dict[str, Any] = field(default_factory=dict)
    token: str = "eyJhbGciOiJIUzUxMiJ9.made.up"

    def __call__(self, got: Got) -> Answer:
        body = got.json
        if got.path == "/auth/token":
            is_known = body == {"username": self.user, "password": self.password}
            return (
                _answer(201, {"access_token": self.token})
                if is_known
                else _answer(401, {"detail": "Invalid credentials"})
            )
        if got.headers.get("authorization") != f"Bearer {self.token}":
            return _answer(401, {"detail": "Invalid JWT token"})
        if got.path != "/api/v2/dags/retrain/dagRuns":
            return _answer(404, {"detail": "DAG with dag_id was not found"})
        known = {"dag_run_id", "logical_date", "data_interval_start", "data_interval_end", "run_after", "conf", "note"}
        if set(body) - known or "logical_date" not in body:
            return _answer(422, {"detail": [{"type": "extra_forbidden", "loc": ["body"]}]})
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]+", body["dag_run_id"])
        if body["dag_run_id"] in self.runs:
            return _answer(409, {"detail": "A run with this id exists"})
        self.runs[body["dag_run_id"]] = body["conf"]
        return _answer(200, {"dag_run_id": body["dag_run_id"], "state": "queued"})
