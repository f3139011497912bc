"""`edgectl server check` and `seal`: what a server would use, the list of its secrets, and changing the key that seals them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import child_flags, python_module, require
from edgefleet_cli.render.format import duration, flat_fields
from edgefleet_cli.render.output import Column

_SECRETS: list[Column[dict[str, Any]]] = [
    Column("secret", lambda s: s["what"], keep=True),
    Column("where", lambda s: s["where"]),
    Column("kept", lambda s: s["kept"]),
    Column("mode", lambda s: s["mode"] or "-"),
    Column("age", lambda s: "-" if s["age_s"] is None else duration(s["age_s"]), right=True),
    Column("key", lambda s: s["key"] or "-", wide=True),
]
_PROBLEMS: list[Column[dict[str, Any]]] = [
    Column("secret", lambda s: s["what"], keep=True),
    Column("where", lambda s: s["where"]),
    Column("problem", lambda s: s["problem"], keep=True),
]

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data folder of the server; default: in the user's data folder."),
]
Broker = Annotated[
    str | None, typer.Option("--broker", metavar="B", help="auto, embedded, mosquitto or mqtts://host:port.")
]
Rotate = Annotated[bool, typer.Option("--rotate", help="Make a new key first; the old ones still open.")]
ForgetOld = Annotated[bool, typer.Option("--forget-old", help="Then remove the old keys from the key file.")]


def check(ctx: typer.Context, data: Data = None, broker: Broker = None) -> None:
    """Check settings, database, broker, keys and secrets, and show which are used and why. Exit code 1: a secret has a problem."""
    session = Session.of(ctx)
    facts = _asked(
        "edgefleet_server.main", "--data", str(data or default_data()), "--check", *child_flags(broker=broker)
    )
    secrets: list[dict[str, Any]] = facts["secrets"]
    shown = [{**one, "where": one["where"].removeprefix(f"{facts['data_dir']}/")} for one in secrets]
    wrong = [one for one in shown if one["problem"]]

    def show() -> None:
        session.out.fields(flat_fields({name: value for name, value in facts.items() if name != "secrets"}))
        session.out.heading("Secrets")
        session.out.table(shown, _SECRETS)
        if wrong:
            session.out.heading("Problems")
            session.out.table(wrong, _PROBLEMS)

    session.out.facts(facts, show)
    if wrong:
        raise typer.Exit(1)


def seal(ctx: typer.Context, data: Data = None, rotate: Rotate = False, forget_old: ForgetOld = False) -> None:
    """Seal the secrets of the database with the newest sealing key; with --rotate make that key, with --forget-old keep no other."""
    if rotate and forget_old:
        raise UsageError(
            "--rotate and --forget-old cannot be given together",
            why="copies of before would have no key left that opens them",
            next_step="rotate; make a backup; then run it with --forget-old",
        )
    session = Session.of(ctx)
    flags = ["--rotate"] * rotate + ["--forget-old"] * forget_old
    done = _asked("edgefleet_server.process.secret_sealer", "--data", str(data or default_data()), *flags)
    session.out.facts(done, lambda: session.out.fields(flat_fields(done)))
    if not done["is_clean"]:
        session.out.note(
            "texts of before may still be in the database's files; run it again when nothing else reads the database"
        )


def _asked(module: str, *arguments: str) -> dict[str, Any]:
    """Return the JSON that a module of the server prints. Ends with its exit code when it fails; it has said why."""
    require("fastapi", "server")
    done = subprocess.run(python_module(module, *arguments), stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
