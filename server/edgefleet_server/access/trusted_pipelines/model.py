"""Which runs of which pipelines are trusted, by the claims of their ID tokens. Pure.

Sources of the claims: GitHub, "OpenID Connect reference"; GitLab, "ID token authentication". Each claim that a rule rests on must be there.

1. Repository and ref are always compared, never by a pattern over repositories. A ref is exact, or begins as a rule's ref that ends
   in `*`.
2. The repository's id is compared too: a name that was deleted, renamed or handed over can be somebody else's tomorrow. A rule without an
   id learns it from its first token.
3. Only events that people with write access cause are taken: no pull or merge request, whose code may be a stranger's, and nothing that
   one sets off (`pull_request_target`, `workflow_run`, `issue_comment`), though it runs with the ref of the default branch.
4. GitLab's ref must be protected: any developer can push another.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from edgefleet_server.access.errors import BadIdTokenError, BadPipelineError
from edgefleet_server.access.model import Grant, Role

TOKEN_LIFE: Final = timedelta(minutes=15)
ROLES: Final = frozenset({Role.VIEWER, Role.PUBLISHER, Role.OPERATOR})
"""A program's yes approves nothing, and no program needs to make tokens."""
MAX_NAME: Final = 80


class Provider(StrEnum):
    """Whose tokens they are. Stored and public: never renamed."""

    GITHUB = "github"
    GITLAB = "gitlab"


ISSUERS: Final[Mapping[Provider, str]] = {
    Provider.GITHUB: "https://token.actions.githubusercontent.com",
    Provider.GITLAB: "https://gitlab.com",
}
_EVENTS: Final[Mapping[Provider, frozenset[str]]] = {
    Provider.GITHUB: frozenset({"push", "workflow_dispatch", "schedule", "release", "repository_dispatch"}),
    Provider.GITLAB: frozenset({"push", "web", "schedule", "api", "trigger", "pipeline"}),
}
_REPOSITORIES: Final[Mapping[Provider, re.Pattern[str]]] = {
    Provider.GITHUB: re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+"),
    Provider.GITLAB: re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+"),
}
_REF: Final = re.compile(r"refs/(heads|tags)/[^\s*?\[\\^~:]+\*?")
_WORKFLOW: Final = re.compile(r"\.github/workflows/[A-Za-z0-9._-]+\.ya?ml")


@dataclass(frozen=True, slots=True)
class TrustedPipeline:
    """A rule. repository_id "": learnt from the first token; environment, workflow "": any; last_used_at None: never."""

    name: str
    provider: Provider
    issuer: str
    repository: str
    repository_id: str
    ref: str
    environment: str
    workflow: str
    roles: tuple[Role, ...]
    created_at: datetime
    created_by: str
    last_used_at: datetime | None = None
    scoped: tuple[Grant, ...] = ()
    """Roles in a part of the fleet; `roles` are over all of it."""

    @property
    def service(self) -> str:
        """The name of the service that its tokens belong to: one for each repository."""
        is_usual = self.issuer == ISSUERS[self.provider]
        return shortened(f"ci:{self.provider if is_usual else urlsplit(self.issuer).netloc}:{self.repository}")


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """What an ID token says of the job that has it. ref: `refs/heads/…` or `refs/tags/…`, for both providers."""

    repository: str
    repository_id: str
    ref: str
    event: str
    environment: str
    workflow: str
    is_protected: bool


def checked(pipeline: TrustedPipeline) -> TrustedPipeline:
    """Return a rule that can be kept. Raises BadPipelineError saying what is wrong with it."""
    url = urlsplit(pipeline.issuer)
    granted = {*pipeline.roles, *(one.role for one in pipeline.scoped)}
    wrong = {
        "the issuer must be https://HOST, as the claim `iss` of its tokens says it": url.scheme not in ("https", "http")
        or not url.hostname
        or bool(url.query or url.fragment or "@" in url.netloc),
        "the repository must be named in full, without a pattern: ORG/REPO": not _REPOSITORIES[
            pipeline.provider
        ].fullmatch(pipeline.repository),
        "the ref must be refs/heads/BRANCH or refs/tags/TAG; one `*` may end it, behind at least one character": not _REF.fullmatch(
            pipeline.ref
        ),
        "the workflow must be a file of .github/workflows of GitHub": bool(pipeline.workflow)
        and (pipeline.provider is not Provider.GITHUB or not _WORKFLOW.fullmatch(pipeline.workflow)),
        "the repository's id is a number": bool(pipeline.repository_id) and not pipeline.repository_id.isdecimal(),
        "a pipeline may be viewer, publisher or operator": not granted or not granted <= ROLES,
    }
    for why, is_so in wrong.items():
        if is_so:
            raise BadPipelineError(f"{pipeline.name}: {why}", next_step="correct it and add the pipeline again")
    return pipeline


