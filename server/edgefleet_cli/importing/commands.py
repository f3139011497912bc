"""`edgectl import`: models that live in a registry: look, follow an alias, report to the registry what became of a release."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Page
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.conversion import conversion_options as flags
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.rollout.spec import RolloutFlags, from_flags

app = typer.Typer(help="Import models from an MLflow registry.", no_args_is_help=True)
AddressArgument = Annotated[str, typer.Argument(metavar="ADDRESS", help="mlflow:/NAME@ALIAS, or mlflow:/NAME/VERSION.")]
To = Annotated[str, completion.selector_option("Devices that follow the alias")]


class Supersede(StrEnum):
    """What becomes of a rollout that is under way."""

    QUEUE = "queue"
    CANCEL_OLDER = "cancel-older"


class Version(Struct, frozen=True):
    """The version that an address stands for. release: what was made of it."""

    uri: str = ""
    alias: str = ""
    run_id: str = ""
    git_commit: str = ""
    release: str | None = None


SHEET: Sheet[Version] = Sheet(
    "versions",
    [
        Column("address", lambda v: text(v.uri), keep=True),
        Column("alias", lambda v: text(v.alias)),
        Column("run", lambda v: text(v.run_id)),
        Column("commit", lambda v: text(v.git_commit)[:12]),
        Column("release", lambda v: text(v.release)),
    ],
    lambda v: text(v.uri),
)


@app.command("show")
def show(ctx: typer.Context, address: AddressArgument, mlflow_url: flags.MlflowUrl = None) -> None:
    """Show which version an address resolves to; downloads nothing."""
    from edgefleet_cli.importing.alias_follower import mlflow_address
    from edgefleet_cli.importing.mlflow import Registry
    from edgefleet_cli.importing.resolver import fetch_context_of
    from edgefleet_cli.importing.write_back import RELEASE_TAG

    session = Session.of(ctx)
    wanted = mlflow_address(address)
    with Registry(fetch_context_of(session, mlflow_url)) as registry:
        found = registry.resolve(wanted)
        entry = {**registry.lineage(found, wanted), "release": found.tags.get(RELEASE_TAG), "tags": dict(found.tags)}
    session.out.items(Page({"items": [entry]}, Version), SHEET)


@app.command("watch")
def watch(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="mlflow:/NAME@ALIAS.")],
    to: To,
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="S", help="How each version is rolled out; default: canary.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option("--stages", metavar="S", help="Instead of a strategy, e.g. 2,10%,100%.")
    ] = None,
    soak: Annotated[str | None, typer.Option("--soak", metavar="T", help="How long each stage is watched.")] = None,
    supersede: Annotated[
        Supersede,
        typer.Option("--supersede", help="If a rollout to these devices is open: wait, or end it."),
    ] = Supersede.QUEUE,
    name: flags.OwnName = None,
    profile: flags.Profiles = None,
    calibration: flags.Calibration = None,
    evaluation: flags.Evaluation = None,
    metric: flags.Metric = None,
    labels: flags.Labels = None,
    preprocess: flags.Preprocess = None,
    postprocess: flags.Postprocess = None,
    precision: flags.PrecisionOption = flags.Precision.AUTO,
    max_drop: flags.MaxDrop = 0.01,
    allow_pickle: flags.AllowPickle = False,
    every: Annotated[str, typer.Option("--every", metavar="T", help="How often to ask the registry.")] = "30s",
    once: Annotated[
        bool, typer.Option("--once", help="Check once, act, do not wait for the rollout. Exit code 1 if refused.")
    ] = False,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="File that records which versions were seen.")
    ] = None,
    mlflow_url: flags.MlflowUrl = None,
) -> None:
    """Follow an alias: publish and roll out each version it is moved to. Runs until it is ended."""
    from edgefleet_cli.importing.alias_follower import AliasFollower, FollowOptions, alone, mlflow_address, state_file

    session = Session.of(ctx)
    wanted = mlflow_address(address)
    if not wanted.alias:
        raise UsageError("only an alias moves", why=f"{address} is one version", next_step="write mlflow:/NAME@ALIAS")
    following = FollowOptions(
        address=wanted, selector=to,
        rollout=_rollout(strategy, stages, soak),
        supersede=supersede.value,
        name=name or wanted.release_name,
        mlflow_url=mlflow_url,
        request={
            "profiles": profile, "precision": precision, "metric": metric,
            "data": flags.data_files(calibration, evaluation, None, None, labels, preprocess, postprocess, None, None, None),
            "max_drop": max_drop, "reading": flags.ImportFlags(allow_pickle=allow_pickle),
        },
    )  # fmt: skip
    file, every_s = state or state_file(session.server, following), parse_duration_s(every)
    watcher = AliasFollower(session, following, file)
    with alone(file):
        if once:
            raise typer.Exit(EXIT_OK if watcher.look() else EXIT_FAILED)
        watcher.run(every_s)


def _rollout(strategy: str | None, stages: str | None, soak: str | None) -> RolloutFlags:
    """Return how each version goes out, canary when nothing is given. Raises UsageError before anything is followed."""
    is_given = strategy is not None or stages is not None or soak is not None
    rollout = RolloutFlags("", "", stages=stages, soak=soak, strategy=strategy if is_given else "canary")
    from_flags(rollout)
    return rollout


@app.command("write-back")
def write_back(
    ctx: typer.Context,
    rollout_id: Annotated[
        str, typer.Argument(metavar="ROLLOUT", help="Id of a rollout.", autocompletion=completion.rollouts)
    ],
    mlflow_url: flags.MlflowUrl = None,
) -> None:
    """Write the state of a rollout back to the registry: tags edge.rollout and, once finished, edge.deployed."""
    from edgefleet_cli.importing.write_back import report_to_registry, tags_of

    session = Session.of(ctx)
    rollout = session.api.get(f"/rollouts/{part(rollout_id)}", api.rollout.Rollout).value
    release = session.api.get(f"/releases/{part(rollout.release)}", api.release.Release).value
    if release.lineage.get("registry") != "mlflow":
        raise UsageError(
            f"{rollout.release} does not come from a registry",
            why="it was published from a file or another address",
            next_step="`edgectl release show NAME@VERSION` shows where it came from",
        )
    if not report_to_registry(session, release, tags_of(rollout), mlflow_url):
        raise typer.Exit(EXIT_FAILED)
    session.out.note(f"tags written: {', '.join(f'{key}={value}' for key, value in tags_of(rollout).items())}")
