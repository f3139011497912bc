"""`edgectl device`: what runs where, and how it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.device.approval_commands import add_approval_commands
from edgefleet_cli.device.lookup_commands import add_look_commands, add_watch_command
from edgefleet_cli.device.readmission_commands import add_readmission_commands
from edgefleet_cli.device.render import device_sheet, errors_of
from edgefleet_cli.device.tasks.bulk_commands import add_many_command
from edgefleet_cli.device.tasks.commands import add_task_commands
from edgefleet_cli.render.format import age, counted, moment, pairs, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.timelines.commands import device_metrics
from edgefleet_terms.planned_runs import run_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Manage devices.", no_args_is_help=True)
DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)]

add_look_commands(app)
app.command("metrics")(device_metrics)


@app.command("show")
def show(ctx: typer.Context, device_id: DeviceArgument) -> None:
    """Show a device: what it runs, what it should run, and its health."""
    session = Session.of(ctx)
    device = session.api.get(f"/devices/{part(device_id)}", api.device.Device)
    sheet = device_sheet(session.clock.now())
    session.out.one(device, sheet, lambda _: _show(session, device, sheet))


def _show(session: Session, reply: Reply[api.device.Device], sheet: Sheet[api.device.Device]) -> None:
    """Write a device; of its models all that it reports, also what this edgectl knows no word for."""
    out, device = session.out, reply.value
    out.fields(
        (column.header, column.cell(device)) for column in sheet.columns if column.header not in {"models", "error"}
    )
    heard = [at for at in (device.last_seen, device.telemetry and device.telemetry.received_at) if at]
    out.fields(
        [
            ("last message", age(max(heard, default=None), session.clock.now())),
            (f"why {device.status}", text(device.status_reason)),
            ("error", errors_of(device)),
            *(
                [("suspect", f"since {moment(device.suspect_since)}: {device.suspect_reason}")]
                if device.suspect_since
                else []
            ),
            ("certificate until", moment(device.cert_not_after)),
            *([("revoked", moment(device.revoked_at)), ("cut off", _cut_off(device))] if device.revoked_at else []),
        ]
    )
    if device.facts:
        out.heading("Facts")
        runs = {"schedules": [f"{model}: {said}" for model, said in run_texts(device.facts).items()]}
        facts = device.facts | (runs if runs["schedules"] else {})
        out.fields((key.replace("_", " "), _fact(value)) for key, value in facts.items())
    for model in reply.raw.get("models") or []:
        out.heading(f"Model {model['model']}")
        out.fields((key.replace("_", " "), _fact(value)) for key, value in model.items() if key != "model")
    if device.telemetry is not None:
        from edgefleet_cli.device.render import show_health
        from edgefleet_cli.timelines.trends import TRENDS, trends, windows_of

        show_health(out, device.telemetry, session.clock.now())
        rows = trends(windows_of(session.api, device.id))
        if any(row.answers for row in rows):
            out.heading("Trend: requests and p95 of the last windows, newest on the right")
            out.table(rows, TRENDS)


def _cut_off(device: api.device.Device) -> str:
    """Return when the broker had ended the session of a revoked device and refused its certificate."""
    return moment(device.cut_off_at) if device.cut_off_at else "not yet: look at `edgectl server check`"


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value)
    if isinstance(value, dict):
        if set(value) == {"name", "version"}:
            return f"{value['name']} {value['version']}"
        if set(value) == {"answers", "enough", "within_s"}:  # how far a version on probation is
            return f"{value['answers']} of {value['enough']} answers reported so far, or until {value['within_s']} s are over"
        return ", ".join(f"{key}={_fact(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    return text(value)


@app.command("events")
def events(
    ctx: typer.Context,
    device_id: DeviceArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
) -> None:
    """List what happened on a device, newest first."""
    from edgefleet_cli.fleet.render import EVENTS

    session = Session.of(ctx)
    session.out.items(session.api.pages(f"/devices/{part(device_id)}/events", api.fleet.Event, limit=limit), EVENTS)


@app.command("measure")
def measure(
    ctx: typer.Context,
    device_id: DeviceArgument,
    ref: Annotated[str, typer.Argument(metavar="RELEASE", help="name@version.", autocompletion=completion.releases)],
) -> None:
    """Measure latency, memory and energy of a release on a device, without deploying it.

    Exit code 1 if it failed.
    """
    from edgefleet_cli.release.device_measurement import DEFAULT_WAIT_S, MEASURED, Measurer, show_measured

    session = Session.of(ctx)
    release = session.api.get(f"/releases/{part(ref)}", api.release.Release).value
    measurer = Measurer(session.api, session.out, session.clock)
    row = measurer.measure(release, device_id, wait_s=session.options.timeout_s or DEFAULT_WAIT_S)
    session.out.one(reply_of(row), MEASURED, lambda entry: show_measured(session.out, [entry]))
    raise typer.Exit(EXIT_OK if row.state == "measured" else EXIT_FAILED)


@app.command("label")
def label(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="ID K=V|K-",
            help="A device, then labels: set, or removed with K-. With -l labels only.",
            autocompletion=completion.device_to_label,
        ),
    ],
    selector: Annotated[str | None, completion.selector_option("Label every device that it matches")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With -l: only show which devices would change.")] = False,
) -> None:
    """Set or remove labels: `edgectl device label d-1 site=berlin old-`; with -l of many devices."""
    session = Session.of(ctx)
    if selector is not None:
        _label_many(session, selector, parse_labels(words, removals=True), dry_run=dry_run)
        return
    if dry_run or len(words) < 2:
        raise UsageError(
            "a device and its labels are needed" if len(words) < 2 else "--dry-run needs -l",
            why="one device is named, many are selected",
            next_step="`edgectl device label ID site=berlin old-`, or `edgectl device label -l site=lab ring=1`",
        )
    device_id, *changes = words
    body = api.device.DeviceIn(labels=parse_labels(changes, removals=True))
    device = session.api.patch(f"/devices/{part(device_id)}", body, api.device.Device)
    sheet = device_sheet(session.clock.now())
    session.out.one(device, sheet, lambda entry: session.out.note(f"{device_id}: {pairs(entry.labels)}"))


@app.command("rename")
def rename(
    ctx: typer.Context,
    device_id: DeviceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Display name; '' removes it.")],
) -> None:
    """Set the display name of a device. The id stays as it is, and commands take the id."""
    session = Session.of(ctx)
    device = session.api.patch(f"/devices/{part(device_id)}", api.device.DeviceIn(display_name=name), api.device.Device)
    message = f"{device_id}: " + (f"name {device.value.display_name}" if device.value.display_name else "no name")
    session.out.one(device, device_sheet(session.clock.now()), lambda _: session.out.note(message))


@app.command("set-profile")
def set_profile(
    ctx: typer.Context,
    device_id: DeviceArgument,
    profile: Annotated[str, typer.Argument(metavar="PROFILE", autocompletion=completion.profiles)],
) -> None:
    """Set the hardware profile of a device by hand."""
    session = Session.of(ctx)
    device = session.api.patch(f"/devices/{part(device_id)}", api.device.DeviceIn(profile=profile), api.device.Device)
    sheet = device_sheet(session.clock.now())
    session.out.one(device, sheet, lambda entry: session.out.note(f"{device_id}: profile {entry.profile}"))


@app.command("capture")
def capture(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    device_id: DeviceArgument,
    model: Annotated[str, typer.Option("--model", help="Only this model.")] = "",
    reason: Annotated[
        str, typer.Option("--reason", help="random, low_confidence, drift, disagreement or flag; default: all.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000, help="At most this many; the newest first.")
    ] = 100,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder to write the records to.")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Private key to open them with.")] = None,
    wait: Annotated[str, typer.Option("--wait", help="How long to wait for the device.")] = "2m",
    fetch: Annotated[str | None, typer.Option("--fetch", metavar="ID", help="Continue an earlier fetch.")] = None,
) -> None:
    """Fetch captured inputs from a device, as the bundle's privacy policy allows, sealed to your key."""
    from edgefleet_cli.device.captures.capture_fetch import fetch_records

    fetch_records(
        Session.of(ctx),
        device_id,
        wanted=api.capture.CaptureFetchIn(model=model, reason=reason, limit=limit),
        fetch_id=fetch,
        out=out,
        key=key,
        wait_s=parse_duration_s(wait),
    )


