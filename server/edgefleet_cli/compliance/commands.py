"""`edgectl report`: collect the evidence of a model, and check such an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.session import Session

app = typer.Typer(
    help="Collect the evidence of a model for an auditor, and check it without a server.", no_args_is_help=True
)


@app.command("compliance")
def compliance(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Ends in .tar.gz, .zip or .tar.")],
    release: Annotated[
        str, typer.Option("--release", metavar="REF", help="Only this release, MODEL@VERSION or MODEL@ALIAS.")
    ] = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Only what is not older: 90d, or RFC 3339.")
    ] = None,
) -> None:
    """Write all evidence of a model into one signed archive. For auditors; the audit trail says that it was made."""
    from edgefleet_cli.compliance.evidence_download import write_evidence

    write_evidence(Session.of(ctx), model, out, release, since)


@app.command("verify")
def verify(
    ctx: typer.Context,
    archive: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="What `edgectl report compliance MODEL --out FILE` wrote.")
    ],
    root_sha256: Annotated[
        str, typer.Option("--root-sha256", metavar="HEX", help="Digest of the server's first root of trust.")
    ] = "",
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="The audit trail's public key (PEM), in place of a root."),
    ] = None,
) -> None:
    """Check an archive with public keys alone; say what it proves and what not. Exits with 1 for one that was changed."""
    from edgefleet_cli.compliance.render import show_verdict
    from edgefleet_cli.compliance.verification import verify_archive

    session = Session.of(ctx)
    verdict = verify_archive(session, archive, root_sha256, public_key)
    show_verdict(session.out, verdict)
    if verdict.wrong:
        raise typer.Exit(1)
