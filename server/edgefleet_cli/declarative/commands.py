"""`edgectl apply | diff | delete | get | export`: what a fleet should have, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CliError, UsageError, exit_code_of
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_protocol.errors import EdgefleetError

Files = Annotated[
    list[str],
    typer.Option("--file", "-f", metavar="F|DIR", help="File or folder of documents; - is stdin. Repeatable."),
]
_EXPORTED = ("Group", "Device", "Webhook", "AlertReceiver", "Alias")


class DiffFailedError(CliError):
    """The comparison failed. Its exit code is never 1, which means that there is a difference."""

    code = "cli.diff_failed"
    exit_code = EXIT_USAGE


def apply(
    ctx: typer.Context,
    files: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete what this token's owner created and no file declares; asks first, or needs --yes."
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Recreate what cannot be changed (Webhook, AlertReceiver).")
    ] = False,
    secrets: Annotated[
        Path | None, typer.Option("--secrets", metavar="DIR", help="Folder for new secrets and URLs (mode 0600).")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for the rollouts it starts. Exit codes: 7 one failed, 8 timed out."),
    ] = False,
) -> None:
    """Apply files to the fleet: groups, device labels, webhooks, alert receivers, rollouts.

    Idempotent. Everything is read and compared before the first change.
    """
    from edgefleet_cli.declarative import change_plan

    session = Session.of(ctx)
    documents = _read(files)
    steps = change_plan.steps_for(session.api, documents)
    if prune:
        steps += _prune(session, documents)
    if not dry_run:
        change_plan.check(steps, may_replace=replace, secrets=secrets)
        _confirm(session, steps)
        steps = change_plan.carry_out(session.api, steps, secrets, session.out.note)
    ends, code = _wait(session, steps) if wait else ({}, EXIT_OK)
    rows = [{**step.as_json(), "detail": ends.get(step.rollout) or step.detail} for step in steps]
    session.out.rows({"dry_run": dry_run, "items": rows}, rows, change_plan.STEPS)
    work = sum(step.is_work for step in steps)
    session.out.note(f"{work} of {len(steps)} {'would change' if dry_run else 'changed'}")
    raise typer.Exit(code)


def _wait(session: Session, steps: list[Any]) -> tuple[dict[str, str], int]:
    """Wait for the rollouts that were started; return how each ended, and the exit code of the worst."""
    from edgefleet_cli.rollout.render import exit_code, state_text
    from edgefleet_cli.rollout.start import rollouts_of

    rollouts, ends, code = rollouts_of(session), {}, EXIT_OK
    for name in [step.rollout for step in steps if step.rollout]:
        rollout = rollouts.await_end(rollouts.get(name), wait_s=session.options.timeout_s).value
        ends[name] = f"{name} {state_text(rollout)}: {rollout.reason}"
        code = max(code, exit_code(rollout))
    return ends, code


def _read(files: list[str]) -> list[Any]:
    from edgefleet_cli.declarative.document import read_documents
    from edgefleet_cli.declarative.document_files import read_values
    from edgefleet_cli.declarative.resource_kinds import FORMS

    return list(read_documents(read_values(files), FORMS))


def _prune(session: Session, documents: list[Any]) -> list[Any]:
    from edgefleet_cli.declarative import change_plan

    if not documents:
        raise UsageError(
            "the files hold no document, so --prune would delete everything that its owner created",
            why="the files are empty",
            next_step="give the right files, or delete objects with `edgectl delete -f FILE`",
        )
    owner = session.api.get("/whoami", api.access.WhoAmI).value.name
    return list(change_plan.prune_steps(session.api, documents, owner))


def _confirm(session: Session, steps: list[Any]) -> None:
    from edgefleet_cli.declarative.change_plan import Action

    deleted = [one.document.title for one in steps if one.action is Action.DELETE]
    replaced = [one.document.title for one in steps if one.action is Action.REPLACE]
    words = [f"delete {', '.join(deleted)}" if deleted else "", f"recreate {', '.join(replaced)}" if replaced else ""]
    question = " and ".join(word for word in words if word)
    if question:
        session.confirm(f"{question[0].upper()}{question[1:]}?")


def diff(ctx: typer.Context, files: Files) -> None:
    """Show how the fleet differs from files.

    Exit codes: 0 same, 1 different, above 1 error.
    """
    from edgefleet_cli.declarative import change_plan

    session = Session.of(ctx)
    try:
        steps = change_plan.steps_for(session.api, _read(files))
    except EdgefleetError as error:
        if exit_code_of(error) != EXIT_FAILED:
            raise
        raise DiffFailedError(
            str(error), why=str(getattr(error, "why", "")), next_step=str(getattr(error, "next_step", ""))
        ) from error
    differing = [step for step in steps if step.action is not change_plan.Action.NONE]
    rows = [{**step.as_json(), "diff": change_plan.difference(step)} for step in differing]
    if session.out.is_for_eyes:
        for row in rows:
            session.out.line(str(row["diff"]).rstrip("\n"))
    else:
        session.out.rows({"items": rows}, rows, change_plan.STEPS)
    session.out.note(f"{len(differing)} of {len(steps)} differ")
    raise typer.Exit(EXIT_FAILED if differing else EXIT_OK)


def delete(
    ctx: typer.Context,
    files: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete what files declare; devices and rollouts stay."""
    from edgefleet_cli.declarative import change_plan

    session = Session.of(ctx)
    steps = change_plan.delete_steps(session.api, _read(files))
    if not dry_run:
        _confirm(session, steps)
        steps = change_plan.carry_out(session.api, steps, None, session.out.note)
    rows = [step.as_json() for step in steps]
    session.out.rows({"dry_run": dry_run, "items": rows}, rows, change_plan.STEPS)


