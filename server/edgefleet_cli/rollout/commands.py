"""`edgectl rollout`: a release on its way through stages, judged at each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMEOUT, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Page
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import counted, text
from edgefleet_cli.render.live_list import watch_list
from edgefleet_cli.rollout.render import (
    FINDINGS,
    HISTORY,
    counts_text,
    device_sheet,
    exit_code,
    findings,
    next_steps,
    regressed_lines,
    rollout_sheet,
    show_head,
    show_lint,
    status_line,
)
from edgefleet_cli.rollout.simulation.power_command import simulate
from edgefleet_cli.rollout.spec import OnFail, Promote, RolloutFlags, from_flags, read_document
from edgefleet_cli.rollout.start import dry_run, rollouts_of, settle, start, write_plan
from edgefleet_cli.rollout.start import watch as watch_on
from edgefleet_terms.rollout_states import RolloutState, shown_state

app = typer.Typer(help="Manage rollouts: a release in stages, judged at each.", no_args_is_help=True)
if TYPE_CHECKING:
    from edgefleet_cli.core.structs import Body

Id = Annotated[str, typer.Argument(metavar="ID", help="Rollout id.", autocompletion=completion.rollouts)]
File = Annotated[str | None, typer.Option("--file", "-f", metavar="F", help="Spec in YAML or JSON; - is stdin.")]
Reason = Annotated[str, typer.Option("--reason", metavar="R", help="Reason; recorded with the rollout.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until it has ended. Exit codes: 0 finished, 7 failed, 8 timed out.")
]
_REFUSED = frozenset({"rolled_back", "cancelled"})


@app.command("create")
def create(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    release: Annotated[
        str | None, typer.Argument(metavar="RELEASE", help="name@version.", autocompletion=completion.releases)
    ] = None,
    file: File = None,
    to: Annotated[str | None, completion.selector_option("Devices to roll out to")] = None,
    stages: Annotated[
        str | None, typer.Option("--stages", metavar="S", help="e.g. 2,10%,100%: counts are per stratum.")
    ] = None,
    soak: Annotated[str | None, typer.Option("--soak", metavar="T", help="How long each stage is watched.")] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="S", help="canary, rolling, blue-green, shadow or ab.")
    ] = None,
    promote: Annotated[
        Promote | None, typer.Option("--promote", help="When a stage passes: automatically or by approval.")
    ] = None,
    on_fail: Annotated[OnFail | None, typer.Option("--on-fail", help="What to do when a stage fails.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="N", help="Name of the rollout.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show which devices would get it, and when.")] = False,
    wait: Wait = False,
) -> None:
    """Start a rollout from a file, or of a RELEASE to the devices of --to."""
    session = Session.of(ctx)
    flags = {
        "--to": to,
        "--stages": stages,
        "--soak": soak,
        "--strategy": strategy,
        "--promote": promote,
        "--on-fail": on_fail,
        "--name": name,
    }
    if file is not None:
        given = [flag for flag, value in flags.items() if value is not None]
        if release is not None or given:
            raise UsageError(
                "a rollout comes from a file or from flags, not from both",
                why=f"--file was given together with {', '.join([release, *given] if release else given)}",
                next_step="put it into the file, or leave --file out",
            )
        document = read_document(file)
    else:
        document = from_flags(_flags(release, to, (stages, soak, promote, on_fail, name, strategy)))
    raise typer.Exit(dry_run(session, document) if dry else start(session, document, wait=wait))


def _flags(release: str | None, to: str | None, others: tuple[Any, ...]) -> RolloutFlags:
    if release is None or to is None:
        raise UsageError(
            "a release and its devices are needed",
            why="without --file, RELEASE and --to are needed",
            next_step=f"`edgectl rollout create {release or 'digits@1.1.0'} --to 'site=berlin'`; all devices: --to ''",
        )
    return RolloutFlags(release, to, *others)


@app.command("lint")
def lint(
    ctx: typer.Context, file: Annotated[str, typer.Option("--file", "-f", metavar="F", help="Spec; - is stdin.")]
) -> None:
    """Check a spec against the fleet.

    Exit code 1 if it has errors.
    """
    session = Session.of(ctx)
    reply = rollouts_of(session).plan(read_document(file))
    plan = reply.value
    if session.out.is_for_eyes:
        show_lint(session.out, plan)
    else:
        session.out.rows(reply.raw, findings(plan), FINDINGS)
    errors = sum(finding.level == "error" for finding in plan.findings)
    warnings = len(plan.findings) - errors
    session.out.note(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    raise typer.Exit(EXIT_FAILED if errors else EXIT_OK)


@app.command("strategy")
def strategy(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them; else all.", autocompletion=completion.strategies)
    ] = None,
) -> None:
    """List the strategies, or print the spec of one."""
    from edgefleet_cli.rollout import strategy_table

    strategy_table.show(Session.of(ctx), name)


@app.command("list")
def list_rollouts(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option("--state", help="Only in this state, e.g. running,regressed; comma-separated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only of this model.", autocompletion=completion.models)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Only with this device.", autocompletion=completion.devices),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Keep watching for changes.")] = False,
) -> None:
    """List rollouts, newest first, then finished rollouts that regressed later."""
    session = Session.of(ctx)
    shown = {shown_state(stored): stored.value for stored in RolloutState}
    state = ",".join(shown.get(one, one) for one in state.split(",")) if state else None

    def ask() -> Page[api.rollout.Rollout]:
        return session.api.pages("/rollouts", api.rollout.Rollout, state=state, model=model, device=device, limit=limit)

    if watching:
        watch_list(session, ask, lambda: rollout_sheet(session.clock.now()))
        raise typer.Exit(EXIT_TIMEOUT)
    page = ask()
    sheet = rollout_sheet(session.clock.now())
    if state or model or device:
        sheet = replace(sheet, plural="rollout matches; without --state, --model and --device, all are listed")
    session.out.items(page, sheet)
    for line in regressed_lines(page):
        session.out.note(line)


@app.command("history")
def history(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)],
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 20,
) -> None:
    """List the past rollouts of a model, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/rollouts", api.rollout.Rollout, model=model, limit=limit), HISTORY)


