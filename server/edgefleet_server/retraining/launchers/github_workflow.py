"""Starts a workflow of GitHub: `POST /repos/{owner}/{repo}/actions/workflows/{file}/dispatches`. Pure.

It has at most 25 inputs, all of them texts, 65,535 characters together; inputs that the workflow does not declare are refused. Since
February 2026 the answer names the run if `return_run_details` asks for that; a GitHub Enterprise Server before 3.21 refuses the field
with 400, so the request is then sent without it. A dispatch is not idempotent: the workflow's `concurrency` makes a second one harmless.
"""

from typing import Any, Final

import msgspec

from edgefleet_server.retraining.launchers.launch_notice import message_text
from edgefleet_server.retraining.launchers.model import GithubWorkflow, Launched, LaunchNotice, LaunchRequest

MOST_INPUTS: Final = 25
MOST_CHARS: Final = 65_535
API_VERSION: Final = "2022-11-28"


def inputs_of(to: GithubWorkflow, notice: LaunchNotice) -> dict[str, str]:
    """Return the inputs of a workflow. Raises LaunchTooLargeError."""
    plain = {"retraining": notice.retraining, "model": notice.model, "parent": notice.parent, **to.inputs}
    used = sum(len(name) + len(text) for name, text in plain.items()) + len("message")
    return {**plain, "message": message_text(notice, lambda text: used + len(text) <= MOST_CHARS)}


def request_of(to: GithubWorkflow, secret: str, notice: LaunchNotice, *, with_details: bool = True) -> LaunchRequest:
    """Return the request. with_details: ask which run it became. Raises LaunchTooLargeError."""
    body: dict[str, Any] = {"ref": to.ref, "inputs": inputs_of(to, notice)}
    if with_details:
        body["return_run_details"] = True
    headers = {
        "accept": "application/vnd.github+json",
        "authorization": f"Bearer {secret}",
        "content-type": "application/json",
        "x-github-api-version": API_VERSION,
    }
    url = f"{to.api}/repos/{to.repository}/actions/workflows/{to.workflow}/dispatches"
    return LaunchRequest(url, headers, msgspec.json.encode(body))


def is_without_details(status: int, body: str) -> bool:
    """Return whether an answer means that the server does not know `return_run_details`."""
    return status in (400, 422) and "return_run_details" in body


def launched_of(answer: Any) -> Launched:
    """Return what was started. answer: the JSON of it, None for 204."""
    if not isinstance(answer, dict):
        return Launched()
    return Launched(str(answer.get("workflow_run_id") or "")[:100], str(answer.get("html_url") or ""))