@app.command("revoke")
def revoke(ctx: typer.Context, device_id: DeviceArgument) -> None:
    """Take a device out of the fleet: its identity is revoked, and only a new enrolment brings it back."""
    session = Session.of(ctx)
    session.confirm(f"Revoke {device_id}? It keeps running its models, but the server no longer accepts its reports.")
    session.api.delete(f"/devices/{part(device_id)}")
    session.out.note(f"revoked {device_id}")


@app.command("clear-suspicion")
def clear_suspicion(
    ctx: typer.Context,
    device_id: DeviceArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Reason, stored in the event.")] = "",
) -> None:
    """Trust a suspect device again: it may be a canary, and its failures count as any other's."""
    session = Session.of(ctx)
    session.confirm(f"Clear {device_id}? A report of it was refuted: find out why first.")
    body = api.device.ClearSuspicionIn(reason=reason)
    device = session.api.post(f"/devices/{part(device_id)}:clear-suspicion", body, api.device.Device)
    message = f"{device_id} is not suspect"
    session.out.one(device, device_sheet(session.clock.now()), lambda _: session.out.note(message))


@app.command("enroll")
def enroll(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many claim tokens.")] = 1,
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many devices one token enrols.")] = 1,
    ttl: Annotated[str, typer.Option("--ttl", help="How long the tokens are valid.")] = "24h",
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", help="Hardware profile; default: chosen by the server.", autocompletion=completion.profiles
        ),
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Label of the devices.")] = None,
    name_prefix: Annotated[str | None, typer.Option("--name-prefix", help="Prefix of the device ids.")] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="TEXT", help="Display name of the device; numbered when there are several.")
    ] = "",
    approval: Annotated[
        bool | None, typer.Option("--approval/--no-approval", help="Devices wait for `device approve`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write each token to a file there (mode 0600).")
    ] = None,
) -> None:
    """Create claim tokens; a device enrols itself with one."""
    from edgefleet_cli.core.structs import UNSET

    session = Session.of(ctx)
    body = api.enrollment.EnrollmentIn(
        count=count,
        uses=uses,
        ttl_s=int(parse_duration_s(ttl)),
        labels={key: value for key, value in parse_labels(labels or [], removals=False).items() if value is not None},
        profile=profile,
        name_prefix=name_prefix,
        display_name=name,
        approval=UNSET if approval is None else approval,
    )
    made = session.api.post("/enrollments", body, api.enrollment.ClaimTokens)
    tokens = made.value.tokens
    if out is not None:
        _write_tokens(tokens, out)
        session.out.note(f"wrote {len(tokens)} token files to {out}")
    if session.out.is_for_eyes:
        _show_tokens(session, made.value, out)
    else:
        session.out.rows(made.raw, tokens, CLAIMS)


