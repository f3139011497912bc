"""`edgectl release`: a model at a version, with its bundles and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.keys.offline_commands import PassphraseFiles
from edgefleet_cli.keys.team_commands import RootSha256
from edgefleet_cli.release.render import PERFORMANCE, RELEASES, show_performance, show_release
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage releases: a model at a version, with one bundle per profile.", no_args_is_help=True)

Ref = Annotated[
    str, typer.Argument(metavar="REF", help="name@version, e.g. digits@1.1.0.", autocompletion=completion.releases)
]

DEVICES: Sheet[api.release.ReleaseDevice] = Sheet(
    "devices with this release",
    [
        Column("name", lambda d: text(d.display_name or None)),
        Column("device", lambda d: text(d.device), keep=True),
        Column("profile", lambda d: text(d.profile)),
        Column("status", lambda d: text(d.status)),
        Column("wanted", lambda d: text(d.wanted)),
        Column("runs it", lambda d: text(d.active)),
        Column("phase", lambda d: text(d.phase)),
        Column("state", lambda d: text(d.state), wide=True),
        Column("error", lambda d: text(d.error_class)),
    ],
    lambda d: text(d.device),
)


@app.command("list")
def list_releases(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Only releases of this model.")] = None,
) -> None:
    """List releases, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/releases", api.release.Release, model=model), RELEASES)


@app.command("show")
def show(ctx: typer.Context, ref: Ref) -> None:
    """Show a release: its bundles, what was refused and why, and which inputs matter."""
    session = Session.of(ctx)
    release = session.api.get(f"/releases/{part(ref)}", api.release.Release)
    session.out.one(release, RELEASES, lambda entry: _show(session, entry))


def _show(session: Session, release: api.release.Release) -> None:
    from edgefleet_cli.release.importance_bars import report_of, show_comparison, show_importance

    show_release(session.out, release)
    if release.bundles:
        report = report_of(session, release.ref)
        show_importance(session.out, report.importance)
        if "parent" in release.lineage:
            show_comparison(session.out, report.comparison)


@app.command("performance")
def performance(ctx: typer.Context, ref: Ref) -> None:
    """Compare predicted and measured performance of a release."""
    session = Session.of(ctx)
    page = session.api.page(f"/releases/{part(ref)}/performance", api.cost.Performance)
    if session.out.is_for_eyes and page.replies:
        show_performance(session.out, list(page))
    else:
        session.out.items(page, PERFORMANCE)


@app.command("devices")
def devices(ctx: typer.Context, ref: Ref) -> None:
    """List the devices that run or should run a release."""
    session = Session.of(ctx)
    session.out.items(session.api.pages(f"/releases/{part(ref)}/devices", api.release.ReleaseDevice), DEVICES)


@app.command("report")
def report(
    ctx: typer.Context,
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: in the user's cache folder.")
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="The report of an earlier attempt that signed nothing."),
    ] = None,
) -> None:
    """Write the conversion report of a release as an HTML page and print its path; -o json prints its figures."""
    from edgefleet_cli.core.files import write_whole

    session = Session.of(ctx)
    path = f"/releases/{part(ref)}/report"
    if session.out.form in {Format.JSON, Format.YAML}:
        session.out.document(session.api.get(path, dict, attempt=attempt).raw, lambda: None)
        return
    page = session.api.read(f"{path}.html", attempt=attempt)
    file = (out or _report_file(ref if attempt is None else f"{ref}-attempt-{attempt}")).absolute()
    write_whole(file, page)
    session.out.line(str(file))


def _report_file(ref: str) -> Path:
    """Return where the page lies when nobody says: never in the folder where the command happens to run."""
    import platformdirs

    folder = Path(platformdirs.user_cache_path("edgefleet")) / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{ref.replace('@', '-')}-report.html"


Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key", metavar="KEY", help="Private key of one of the model's team, PEM, or a URI (hsm:…, hv:…); repeatable."
    ),
]


@app.command("sign")
def sign(
    ctx: typer.Context,
    ref: Ref,
    key: Keys = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The file or folder that was published, to compare its digest."),
    ] = None,
    root_sha256: RootSha256 = "",
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Sign a release for the team of its model, after checking that nothing else is signed with it."""
    from edgefleet_cli.keys.team_commands import show_team_state
    from edgefleet_cli.keys.team_signature import WithKeys
    from edgefleet_cli.release.team_release import sign_release, source_of

    session = Session.of(ctx)
    if not key:
        raise UsageError("which key signs?", next_step="give --key FILE, the private key of one of the team")
    using = WithKeys(key, passphrase_file or (), root_sha256)
    done = sign_release(session, ref, using, "" if model is None else source_of(model))
    session.out.facts(reply_of(done).raw, lambda: show_team_state(session, done))


@app.command("withdraw")
def withdraw(
    ctx: typer.Context,
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Why; shown wherever the release is.")],
    floor: Annotated[
        bool, typer.Option("--floor", help="And everything older: devices refuse all that was published before it.")
    ] = False,
    key: Keys = None,
    root_sha256: RootSha256 = "",
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Withdraw a release: nobody can deploy it any more. Its open rollouts end; devices that run it keep it. This cannot be undone."""
    session = Session.of(ctx)
    which = f"{ref} and every release published before it" if floor else ref
    session.confirm(f"Withdraw {which} for good? Open rollouts of it end, and devices that run it go on.")
    body = api.release.RetireIn(reason=reason, older=floor)
    found = session.api.post(f"/releases/{part(ref)}:withdraw", body, api.release.WithdrawnRelease)
    release = Reply(found.raw, api.release.Release)
    session.out.one(release, RELEASES, lambda entry: show_release(session.out, entry))
    from edgefleet_cli.keys.team_signature import WithKeys
    from edgefleet_cli.release.team_release import note_withdrawal, sign_withdrawal

    if key:
        note_withdrawal(session, ref, sign_withdrawal(session, ref, WithKeys(key, passphrase_file or (), root_sha256)))
    elif found.value.waits_for_team:
        note_withdrawal(session, ref, None)
    if found.value.also:
        session.out.note(f"withdrawn with it: {', '.join(found.value.also)}")
    session.out.note(f"who runs it: `edgectl release devices {ref}`; roll it back there: `edgectl undo {ref}`")


@app.command("delete")
def delete(
    ctx: typer.Context,
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Why; kept in the event log.")] = "",
) -> None:
    """Delete a release that was never deployed. The version of one with a signed bundle is never used again."""
    session = Session.of(ctx)
    session.confirm(f"Delete {ref} with its bundles and reports?")
    session.api.delete(f"/releases/{part(ref)}", reason=reason or None)
    session.out.note(f"deleted {ref}")


@app.command("cancel")
def cancel(ctx: typer.Context, ref: Ref) -> None:
    """Cancel the open conversions of a release; signed bundles stay."""
    session = Session.of(ctx)
    release = session.api.post(f"/releases/{part(ref)}:cancel", NOTHING, api.release.Release)
    session.out.one(release, RELEASES, lambda entry: show_release(session.out, entry))
