"""`edgectl device list | explain | pin | unpin | watch`: find devices, see why one does not run what it should, keep one out of
rollouts, and see what one answers, live.
"""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMEOUT
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Page, Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.device.device_filters import DeviceListFilter
from edgefleet_cli.device.render import WHY, device_sheet
from edgefleet_cli.render.format import pairs, text
from edgefleet_cli.render.live_list import watch_list
from edgefleet_terms.reserved_labels import PIN_LABEL

DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)]


def add_look_commands(app: typer.Typer) -> None:
    """Put the commands into `edgectl device`."""
    app.command("list")(list_devices)
    app.command("explain")(explain)
    app.command("pin")(pin)
    app.command("unpin")(unpin)


def list_devices(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    selector: Annotated[str, completion.selector_option("Devices to list")] = "",
    status: Annotated[str, typer.Option("--status", help="online, offline, unknown or revoked; comma-separated.")] = "",
    running: Annotated[
        str,
        typer.Option(
            "--running",
            metavar="REF",
            help="Only devices that run name@version, or any version of name.",
            autocompletion=completion.releases,
        ),
    ] = "",
    desired: Annotated[
        str,
        typer.Option(
            "--desired", metavar="REF", help="Only devices that should run it.", autocompletion=completion.releases
        ),
    ] = "",
    stale: Annotated[
        str | None, typer.Option("--stale", metavar="T", help="Only devices not seen for this long, e.g. 10m.")
    ] = None,
    sort: Annotated[
        str,
        typer.Option("--sort", metavar="KEY", help="id, profile, status, arch, agent, seen or free; -KEY reverses."),
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep watching for changes.")] = False,
) -> None:
    """List devices."""
    session = Session.of(ctx)
    stale_s = None if stale is None else parse_duration_s(stale)
    choice = DeviceListFilter(selector, status, running, desired, stale_s, sort, limit)
    wanted = choice.server_selector()

    def ask() -> Page[api.device.Device]:
        if not choice.is_looked_at_here:
            return session.api.pages(
                "/devices", api.device.Device, selector=wanted, sort=choice.server_sort(), limit=limit
            )
        found = session.api.pages("/devices", api.device.Device, selector=wanted)
        return Page.of(choice.chosen(found.replies, session.clock.now()))

    if watch:
        watch_list(session, ask, lambda: device_sheet(session.clock.now()))
        raise typer.Exit(EXIT_TIMEOUT)
    page = ask()
    sheet = device_sheet(session.clock.now())
    is_chosen = bool(wanted or desired or stale)
    if is_chosen and session.out.is_for_eyes and not page.replies:
        session.out.note(no_match(session.api, wanted))
        return
    session.out.items(page, sheet)


def explain(ctx: typer.Context, device_id: DeviceArgument) -> None:
    """Explain why a device does not run what it should, and what to do.

    Exit code 1 if something is wrong.
    """
    session = Session.of(ctx)
    reply = session.api.get(f"/devices/{part(device_id)}/explain", api.device.DeviceExplanation)
    explanation = reply.value
    session.out.rows(reply.raw, explanation.items, WHY)
    if explanation.pinned:
        session.out.note(f"pinned: {explanation.pinned}; rollouts leave it out (`edgectl device unpin {device_id}`)")
    raise typer.Exit(EXIT_OK if all(one.is_settled for one in explanation.items) else EXIT_FAILED)


def pin(
    ctx: typer.Context,
    device_id: DeviceArgument,
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="[RELEASE]", help="Deploy this release to it first.", autocompletion=completion.releases
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="WORD", help="Reason, stored as a label value.")
    ] = "by-hand",
) -> None:
    """Pin a device to its current release, or to RELEASE: rollouts leave it out."""
    session = Session.of(ctx)
    device = _label(session, device_id, {PIN_LABEL: reason})
    if ref is not None:
        from edgefleet_cli.release.deployment.deployer import Deployer
        from edgefleet_cli.release.deployment.render import note_skipped

        answer = Deployer(session.api, session.out, session.clock).deploy(ref, device=device_id)
        note_skipped(session, answer.value)
        if not answer.value.set:
            session.out.note(f"{device_id} is pinned, and does not get {ref}")
            raise typer.Exit(EXIT_FAILED)
    message = f"{device_id} is pinned" + (f" at {ref}" if ref else "") + f": {reason}"
    session.out.one(device, device_sheet(session.clock.now()), lambda _: session.out.note(message))


def unpin(ctx: typer.Context, device_id: DeviceArgument) -> None:
    """Unpin a device: the next rollout includes it again."""
    session = Session.of(ctx)
    device = _label(session, device_id, {PIN_LABEL: None})
    sheet = device_sheet(session.clock.now())
    session.out.one(device, sheet, lambda one: session.out.note(f"{text(one.id)}: {pairs(one.labels)}"))


def _label(session: Session, device_id: str, labels: dict[str, str | None]) -> Reply[api.device.Device]:
    return session.api.patch(f"/devices/{part(device_id)}", api.device.DeviceIn(labels=labels), api.device.Device)


def add_watch_command(app: typer.Typer) -> None:
    """Put the command into `edgectl device`."""
    app.command("watch")(watch)


def watch(
    ctx: typer.Context,
    device_id: Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)],
    model: Annotated[str, typer.Option("--model", help="Only this model.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many answers.")] = None,
) -> None:
    """Show a device's answers live: labels, latency, trace ids; never the inputs.

    A sample every two seconds, until Ctrl-C or --timeout (exit code 8). It may take a few seconds to begin.
    """
    from edgefleet_cli.device.live_answers import watch_device

    is_done = watch_device(Session.of(ctx), device_id, model=model, limit=limit)
    raise typer.Exit(EXIT_OK if is_done else EXIT_TIMEOUT)
