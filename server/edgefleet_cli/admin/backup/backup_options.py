"""Options that the commands about backups have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core.errors import UsageError

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Where = Annotated[
    str, typer.Argument(metavar="WHERE", help="Folder, FILE.tar, or a bucket: s3://NAME/PATH, gs://…, az://….")
]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--keys-passphrase-file", metavar="FILE", help="Passphrase that seals the keys: the first line of FILE."
    ),
]
RecipientFile = Annotated[
    Path | None,
    typer.Option(
        "--recipient", metavar="FILE", help="Seal the keys to this key of `server backup-key create`, which opens none."
    ),
]
OriginFile = Annotated[
    Path | None,
    typer.Option("--recipient", metavar="FILE", help="Recipient: proves who wrote the backup, and opens no keys."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="Private key that opens keys which were sealed with --recipient."),
]
BucketSettings = Annotated[
    Path | None,
    typer.Option(
        "--bucket-settings",
        metavar="FILE",
        help="TOML with blob_… settings that reach the bucket; default: those of the server or the environment.",
    ),
]
Name = Annotated[str | None, typer.Option("--backup", metavar="NAME", help="Which backup; default: the newest.")]


def place_of(where: str) -> str:
    """Return a place as the process takes it: paths absolute."""
    return where if "://" in where else str(Path(where).absolute())


def check_one(**given: object) -> None:
    """Raise UsageError where more than one of these options is given. Names are those of the options, with underscores."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} exclude each other", why="one thing seals or opens the keys", next_step="give one"
        )