CLAIMS: Sheet[api.enrollment.NewClaim] = Sheet(
    "claim tokens",
    [
        Column("id", lambda t: text(t.id), keep=True),
        Column("expires", lambda t: moment(t.expires_at)),
        Column("token", lambda t: text(t.token)),
    ],
    lambda t: text(t.token),
)


def _show_tokens(session: Session, made: api.enrollment.ClaimTokens, out: Path | None) -> None:
    tokens = made.tokens
    for entry in tokens:
        if out is None:
            session.out.line(entry.token)
    first = f"$(cat {out / (tokens[0].id + '.token')})" if out is not None and tokens else "TOKEN"
    if len(tokens) == 1 and out is None:
        first = tokens[0].token
    session.out.note("on a device that has the agent:")
    session.out.note(f"  edge-agent enroll {first} && edge-agent run")
    if made.install:
        session.out.note("on a device without it (as root, it also sets up a service):")
        session.out.note(f"  echo {first} | {made.install}")
    else:
        session.out.note("for a line that also installs the agent, run `./dev dist` in a clone, then")
        session.out.note("  edgectl server agent-packages add dist")
    if any(entry.approval for entry in tokens):
        session.out.note("each device then waits for approval: compare its fingerprint with")
        session.out.note("  edgectl device pending")


def _write_tokens(tokens: Sequence[api.enrollment.NewClaim], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in tokens:
            write_private(folder / f"{entry.id}.token", f"{entry.token}\n")
    except OSError as error:
        raise UsageError(
            f"cannot write tokens to {folder}", why=str(error), next_step="give another folder with --out"
        ) from error


def parse_labels(changes: list[str], *, removals: bool) -> dict[str, str | None]:
    """Return labels from `k=v` and, where allowed, `k-` (None = remove). Raises UsageError."""
    labels: dict[str, str | None] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if equals and key:
            labels[key] = value
        elif removals and change.endswith("-") and len(change) > 1:
            labels[change[:-1]] = None
        else:
            allowed = "k=v or k-" if removals else "k=v"
            raise UsageError(f"{change!r} is not a label", why=f"expected {allowed}", next_step="e.g. site=berlin")
    return labels


def _label_many(session: Session, selector: str, labels: dict[str, str | None], *, dry_run: bool) -> None:
    """Set (None: remove) labels on every device that a selector matches, after saying how many those are."""
    shown = pairs({key: "-" if value is None else value for key, value in labels.items()})

    def ask(is_dry: bool) -> Reply[api.device.LabelChange]:
        body = api.device.LabelsIn(selector=selector, labels=labels, dry_run=is_dry)
        return session.api.post("/devices:label", body, api.device.LabelChange)

    answer = ask(True)
    if not answer.value.matched and session.out.is_for_eyes:
        session.out.note(no_match(session.api, selector))
        return
    if not dry_run and answer.value.changed:
        session.confirm(
            f"Label {counted(answer.value.changed, 'device')} of {answer.value.matched} that match: {shown}?"
        )
        answer = ask(False)
    change = answer.value
    session.out.rows(answer.raw, change.sample, LABELLED)
    named = len(change.sample)
    left = f"; {change.changed - named} more are not listed" if change.changed > named else ""
    verb = "would be" if change.dry_run else "are"
    session.out.note(
        f"{counted(change.changed, 'device')} of {change.matched} that match {verb} labelled {shown}{left}"
    )


LABELLED: Sheet[str] = Sheet("devices that change", [Column("device", text, keep=True)], text)

add_approval_commands(app)
add_readmission_commands(app)
add_task_commands(app)
add_many_command(app)
add_watch_command(app)
