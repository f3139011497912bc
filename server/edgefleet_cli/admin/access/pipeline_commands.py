"""`edgectl trusted-pipeline`: jobs of CI that sign in by who they are, without a stored secret."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.admin.access.grant_options import GROUPS, MODELS, SITES, grants_text
from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Let pipelines of GitHub or GitLab sign in without a stored secret.", no_args_is_help=True)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the trusted pipeline.", autocompletion=completion.pipelines)
]

SHEET: Sheet[api.access.Pipeline] = Sheet(
    "trusted pipelines; add one with `edgectl trusted-pipeline add NAME --repository ORG/REPO --ref REF --role publisher`",
    [
        Column("name", lambda p: text(p.name), keep=True),
        Column("provider", lambda p: text(p.provider)),
        Column("repository", lambda p: text(p.repository)),
        Column("ref", lambda p: text(p.ref)),
        Column("role", lambda p: grants_text(p.scoped, p.roles)),
        Column("last used", lambda p: moment(p.last_used_at) if p.last_used_at else "never"),
        Column("environment", lambda p: text(p.environment or "any"), wide=True),
        Column("workflow", lambda p: text(p.workflow or "any"), wide=True),
        Column("repository id", lambda p: text(p.repository_id or "of its first token"), wide=True),
        Column("issuer", lambda p: text(p.issuer), wide=True),
        Column("service", lambda p: text(p.service), wide=True),
        Column("created", lambda p: moment(p.created_at), wide=True),
        Column("by", lambda p: text(p.created_by), wide=True),
    ],
    lambda p: text(p.name),
)


@app.command("list")
def list_pipelines(ctx: typer.Context) -> None:
    """List the pipelines that may sign in without a stored secret."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/trusted-pipelines", api.access.Pipeline), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show a trusted pipeline."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/trusted-pipelines/{part(name)}", api.access.Pipeline), SHEET)


@app.command("add")
def add(  # noqa: PLR0913, PLR0917 - the options of the command
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the trusted pipeline.")],
    repository: Annotated[str, typer.Option("--repository", metavar="ORG/REPO", help="Its repository, in full.")],
    ref: Annotated[
        str, typer.Option("--ref", metavar="REF", help="refs/heads/main, or refs/tags/v* for tags that begin so.")
    ],
    role: Annotated[list[str], typer.Option("--role", help="viewer, publisher or operator; repeatable.")],
    provider: Annotated[str, typer.Option("--provider", help="github or gitlab.")] = "github",
    issuer: Annotated[
        str,
        typer.Option("--issuer", metavar="URL", help="Issuer of the ID tokens, for a GitHub or GitLab of your own."),
    ] = "",
    repository_id: Annotated[
        str,
        typer.Option("--repository-id", metavar="N", help="Its id at the provider; default: that of its first token."),
    ] = "",
    environment: Annotated[
        str, typer.Option("--environment", metavar="NAME", help="Only jobs with this environment.")
    ] = "",
    workflow: Annotated[
        str, typer.Option("--workflow", metavar="FILE", help="Only this workflow: .github/workflows/release.yml.")
    ] = "",
    model: MODELS = None,
    group: GROUPS = None,
    site: SITES = None,
) -> None:
    """Trust a pipeline: its jobs get operator tokens for 15 minutes, by the ID tokens of their CI."""
    session = Session.of(ctx)
    body = api.access.PipelineIn(
        name=name,
        provider=provider,
        repository=repository,
        ref=ref,
        roles=tuple(role),
        issuer=issuer,
        repository_id=repository_id,
        environment=environment,
        workflow=workflow,
        models=tuple(model or ()),
        groups=tuple(group or ()),
        sites=tuple(site or ()),
    )
    session.out.one(session.api.post("/trusted-pipelines", body, api.access.Pipeline), SHEET)


@app.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Trust a pipeline no longer. The operator tokens that it has end at once."""
    session = Session.of(ctx)
    session.confirm(f"Trust the pipeline {name} no longer?")
    session.api.delete(f"/trusted-pipelines/{part(name)}")
    session.out.note(f"removed {name}")
