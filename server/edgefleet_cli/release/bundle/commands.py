"""`edgectl bundle`: signed bundles of the server, and bundle files here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_NOT_FOUND, ApiError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.bundle.render import (
    ALL_BUNDLES,
    INSPECTED,
    VERIFIED,
    Inspected,
    NotSignedError,
    Verified,
    show_bundle,
    signature_text,
)
from edgefleet_cli.render.format import until_s

app = typer.Typer(help="Manage bundles: a release built and signed for one profile.", no_args_is_help=True)

Digest = Annotated[
    str, typer.Argument(metavar="SHA256", help="Digest of the bundle.", autocompletion=completion.bundles)
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A .bundle file.")]


@app.command("list")
def list_bundles(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Only of this model.", autocompletion=completion.models),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="P", help="Only for this profile.", autocompletion=completion.profiles),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
) -> None:
    """List the signed bundles, newest first."""
    session = Session.of(ctx)
    session.out.items(
        session.api.pages("/bundles", api.bundle.Bundle, model=model, profile=profile, limit=limit), ALL_BUNDLES
    )


@app.command("show")
def show(ctx: typer.Context, sha256: Digest) -> None:
    """Show a bundle of the server: how it is signed, what is in it."""
    session = Session.of(ctx)
    found = session.api.get(f"/bundles/{part(sha256)}", api.bundle.BundleInside)
    session.out.one(found, ALL_BUNDLES, lambda one: show_bundle(session.out, one, session.clock.now()))


@app.command("inspect")
def inspect(ctx: typer.Context, file: File) -> None:
    """Check a bundle file against its manifest and show its contents. Needs no server."""
    from edgefleet_agent.diagnostics.bundles import inspect_text

    session = Session.of(ctx)
    found = _inspected(file)
    session.out.one(found, INSPECTED, lambda _: session.out.prose(inspect_text(found.raw)))


@app.command("verify")
def verify(ctx: typer.Context, file: File) -> None:
    """Check a bundle file and its signature in the server's trust repository.

    Exit code 1 if it fails.

    The signature is looked up where the file claims to come from; a device checks it by the keys that it trusts itself.
    """
    session = Session.of(ctx)

    found = _inspected(file).value
    signature = _signature(session, found.sha256)
    is_valid = signature.state == "signed" and (until_s(signature.expires, session.clock.now()) or 0) > 0
    shown = signature_text(signature, session.clock.now())
    if not is_valid:
        raise NotSignedError(
            f"no device would accept {file}",
            why=shown,
            next_step="download the bundle from the server with `edgectl model pull REF`, or publish the release again",
        )
    manifest, members = found.manifest, "as the manifest says"
    if manifest.sealed is not None:
        members = "as the manifest says; the model is sealed, so what it was before cannot be compared"
    row = Verified(
        found.file, found.sha256, found.bytes, manifest.model, manifest.version, manifest.profile, members,
        signature.state, signature.role, signature.expires,
    )  # fmt: skip
    session.out.one(reply_of(row), VERIFIED, lambda _: session.out.line(f"{file}: every member is {members}; {shown}"))


def _inspected(file: Path) -> Reply[Inspected]:
    """Return what `edge-agent bundle inspect` shows of a file. Raises UnreadableFileError, BundleError, ManifestError."""
    from edgefleet_agent.diagnostics.bundles import inspect as inspect_file
    from edgefleet_cli.core.errors import UnreadableFileError

    try:
        return Reply(inspect_file(file), Inspected)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {file}", why=error.strerror or str(error), next_step="name a .bundle file"
        ) from error


def _signature(session: Session, sha256: str) -> api.bundle.Signature:
    try:
        return session.api.get(f"/bundles/{sha256}", api.bundle.BundleInside).value.signature
    except ApiError as error:
        if error.exit_code != EXIT_NOT_FOUND:
            raise
        return api.bundle.Signature(state="missing")
