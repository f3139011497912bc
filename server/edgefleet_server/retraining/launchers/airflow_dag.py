"""Starts a DAG of Airflow 3: `POST /api/v2/dags/{dag}/dagRuns` with `conf`. Pure.

A token of Airflow ends after a day, so a launcher may have a user and a password instead, and signs in before each start. The run has the
retraining's id; a second start is answered with 409, which means that the run is there.
"""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from edgefleet_server.retraining.launchers.errors import BadLauncherError
from edgefleet_server.retraining.launchers.launch_notice import message_of
from edgefleet_server.retraining.launchers.model import AirflowDag, Launched, LaunchNotice, LaunchRequest

_JSON: Final = {"accept": "application/json", "content-type": "application/json"}


def sign_in_of(to: AirflowDag, secret: str) -> LaunchRequest:
    """Return the request that signs in with a password."""
    body = msgspec.json.encode({"username": to.user, "password": secret})
    return LaunchRequest(f"{to.url}/auth/token", _JSON, body)


def token_of(answer: Any) -> str:
    """Return the token of an answer to `sign_in_of`. Raises BadLauncherError when it has none."""
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or re.fullmatch(r"[\x21-\x7e]{1,8000}", token) is None:
        raise BadLauncherError(
            "no token came from Airflow, which took the password",
            next_step="see that the url is the one of Airflow's API server",
        )
    return token


def request_of(to: AirflowDag, token: str, notice: LaunchNotice) -> LaunchRequest:
    """Return the request. `logical_date` has to be there, and null is for a run that belongs to no interval."""
    body = {"dag_run_id": notice.retraining, "logical_date": None, "conf": message_of(notice)}
    url = f"{to.url}/api/v2/dags/{quote(to.dag, safe='')}/dagRuns"
    return LaunchRequest(url, {**_JSON, "authorization": f"Bearer {token}"}, msgspec.json.encode(body))


def launched_of(to: AirflowDag, notice: LaunchNotice) -> Launched:
    """Return what was started."""
    return Launched(
        notice.retraining, f"{to.url}/dags/{quote(to.dag, safe='')}/runs/{quote(notice.retraining, safe='')}"
    )
