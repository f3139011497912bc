"""Sends what starts a training, through `outbound`: one bounded try, and what came of it. Blocks; thread-safe; not for transactions."""

import logging
import random
from collections.abc import Callable
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import BadUrlError
from edgefleet_server.outbound.http_post import HttpPoster, Posted
from edgefleet_server.retraining.errors import RetrainingError
from edgefleet_server.retraining.launchers import (
    airflow_dag,
    databricks_job,
    github_workflow,
    gitlab_pipeline,
    launch_rules,
    webhook_event,
)
from edgefleet_server.retraining.launchers.launch_rules import json_of
from edgefleet_server.retraining.launchers.model import (
    AirflowDag,
    DatabricksJob,
    GithubWorkflow,
    GitlabPipeline,
    Launched,
    LaunchNotice,
    LaunchOutcome,
    LaunchRequest,
    LaunchState,
    LaunchTarget,
)

_log: Final = logging.getLogger(__name__)
Draw = Callable[[], float]
_Answered = tuple[Posted, Launched]


class LaunchSender:
    """Starts trainings. source: of our CloudEvents; timeout_s: of one request; draw: 0 to 1, for the wait before another try."""

    def __init__(
        self, poster: HttpPoster, clock: Clock, source: str, timeout_s: float, *, draw: Draw = random.random
    ) -> None:
        """Wire the parts."""
        self._poster = poster
        self._clock = clock
        self._source = source
        self._timeout_s = timeout_s
        self._draw = draw

    def start(self, to: LaunchTarget, notice: LaunchNotice, tries: int) -> LaunchOutcome:
        """Make one try. tries: this one among them. Raises nothing: what went wrong is in the outcome, without a secret."""
        secrets = [to.secret]
        try:
            posted, launched = self._sent(to, notice, secrets)
        except (BadUrlError, RetrainingError) as error:
            outcome = LaunchOutcome(LaunchState.FAILED, None, error.message, error.next_step)
        except EdgefleetError as error:
            outcome = launch_rules.again(error.message, None, tries, self._draw())
        else:
            now, chance = self._clock.now(), self._draw()
            outcome = launch_rules.outcome_of(to.kind, posted, launched, tries=tries, now=now, chance=chance)
        outcome = launch_rules.scrubbed(outcome, secrets)
        extra = {"retraining": notice.retraining, "receiver": to.kind.value, "state": outcome.state.value}
        _log.info("training asked for", extra=extra | {"status": outcome.status, "error": outcome.why, "tries": tries})
        return outcome

    def _sent(self, to: LaunchTarget, notice: LaunchNotice, secrets: list[str]) -> _Answered:
        """Send, and return the answer and what it names. secrets: grows by what the receiver gives us, such as a token."""
        place, secret = to.settings, to.secret
        if isinstance(place, GithubWorkflow):
            posted = self._post(github_workflow.request_of(place, secret, notice))
            if github_workflow.is_without_details(posted.status, posted.body):
                posted = self._post(github_workflow.request_of(place, secret, notice, with_details=False))
            return posted, github_workflow.launched_of(json_of(posted.body))
        if isinstance(place, GitlabPipeline):
            posted = self._post(gitlab_pipeline.request_of(place, secret, notice))
            return posted, gitlab_pipeline.launched_of(json_of(posted.body))
        if isinstance(place, DatabricksJob):
            posted = self._post(databricks_job.request_of(place, secret, notice))
            return posted, databricks_job.launched_of(place, json_of(posted.body))
        if isinstance(place, AirflowDag):
            return self._on_airflow(place, secret, notice, secrets)
        request = webhook_event.request_of(place, secret, notice, self._source, self._clock.now())
        posted = self._post(request)
        return posted, webhook_event.launched_of(json_of(posted.body))

    def _on_airflow(self, place: AirflowDag, secret: str, notice: LaunchNotice, secrets: list[str]) -> _Answered:
        token = secret
        if place.user:
            signed_in = self._post(airflow_dag.sign_in_of(place, secret))
            if not 200 <= signed_in.status < 300:
                return signed_in, Launched()
            token = airflow_dag.token_of(json_of(signed_in.body))
            secrets.append(token)
        return self._post(airflow_dag.request_of(place, token, notice)), airflow_dag.launched_of(place, notice)

    def _post(self, request: LaunchRequest) -> Posted:
        return self._poster.post(request.url, request.body, request.headers, self._timeout_s)