@app.command("status")
def status(ctx: typer.Context, rollout_id: Id, wait: Wait = False) -> None:
    """Show a rollout in one line.

    Exit codes: 0 finished, 7 failed, 8 still open.
    """
    session = Session.of(ctx)
    rollout = rollouts_of(session).get(rollout_id)
    if wait:
        raise typer.Exit(watch_on(session, rollout))
    sheet = rollout_sheet(session.clock.now())
    session.out.one(rollout, sheet, lambda entry: session.out.prose(status_line(entry)))
    raise typer.Exit(exit_code(rollout.value))


@app.command("show")
def show(ctx: typer.Context, rollout_id: Id) -> None:
    """Show a rollout: stages, state and evidence of each profile, failed devices."""
    session = Session.of(ctx)
    rollout = rollouts_of(session).get(rollout_id)
    session.out.one(rollout, rollout_sheet(session.clock.now()), lambda entry: _show(session, entry))


def _show(session: Session, rollout: api.rollout.Rollout) -> None:
    from edgefleet_cli.rollout.stage_tree import rollout_tree

    now = session.clock.now()
    show_head(session.out, rollout, now)
    session.out.line("")
    session.out.data.print(rollout_tree(rollout, now))
    rollouts_of(session).show_bad_devices(rollout)
    if next_steps(rollout):
        session.out.note(f"next: {next_steps(rollout)}")


@app.command("watch")
def watch(ctx: typer.Context, rollout_id: Id) -> None:
    """Watch a rollout until it has ended.

    Exit codes: 0 finished, 7 failed, 8 timed out.
    """
    session = Session.of(ctx)
    raise typer.Exit(watch_on(session, rollouts_of(session).get(rollout_id)))