def run_of(provider: Provider, claims: Mapping[str, Any]) -> PipelineRun:
    """Return what the claims of a valid ID token say. Raises BadIdTokenError naming the claim that is not there."""
    if provider is Provider.GITHUB:
        return PipelineRun(
            repository=_text(claims, "repository"),
            repository_id=_text(claims, "repository_id"),
            ref=_text(claims, "ref"),
            event=_text(claims, "event_name"),
            environment=_text(claims, "environment", ""),
            workflow=_text(claims, "workflow_ref", ""),
            is_protected=True,
        )
    kind = {"branch": "refs/heads/", "tag": "refs/tags/"}.get(_text(claims, "ref_type"), "")
    return PipelineRun(
        repository=_text(claims, "project_path"),
        repository_id=_text(claims, "project_id"),
        ref=kind + _text(claims, "ref"),
        event=_text(claims, "pipeline_source"),
        environment=_text(claims, "environment", ""),
        workflow="",
        is_protected=_text(claims, "ref_protected") == "true",
    )


def mismatch(pipeline: TrustedPipeline, run: PipelineRun) -> str:
    """Return why a run is not the one that a rule trusts, "" where it is."""
    prefix = pipeline.ref.removesuffix("*")
    is_ref = run.ref.startswith(prefix) and len(run.ref) > len(prefix) if prefix != pipeline.ref else run.ref == prefix
    workflow = f"{pipeline.repository}/{pipeline.workflow}@{run.ref}"
    if run.repository != pipeline.repository:
        return f"its repository is {run.repository}, expected {pipeline.repository}"
    if pipeline.repository_id and run.repository_id != pipeline.repository_id:
        return f"its repository has the id {run.repository_id}, expected {pipeline.repository_id}: the name is another repository's now"
    if run.event not in _EVENTS[pipeline.provider]:
        return f"its event is {run.event}, expected one of {', '.join(sorted(_EVENTS[pipeline.provider]))}"
    if not is_ref:
        return f"its ref is {run.ref}, expected {pipeline.ref}"
    if not run.is_protected:
        return f"its ref {run.ref} is not protected"
    if pipeline.environment and run.environment != pipeline.environment:
        return f"its environment is {run.environment or 'none'}, expected {pipeline.environment}"
    if pipeline.workflow and run.workflow != workflow:
        return f"its workflow is {run.workflow or 'none'}, expected {workflow}"
    return ""


def chosen(pipelines: Sequence[TrustedPipeline], run: PipelineRun) -> tuple[TrustedPipeline | None, str]:
    """Return the rule that trusts a run, else None and why. More than one is none: roles of two rules are never put together."""
    reasons = {one.name: mismatch(one, run) for one in pipelines}
    found = [one for one in pipelines if not reasons[one.name]]
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"more than one matches: {', '.join(one.name for one in found)}; name one of them"
    own = [f"{one.name}: {reasons[one.name]}" for one in pipelines if one.repository == run.repository]
    return None, "; ".join(own[:5]) or f"none is for {run.repository}"


def shortened(name: str) -> str:
    """Return a name of at most MAX_NAME characters; a longer one ends in a digest of the whole."""
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 11]}~{sha256(name.encode()).hexdigest()[:10]}"


def _text(claims: Mapping[str, Any], name: str, otherwise: str | None = None) -> str:
    found = claims.get(name, otherwise)
    if not isinstance(found, str) or (not found and otherwise is None) or len(found) > 512:
        raise BadIdTokenError(
            f"the ID token is refused: its claim {name} is missing or no text",
            next_step="see that the trusted pipeline names the right provider",
        )
    return found