DOCUMENTS: Sheet[dict[str, Any]] = Sheet(
    "objects",
    [
        Column("kind", lambda d: str(d["kind"]), keep=True),
        Column("name", lambda d: str(d["metadata"]["name"]), keep=True),
        Column("spec", lambda d: _in_short(d["spec"])),
    ],
    lambda d: f"{str(d['kind']).lower()}/{d['metadata']['name']}",
)


def _in_short(spec: dict[str, Any]) -> str:
    """Return a spec in one line, without what is nested deep."""
    from edgefleet_cli.render.format import pairs, text

    words = []
    for key, value in spec.items():
        if isinstance(value, dict) and all(not isinstance(one, dict | list) for one in value.values()):
            words.append(f"{key}: {pairs(value)}" if value else "")
        elif isinstance(value, list) and all(isinstance(one, str) for one in value):
            words.append(f"{key}: {', '.join(value)}" if value else "")
        elif not isinstance(value, dict | list):
            words.append(f"{key}: {text(value)}")
    return "; ".join(word for word in words if word) or "-"


def get(
    ctx: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="group, device, webhook, alertreceiver, alias or rollout.",
            autocompletion=completion.kinds,
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them; else all.", autocompletion=completion.kind_names)
    ] = None,
) -> None:
    """Show objects as documents; `apply` takes what `-o yaml` prints."""
    from edgefleet_cli.declarative.resource_kinds import KINDS

    session = Session.of(ctx)
    found = _kind(kind)
    if name is None:
        _write(session, [one.document for one in KINDS[found].objects(session.api) if one.document.name])
        return
    from edgefleet_cli.declarative.document import Document

    one = KINDS[found].find(session.api, Document(found, name, {}))
    if one is None:
        from edgefleet_cli.declarative.change_plan import NotDeclarableError

        raise NotDeclarableError(
            f"there is no {found} {name!r}",
            why="the server has no object with this name",
            next_step=f"`edgectl get {found.lower()}` lists all",
        )
    entry = Reply(one.document.as_json(), dict)
    session.out.one(entry, DOCUMENTS, lambda shown: session.out.table([shown], DOCUMENTS.columns))


def _kind(given: str) -> str:
    from edgefleet_cli.declarative.resource_kinds import KINDS

    wanted = given.lower().replace("-", "").replace("_", "")
    found = next((name for name in KINDS if wanted in {name.lower(), f"{name.lower()}s", f"{name.lower()}es"}), None)
    if found is None:
        raise UsageError(
            f"{given!r} is not a kind of document",
            why=f"there are {', '.join(name.lower() for name in KINDS)}",
            next_step="others have their own commands, such as `edgectl model list`, `edgectl rollout strategy`",
        )
    return found


def export(
    ctx: typer.Context,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Only this kind; repeatable; default: all but rollouts."),
    ] = None,
) -> None:
    """Export the fleet as one file for `apply -f`, without secrets."""
    from edgefleet_cli.declarative.resource_kinds import KINDS

    session = Session.of(ctx)
    chosen = [_kind(one) for one in kinds] if kinds else list(_EXPORTED)
    found = [one for name in chosen for one in KINDS[name].objects(session.api)]
    unnamed = sum(not one.document.name for one in found)
    if unnamed:
        session.out.note(f"{unnamed} without a name left out: they cannot be declared in a file")
    _write(session, [one.document for one in found if one.document.name], default=Format.YAML)


def _write(session: Session, documents: list[Any], default: Format = Format.TABLE) -> None:
    """Write documents: as rows, or whole as `apply` takes them."""
    from edgefleet_cli.declarative.document import API_VERSION, LIST

    out = session.out
    form = default if out.form is Format.TABLE else out.form
    entries = [one.as_json() for one in documents]
    if form is Format.YAML and documents:
        from edgefleet_cli.declarative.change_plan import as_yaml

        out.line(as_yaml(documents).rstrip("\n"))
    elif form is Format.YAML and out.form is Format.TABLE:
        out.note("nothing to export")
    else:
        out.rows({"apiVersion": API_VERSION, "kind": LIST, "items": entries}, entries, DOCUMENTS)
