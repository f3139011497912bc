"""What an answer to a start means, in words, with no secret in them. Pure.

A 2xx started it. 429, 5xx and no answer are tried again; every other answer is about the request, so it fails at once and says what to
correct. GitHub also says 403 when there were too many requests, and then how long to wait.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from edgefleet_server.outbound.http_post import Posted
from edgefleet_server.retraining.launchers.model import Launched, LaunchOutcome, LaunchState, ReceiverKind
from edgefleet_server.webhook.rules import asked_wait, wait_of

MOST_TRIES: Final = 5
MOST_ANSWER_CHARS: Final = 300
MOST_WHERE_CHARS: Final = 500
MOST_WAIT_S: Final = 3600.0
HIDDEN: Final = "***"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_NAMES: Final = {
    ReceiverKind.GITHUB: "GitHub",
    ReceiverKind.GITLAB: "GitLab",
    ReceiverKind.DATABRICKS: "Databricks",
    ReceiverKind.AIRFLOW: "Airflow",
    ReceiverKind.WEBHOOK: "the receiver",
}
_NEXT: Final = {
    (ReceiverKind.GITHUB, 401): "give the trigger a new token with the permission Actions: write",
    (ReceiverKind.GITHUB, 403): "give the trigger a token with the permission Actions: write for this repository",
    (ReceiverKind.GITHUB, 404): "see that the repository and the workflow exist, and that the token may see them",
    (
        ReceiverKind.GITHUB,
        422,
    ): "see that the branch has the workflow, with `on: workflow_dispatch` and the inputs of the example",
    (ReceiverKind.GITLAB, 400): "see that the branch has a pipeline that runs for triggers",
    (ReceiverKind.GITLAB, 401): "give the trigger a new pipeline trigger token of the project",
    (ReceiverKind.GITLAB, 403): "let the owner of the token run pipelines on this branch",
    (ReceiverKind.GITLAB, 404): "see that the project exists and that the pipeline trigger token is one of it",
    (ReceiverKind.DATABRICKS, 401): "give the trigger a new token of a service principal",
    (ReceiverKind.DATABRICKS, 403): "let the service principal run the job (Can Manage Run)",
    (ReceiverKind.AIRFLOW, 401): "give the trigger a user and a password of Airflow, or a new token",
    (ReceiverKind.AIRFLOW, 403): "let the user trigger runs of this DAG",
    (ReceiverKind.AIRFLOW, 404): "see that the DAG exists and is not hidden from the user",
}


def json_of(body: str) -> Any:
    """Return the JSON of an answer, None when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def outcome_of(
    kind: ReceiverKind, posted: Posted, launched: Launched, *, tries: int, now: datetime, chance: float
) -> LaunchOutcome:
    """Return what an answer came to. launched: what it names; tries: this one among them; chance: 0 to 1, for the wait."""
    status = posted.status
    is_there = kind is ReceiverKind.AIRFLOW and status == 409  # an earlier try arrived, and its answer did not
    if 200 <= status < 300 or is_there:
        return LaunchOutcome(LaunchState.STARTED, status, launched=replace(launched, where=safe_where(launched.where)))
    said = said_of(posted.body)
    why = f"{_NAMES[kind]} answered {status}" + (f": {said}" if said else "")
    asked = asked_wait(posted.retry_after, now)
    if status == 429 or status >= 500 or (kind is ReceiverKind.GITHUB and status == 403 and asked is not None):
        return again(why, status, tries, chance, 0.0 if asked is None else asked.total_seconds())
    if 300 <= status < 400:
        return LaunchOutcome(LaunchState.FAILED, status, why, "redirects are not followed: name the final address")
    step = _NEXT.get((kind, status), "correct the launcher of the trigger, then start it by hand")
    return LaunchOutcome(LaunchState.FAILED, status, why, step)


def again(why: str, status: int | None, tries: int, chance: float, asked_s: float = 0.0) -> LaunchOutcome:
    """Return that there is to be another try, or that this was the last one. tries: this one among them."""
    if tries >= MOST_TRIES:
        step = "see that it runs and can be reached from this server, then start the trigger by hand"
        return LaunchOutcome(LaunchState.FAILED, status, f"{why}, {tries} times", step)
    wait_s = max(wait_of(tries, chance).total_seconds(), asked_s)
    return LaunchOutcome(LaunchState.AGAIN, status, why, after_s=min(wait_s, MOST_WAIT_S))


def said_of(body: str) -> str:
    """Return what an answer says, on one line and short."""
    found = json_of(body)
    if isinstance(found, dict):
        text = next((found[one] for one in ("message", "detail", "error_description", "error") if found.get(one)), "")
        body = text if isinstance(text, str) else json.dumps(text)
    elif body.lstrip().startswith("<"):
        return ""  # a page of a proxy says nothing to people
    return _CONTROL.sub(" ", body).strip()[:MOST_ANSWER_CHARS]


def safe_where(where: str) -> str:
    """Return an address of a page, "" for one that must not become a link."""
    is_plain = re.fullmatch(r"https?://[\x21-\x7e]+", where) is not None and not set(where) & set("\"'<>\\")
    return where if is_plain and len(where) <= MOST_WHERE_CHARS else ""


def scrubbed(outcome: LaunchOutcome, secrets: Sequence[str]) -> LaunchOutcome:
    """Return an outcome without any secret, should a receiver repeat one."""

    def clean(text: str) -> str:
        for one in sorted(secrets, key=len, reverse=True):
            text = text.replace(one, HIDDEN)
        return text

    launched = Launched(clean(outcome.launched.id), clean(outcome.launched.where))
    return replace(outcome, why=clean(outcome.why), launched=launched)