@app.command("plan")
def plan(
    ctx: typer.Context,
    rollout_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Rollout id.", autocompletion=completion.rollouts)
    ] = None,
    file: File = None,
) -> None:
    """Show which devices get the release in which stage, for a rollout or a spec."""
    session = Session.of(ctx)
    if (rollout_id is None) == (file is None):
        raise UsageError(
            "a rollout or a spec is needed",
            why="exactly one of ID and --file is needed",
            next_step="`edgectl rollout plan ID`, or `edgectl rollout plan -f spec.yaml`",
        )
    rollouts = rollouts_of(session)
    write_plan(session, rollouts.plan_of(str(rollout_id)) if file is None else rollouts.plan(read_document(file)))


app.command("simulate")(simulate)


@app.command("explain")
def explain(
    ctx: typer.Context,
    rollout_id: Id,
    every: Annotated[
        bool, typer.Option("--all", help="All decisions, not only the newest of each stage and profile.")
    ] = False,
) -> None:
    """Explain a rollout: decisions, recomputed evidence, what it waits for.

    Exit code 1 if a decision differs.
    """
    from edgefleet_cli.core.options import Format
    from edgefleet_cli.rollout import explain as rollout_explain

    session = Session.of(ctx)
    path = f"/rollouts/{part(rollout_id)}"
    page = session.api.pages(f"{path}/decisions", api.rollout.Decision)
    if session.out.form is Format.TABLE:
        rollout = session.api.get(path, api.rollout.Rollout).value
        devices = session.api.pages(f"{path}/devices", api.rollout.RolloutDevice, limit=rollout_explain.WAITING_LIMIT)
        decisions = rollout_explain.chosen(page, is_all=every)
        rollout_explain.show_explanation(session.out, rollout, decisions, devices, session.clock.now())
    else:
        session.out.rows(page.raw, rollout_explain.chosen(page, is_all=every), rollout_explain.DECISIONS)
    wrong = len(rollout_explain.disagreeing(page))
    if wrong:
        session.out.note(f"{counted(wrong, 'decision')} cannot be reproduced from the stored evidence")
    raise typer.Exit(EXIT_FAILED if wrong else EXIT_OK)


@app.command("devices")
def devices(
    ctx: typer.Context,
    rollout_id: Id,
    state: Annotated[str | None, typer.Option("--state", help="Only in this state, e.g. failed.")] = None,
    stage: Annotated[str | None, typer.Option("--stage", metavar="N", help="Only of this stage.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Keep watching for changes.")] = False,
) -> None:
    """List the devices of a rollout, with state and reason."""
    session = Session.of(ctx)
    path = f"/rollouts/{part(rollout_id)}/devices"

    def ask() -> Page[api.rollout.RolloutDevice]:
        return session.api.pages(path, api.rollout.RolloutDevice, limit=limit, state=state, stage=stage)

    if watching:
        watch_list(session, ask, device_sheet)
        raise typer.Exit(EXIT_TIMEOUT)
    session.out.items(ask(), device_sheet())


@app.command("pause")
def pause(ctx: typer.Context, rollout_id: Id, reason: Reason = "") -> None:
    """Pause a rollout; devices that have not switched yet stop."""
    _act(ctx, rollout_id, "pause", api.rollout.CommandIn(reason=reason))


@app.command("resume")
def resume(ctx: typer.Context, rollout_id: Id, reason: Reason = "", wait: Wait = False) -> None:
    """Resume a paused rollout."""
    _act(ctx, rollout_id, "resume", api.rollout.CommandIn(reason=reason), wait=wait)


@app.command("promote")
def promote_stage(
    ctx: typer.Context,
    rollout_id: Id,
    reason: Annotated[
        str, typer.Option("--reason", metavar="R", help="Reason to promote without the evidence; recorded.")
    ],
    stratum: Annotated[str | None, typer.Option("--stratum", metavar="S", help="Only this stratum.")] = None,
    wait: Wait = False,
) -> None:
    """Promote the open stage by hand, without waiting for evidence."""
    _act(ctx, rollout_id, "promote", api.rollout.CommandIn(reason=reason, stratum=stratum), wait=wait)


