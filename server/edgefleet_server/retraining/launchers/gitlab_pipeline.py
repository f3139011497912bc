"""Starts a pipeline of GitLab with a trigger token: `POST /api/v4/projects/{id}/trigger/pipeline`. Pure.

The variables arrive in the jobs as environment variables, so their names are in capitals. The token is in the body, as GitLab wants it,
and never in the URL. It is not idempotent: the job's `resource_group` makes a second pipeline of one retraining harmless.
"""

from typing import Any, Final
from urllib.parse import quote, urlencode

from edgefleet_server.retraining.launchers.launch_notice import message_text
from edgefleet_server.retraining.launchers.model import GitlabPipeline, Launched, LaunchNotice, LaunchRequest

MOST_MESSAGE_BYTES: Final = 16_384
"""A variable of a job is one of the environment of a process."""


def variables_of(to: GitlabPipeline, notice: LaunchNotice) -> dict[str, str]:
    """Return the variables of a pipeline. Raises LaunchTooLargeError."""
    return {
        "EDGEFLEET_RUN": notice.retraining,
        "EDGEFLEET_MODEL": notice.model,
        "EDGEFLEET_PARENT_RELEASE": notice.parent,
        "EDGEFLEET_MESSAGE": message_text(notice, lambda text: len(text.encode()) <= MOST_MESSAGE_BYTES),
        **{name.upper(): text for name, text in to.variables.items()},
    }


def request_of(to: GitlabPipeline, secret: str, notice: LaunchNotice) -> LaunchRequest:
    """Return the request. Raises LaunchTooLargeError."""
    form = [("token", secret), ("ref", to.ref)]
    form += [(f"variables[{name}]", text) for name, text in variables_of(to, notice).items()]
    headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
    url = f"{to.server}/api/v4/projects/{quote(to.project, safe='')}/trigger/pipeline"
    return LaunchRequest(url, headers, urlencode(form).encode())


def launched_of(answer: Any) -> Launched:
    """Return what was started. answer: the JSON of it."""
    if not isinstance(answer, dict):
        return Launched()
    return Launched(str(answer.get("id") or "")[:100], str(answer.get("web_url") or ""))
