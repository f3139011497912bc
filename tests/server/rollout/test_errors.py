"""What rollouts refuse, as the API answers it."""

from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.rollout.errors import (
    ActiveExistsError,
    BadSpecError,
    IllegalStateError,
    LintError,
    ReasonNeededError,
    RolloutUnknownError,
)
from edgefleet_server.web.problems import PROBLEM_TYPE, install


@dataclass(frozen=True)
class Found:
    """A finding of the lint."""

    level: str
    code: str
    stage: int | None
    stratum: str | None
    message: str
    next: str


WARNING = Found("warning", "slow_soak", None, None, "the soak is long", "shorten it")
ERROR = Found("error", "too_small", 0, "x86", "one device is too few", "take two")


def answer(error: EdgefleetError) -> tuple[int, dict[str, object]]:
    app = FastAPI()
    install(app)

    @app.get("/refused")
    def refused() -> None:
        raise error

    response = TestClient(app).get("/refused")
    assert response.headers["content-type"] == PROBLEM_TYPE
    body: dict[str, object] = response.json()
    return response.status_code, body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadSpecError(errors=[{"path": "spec", "message": "m"}]), 422, "rollout.bad_spec"),
        (LintError([ERROR]), 422, "rollout.lint"),
        (RolloutUnknownError("no such rollout"), 404, "rollout.unknown"),
        (ActiveExistsError("another one runs"), 409, "rollout.active_exists"),
        (IllegalStateError("it has ended"), 409, "rollout.illegal_state"),
        (ReasonNeededError("say why"), 422, "rollout.reason_needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_refusal_has_its_status_and_code(error: EdgefleetError, status: int, code: str) -> None:
    got, body = answer(error)
    assert (got, body["code"]) == (status, code)
    assert body["detail"] == error.message


def test_a_bad_spec_names_every_place() -> None:
    mistakes = [
        {"path": "spec.stages[0].size", "message": "give percent or count"},
        {"path": "spec.soak", "message": "unknown field"},
    ]
    _, body = answer(BadSpecError(errors=mistakes))
    assert body["errors"] == mistakes
    assert body["detail"] == ("the spec has 2 invalid fields; first: spec.stages[0].size: give percent or count")
    assert "errors" in str(body["next"])


def test_a_spec_that_is_no_spec_at_all_is_told_as_well() -> None:
    _, body = answer(BadSpecError(errors=[{"path": "", "message": "expected a mapping"}]))
    assert str(body["detail"]).endswith("first: expected a mapping")
    assert answer(BadSpecError(errors=[]))[1]["errors"] == []


def test_a_lint_carries_all_findings_the_errors_first() -> None:
    _, body = answer(LintError([WARNING, ERROR]))
    assert body["errors"] == [
        {
            "level": "error",
            "code": "too_small",
            "stage": 0,
            "stratum": "x86",
            "message": "one device is too few",
            "next": "take two",
        },
        {
            "level": "warning",
            "code": "slow_soak",
            "stage": None,
            "stratum": None,
            "message": "the soak is long",
            "next": "shorten it",
        },
    ]
    assert body["detail"] == "lint found 1 error in this rollout; first: one device is too few"