@app.command("skip")
def skip_stage(
    ctx: typer.Context,
    rollout_id: Id,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage that has not opened yet; not the last one.")],
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Reason to skip it; recorded.")],
    stratum: Annotated[str | None, typer.Option("--stratum", metavar="S", help="Only in this stratum.")] = None,
    wait: Wait = False,
) -> None:
    """Skip a stage that has not opened; its devices move to the next one."""
    _act(ctx, rollout_id, "skip", api.rollout.SkipIn(stage=stage, reason=reason, stratum=stratum), wait=wait)


@app.command("retry")
def retry(
    ctx: typer.Context,
    rollout_id: Id,
    failed: Annotated[bool, typer.Option("--failed", help="Also devices on which the release itself failed.")] = False,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="ID",
            help="Only this device, whatever failed; repeatable.",
            autocompletion=completion.devices,
        ),
    ] = None,
    reason: Reason = "",
    wait: Wait = False,
) -> None:
    """Retry devices that failed for network, disk, memory, deadline or loss; with --failed all. The failures stay evidence."""
    _act(
        ctx,
        rollout_id,
        "retry",
        api.rollout.RetryIn(reason=reason, failed=failed, devices=tuple(device or ())),
        wait=wait,
    )


@app.command("approve")
def approve(
    ctx: typer.Context,
    rollout_id: Id,
    reason: Reason = "",
    stratum: Annotated[str | None, typer.Option("--stratum", metavar="S", help="Only this stratum.")] = None,
    wait: Wait = False,
) -> None:
    """Approve the stages that wait for an approval; needs the role that the spec names."""
    _act(ctx, rollout_id, "approve", api.rollout.AnswerIn(reason=reason, stratum=stratum), wait=wait)


@app.command("deny")
def deny(
    ctx: typer.Context,
    rollout_id: Id,
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Reason; recorded with the rollout.")],
    stratum: Annotated[str | None, typer.Option("--stratum", metavar="S", help="Only this stratum.")] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until it is rolled back. Exit codes: 0 rolled back, 7 not, 8 timed out."),
    ] = False,
) -> None:
    """Deny the stages that wait for an approval; their devices roll back."""
    _act(ctx, rollout_id, "deny", api.rollout.AnswerIn(reason=reason, stratum=stratum), wait=wait, wanted=_REFUSED)


@app.command("abort")
def abort(
    ctx: typer.Context,
    rollout_id: Id,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Also roll back the devices that run the release.")
    ] = False,
    reason: Reason = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended. Exit codes: 0 as asked, 7 otherwise, 8 timed out.")
    ] = False,
) -> None:
    """Abort a rollout. Devices that run the release keep it, unless --rollback is given."""
    session = Session.of(ctx)
    rollout = rollouts_of(session).get(rollout_id).value
    then = "They roll back to what they ran before." if rollback else "They keep it."
    verb = "Roll back" if rollback else "Abort"
    session.confirm(f"{verb} {rollout_id} ({text(rollout.release)}; devices: {counts_text(rollout.counts)})? {then}")
    body = api.rollout.CommandIn(reason=reason, rollback=rollback)
    _act(ctx, rollout_id, "abort", body, wait=wait, wanted=frozenset({"rolled_back" if rollback else "cancelled"}))


@app.command("rollback")
def rollback(
    ctx: typer.Context,
    rollout_id: Id,
    reason: Reason = "",
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until it is rolled back. Exit codes: 0 rolled back, 7 not, 8 timed out."),
    ] = False,
) -> None:
    """End a rollout and roll the release back wherever it runs: the same as `abort --rollback`."""
    abort(ctx, rollout_id, rollback=True, reason=reason, wait=wait)


def _act(
    ctx: typer.Context,
    rollout_id: str,
    verb: str,
    body: Body,
    *,
    wait: bool = False,
    wanted: frozenset[str] = frozenset(),
) -> None:
    session = Session.of(ctx)
    rollout = rollouts_of(session).act(rollout_id, verb, body)
    raise typer.Exit(settle(session, rollout, wait=wait, wanted=wanted))
