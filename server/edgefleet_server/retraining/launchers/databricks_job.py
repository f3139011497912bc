"""Starts a job of Databricks: `POST /api/2.2/jobs/run-now`. Pure.

MLflow itself has no call that starts a project, and Databricks no longer runs MLflow Projects as such; a job there is where a model is
trained whose runs are in its MLflow. `idempotency_token` (at most 64 characters) makes every try of one retraining the same run;
all parameters together have at most 10,000 bytes as JSON.
"""

from typing import Any, Final

import msgspec

from edgefleet_server.retraining.launchers.launch_notice import message_text
from edgefleet_server.retraining.launchers.model import DatabricksJob, Launched, LaunchNotice, LaunchRequest

MOST_BYTES: Final = 10_000
MOST_TOKEN_CHARS: Final = 64


def parameters_of(to: DatabricksJob, notice: LaunchNotice) -> dict[str, str]:
    """Return the parameters of a job. Raises LaunchTooLargeError."""
    plain = {"retraining": notice.retraining, "model": notice.model, "parent": notice.parent, **to.parameters}
    text = message_text(notice, lambda text: len(msgspec.json.encode({**plain, "message": text})) <= MOST_BYTES)
    return {**plain, "message": text}


def request_of(to: DatabricksJob, secret: str, notice: LaunchNotice) -> LaunchRequest:
    """Return the request. Raises LaunchTooLargeError."""
    body = {
        "job_id": to.job,
        "idempotency_token": notice.retraining[:MOST_TOKEN_CHARS],
        "job_parameters": parameters_of(to, notice),
    }
    headers = {
        "accept": "application/json",
        "authorization": f"Bearer {secret}",
        "content-type": "application/json",
    }
    return LaunchRequest(f"{to.host}/api/2.2/jobs/run-now", headers, msgspec.json.encode(body))


def launched_of(to: DatabricksJob, answer: Any) -> Launched:
    """Return what was started. answer: the JSON of it."""
    run = answer.get("run_id") if isinstance(answer, dict) else None
    return Launched(str(run), f"{to.host}/#job/{to.job}/run/{run}") if isinstance(run, int) else Launched()
