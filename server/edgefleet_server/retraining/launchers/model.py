"""Values of pushed launchers: where each one sends, what it sends, and what a try came to. Pure.

The secret of a launcher is apart from its settings, so that settings can be shown, and no value here prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ReceiverKind(StrEnum):
    """Who is asked to train. Not stored: the settings of a launcher say it."""

    GITHUB = "github"
    GITLAB = "gitlab"
    DATABRICKS = "databricks"
    AIRFLOW = "airflow"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class GithubWorkflow:
    """A workflow with `on: workflow_dispatch`. api: https://api.github.com, or https://HOST/api/v3. inputs: more than those we send."""

    api: str
    repository: str
    workflow: str
    ref: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GitlabPipeline:
    """A pipeline of a project, started by a trigger token. server: https://HOST; project: its number or path."""

    server: str
    project: str
    ref: str
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DatabricksJob:
    """A job of a Databricks workspace. host: https://WORKSPACE."""

    host: str
    job: int
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AirflowDag:
    """A DAG of Airflow 3. url: of the API server; user: signs in with the secret as password; "": the secret is a token."""

    url: str
    dag: str
    user: str


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Any program that takes a CloudEvent, such as a webhook of Argo Events. The secret signs (`whsec_…`), or is a bearer token."""

    url: str


Settings = GithubWorkflow | GitlabPipeline | DatabricksJob | AirflowDag | WebhookTarget


@dataclass(frozen=True, slots=True)
class LaunchTarget:
    """Where a launcher sends, and what it shows there. secret: a token, a password or a key that signs; never in a message."""

    kind: ReceiverKind
    settings: Settings
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LaunchNotice:
    """What a training has to know. moved: signals with their sizes, the largest first; server: our address without a slash at the end."""

    retraining: str
    trigger: str
    model: str
    parent: str
    server: str
    deadline: datetime
    words: str
    alert: str
    moved: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One POST."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Launched:
    """What was started there. id: as its receiver names it, "" when it says none; where: a page for people, "" when there is none."""

    id: str = ""
    where: str = ""


class LaunchState(StrEnum):
    """What a try came to."""

    STARTED = "started"
    AGAIN = "again"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LaunchOutcome:
    """What a try came to. status: None when no answer came. after_s: to wait before the next try, when there is one."""

    state: LaunchState
    status: int | None
    why: str = ""
    next_step: str = ""
    after_s: float = 0.0
    launched: Launched = Launched()
