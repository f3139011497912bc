"""How a job of CI signs in by who it is: with an ID token that its CI issues, in the place of a stored secret.

GitHub Actions issues one for each request (`ACTIONS_ID_TOKEN_REQUEST_URL`, there with `permissions: id-token: write`). GitLab puts one
into the variable or file that the job names: `EDGEFLEET_ID_TOKEN`, `EDGEFLEET_ID_TOKEN_FILE`. `EDGECTL_PIPELINE` names the trusted
pipeline where more than one matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import NotLoggedInError

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.api_client import ApiClient

RENEW_AFTER_S = 600.0
"""An operator token of 15 minutes is replaced after so long where the job can get another ID token."""
_TIMEOUT_S = 15.0
_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
_SECRET = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105  # the name of a variable
_TOKEN = "EDGEFLEET_ID_TOKEN"  # noqa: S105
_FILE = "EDGEFLEET_ID_TOKEN_FILE"


@dataclass(frozen=True)
class CiJob:
    """The job that this command runs in. id_token(audience): returns an ID token; is_renewable: as often as it is asked."""

    where: str
    id_token: Callable[[str], str]
    is_renewable: bool
    pipeline: str = ""


class JobToken:
    """The operator token of a job: fetched when it is first needed, and again before it ends. Give it to `ApiClient` as its source."""

    def __init__(self, job: CiJob, clock: SystemClock, note: Callable[[str], None]) -> None:
        self._job = job
        self._clock = clock
        self._note = note
        self._since_s = 0.0
        self.token = ""

    @property
    def is_renewable(self) -> bool:
        """Whether every command of the job can get one of its own."""
        return self._job.is_renewable

    def __call__(self, api: ApiClient) -> str:
        """Return the token. Raises NotLoggedInError, ServerUnreachableError, ApiError."""
        now_s = self._clock.monotonic_s()
        if not self.token or (self._job.is_renewable and now_s - self._since_s >= RENEW_AFTER_S):
            from edgefleet_cli.core.api.access import IdTokenIn

            is_first = not self.token
            made = api.exchange(IdTokenIn(id_token=self._job.id_token(api.server), pipeline=self._job.pipeline))
            self.token, self._since_s = made.token, now_s
            if is_first:
                roles = ", ".join(made.roles)
                self._note(
                    f"signed in as {made.name} by the ID token of this job of {self._job.where}, role {roles}, for 15 minutes"
                )
        return self.token


def job_of(environ: Mapping[str, str]) -> CiJob | None:
    """Return the job of CI whose ID token can be had, None where there is none."""
    pipeline = environ.get("EDGECTL_PIPELINE", "")
    if environ.get(_TOKEN) or environ.get(_FILE):
        return CiJob("GitLab CI", lambda _audience: _given(environ), is_renewable=False, pipeline=pipeline)
    if environ.get(_URL) and environ.get(_SECRET):
        return CiJob(
            "GitHub Actions", lambda audience: _issued(environ, audience), is_renewable=True, pipeline=pipeline
        )
    return None


def how_to_sign_in(environ: Mapping[str, str], server: str) -> str:
    """Return what to do in a job of CI without a token and without an ID token, "" outside of CI."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return "add `permissions: {contents: read, id-token: write}` to the job, or set EDGECTL_TOKEN"
    if environ.get("GITLAB_CI") == "true":
        return f"add `id_tokens: {{{_TOKEN}: {{aud: {server}}}}}` to the job, or set EDGECTL_TOKEN"
    return ""


def _given(environ: Mapping[str, str]) -> str:
    if environ.get(_TOKEN):
        return environ[_TOKEN].strip()
    try:
        return Path(environ[_FILE]).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise NotLoggedInError(
            f"the ID token in {environ[_FILE]} cannot be read", why=str(error), next_step=f"correct {_FILE}"
        ) from error


def _issued(environ: Mapping[str, str], audience: str) -> str:
    import httpx

    url = environ[_URL]
    try:
        answer = httpx.get(
            f"{url}{'&' if '?' in url else '?'}audience={quote(audience, safe='')}",
            headers={"authorization": f"bearer {environ[_SECRET]}", "accept": "application/json"},
            timeout=_TIMEOUT_S,
        )
        token = answer.raise_for_status().json()["value"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise NotLoggedInError(
            "GitHub Actions issued no ID token",
            why=str(error) or type(error).__name__,
            next_step="run the job again; see that it has `permissions: id-token: write`",
        ) from error
    return str(token)
