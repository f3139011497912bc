"""`edgectl key ceremony`: root and targets given to holders, what waits for their signatures, and their answers brought into force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.keys.offline_commands import init, sign
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

REQUESTS: Sheet[api.key.SigningRequest] = Sheet(
    "requests for signatures; `edgectl key ceremony --holder FILE` begins the first",
    [
        Column("request", lambda r: text(r.id), keep=True),
        Column("state", lambda r: text(r.state), keep=True),
        Column("purpose", lambda r: text(r.purpose)),
        Column("made", lambda r: moment(r.made_at)),
        Column("ended", lambda r: moment(r.ended_at), spare=1),
    ],
    lambda r: text(r.id),
)


def add_ceremony_commands(app: typer.Typer) -> None:
    """Put the commands into `edgectl key`."""
    app.command("init")(init)
    app.command("sign")(sign)
    app.command("ceremony")(ceremony)


def ceremony(  # noqa: PLR0913, PLR0917  # the options of a command
    ctx: typer.Context,
    holder: Annotated[
        list[Path] | None,
        typer.Option(
            "--holder", metavar="FILE", help="public.json of a holder: ask to give root and targets to these."
        ),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", min=1, max=16, help="How many must sign; else as they agreed.")
    ] = None,
    replace: Annotated[
        str | None, typer.Option("--replace", metavar="NAME", help="Ask to put the one --holder in this one's place.")
    ] = None,
    renew: Annotated[
        list[str] | None, typer.Option("--renew", metavar="ROLE", help="Ask to prolong root or targets; repeatable.")
    ] = None,
    new_key: Annotated[
        list[str] | None,
        typer.Option(
            "--new-key", metavar="ROLE", help="Ask for a new key of releases, director, audit, snapshot or timestamp."
        ),
    ] = None,
    answer: Annotated[
        list[Path] | None, typer.Option("--answer", metavar="FILE", help="Answer of a holder; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the request that waits, to be carried.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop the request that waits.")] = False,
) -> None:
    """Show what waits for signatures of offline keys; begin, go on with or drop a ceremony. Run again, it goes on where it was."""
    session = Session.of(ctx)
    _check_one(bool(holder), bool(renew), bool(new_key), bool(answer), cancel)
    _check_holders(has_holder=bool(holder), replace=replace, threshold=threshold)
    waiting = _waiting(session)
    if holder or renew or new_key:
        body = api.key.SigningRequestIn(replace=replace or "", renew=tuple(renew or ()), new_keys=tuple(new_key or ()))
        waiting = _begin(session, holder or (), threshold, body).value
    elif answer or cancel:
        if waiting is None:
            raise UsageError("no request waits for signatures", next_step="`edgectl key ceremony` shows what was done")
        if cancel:
            session.confirm(f"Drop the request: {text(waiting.purpose)}? This server takes no signature for it then.")
            _post(session, waiting, "drop", api.key.SigningAnswersIn(answers=()), api.key.SigningRequest)
            session.out.note(f"dropped request {text(waiting.id)}")
            return
        _answer(session, waiting, answer or ())
        return
    if out is not None:
        _write(session, waiting, out)
    if waiting is None or not session.out.is_for_eyes:
        session.out.items(session.api.pages("/signing-requests", api.key.SigningRequest), REQUESTS)
        return
    show_request(session, waiting)
    session.out.note(_next(waiting, out))


def show_request(session: Session, request: api.key.SigningRequest) -> None:
    """Show a request: what it changes, and which signatures it has and lacks."""
    say = session.out.line
    say(f"request {text(request.id)} ({text(request.state)}): {text(request.purpose)}")
    if request.state == "waiting":
        say(f"root of today, for holders who ask: {_root_of_today(request)}")
    for line in request.changes:
        say(f"  {text(line)}")
    session.out.heading("Signatures")
    for one in request.thresholds:
        names = ", ".join(text(name) for name in one.signed) or "nobody yet"
        left = (
            f"; {one.missing} of {', '.join(text(name) for name in one.unsigned)} still to sign" if one.missing else ""
        )
        say(f"  {text(one.role)}, for the {text(one.by)}: {one.needed} needed, signed by {names}{left}")


def _root_of_today(request: api.key.SigningRequest) -> str:
    """Return the fingerprint that `edgectl key sign` shows to holders."""
    from edgefleet_ceremony.file_format import BadCeremonyFileError
    from edgefleet_ceremony.signature_request import request_of
    from edgefleet_cli.keys.request_signature import fingerprint

    try:
        return fingerprint(request_of(request.document.encode()).current["root"])
    except BadCeremonyFileError as error:
        return f"cannot be read: {error}"


def _begin(
    session: Session, holders: Sequence[Path], threshold: int | None, body: api.key.SigningRequestIn
) -> Reply[api.key.SigningRequest]:
    """Ask the server for a request, after the parts were verified here too."""
    import msgspec

    from edgefleet_cli.keys.holder_folder import PUBLIC_FILE, holder_folder, read_file, read_public

    files = [(folder / PUBLIC_FILE if (folder := holder_folder(one)) is not None else one) for one in holders]
    parts = [read_file(file) for file in files]  # once: what is compared is what is sent
    for file, data in zip(files, parts, strict=True):
        found = read_public(file, data)
        session.out.note(f"{found.holder}: root {found.keys['root'].keyid}, targets {found.keys['targets'].keyid}")
    if files:
        session.confirm("Do the holders see the same key ids?")
    body = msgspec.structs.replace(body, parts=tuple(one.decode() for one in parts))
    if threshold is not None:
        body = msgspec.structs.replace(body, threshold=threshold)
    return session.api.post("/signing-requests", body, api.key.SigningRequest)


def _answer(session: Session, waiting: api.key.SigningRequest, answers: Sequence[Path]) -> None:
    from edgefleet_cli.keys.holder_folder import read_file

    body = api.key.SigningAnswersIn(answers=tuple(read_file(file).decode("utf-8", "replace") for file in answers))
    done = _post(session, waiting, "sign", body, api.key.AnswersTaken)
    session.out.facts(done.raw, lambda: _show_answered(session, done.value))


def _show_answered(session: Session, done: api.key.AnswersTaken) -> None:
    session.out.line(f"added: {', '.join(text(one) for one in done.added) or 'nothing that was not there already'}")
    show_request(session, done.request)
    if done.request.state == "done":
        session.out.note("it is in force; devices follow with their next look at the repository")
    if done.destroyed:
        session.out.note(
            f"destroyed on the server, since nothing trusts them any more: {', '.join(map(text, done.destroyed))}"
        )
        session.out.note(
            "copies in old backups cannot be destroyed from here: destroy those, and make a new backup now"
        )


def _post(session: Session, waiting: api.key.SigningRequest, verb: str, body: Any, kind: Any) -> Any:
    return session.api.post(f"/signing-requests/{part(waiting.id)}:{verb}", body, kind)


def _waiting(session: Session) -> api.key.SigningRequest | None:
    found = session.api.each("/signing-requests", api.key.SigningRequest)
    return next((one.value for one in found if one.value.state == "waiting"), None)


def _write(session: Session, waiting: api.key.SigningRequest | None, out: Path) -> None:
    from edgefleet_cli.core.files import write_whole

    if waiting is None:
        raise UsageError("no request waits for signatures", next_step="`edgectl key ceremony` shows what was done")
    write_whole(out, waiting.document.encode())
    session.out.note(f"wrote request {text(waiting.id)} to {out}")


def _next(waiting: api.key.SigningRequest, out: Path | None) -> str:
    if out is None:
        return "write it for the holders: `edgectl key ceremony --out FILE`"
    return f"carry {out} to the holders; each runs `edgectl key sign {out.name} --key MEDIUM`; then `edgectl key ceremony --answer FILE`"


def _check_one(*said: bool) -> None:
    if sum(said) > 1:
        raise UsageError(
            "only one of --holder, --renew, --new-key, --answer and --cancel can be done at once",
            next_step="give one of them",
        )


def _check_holders(*, has_holder: bool, replace: str | None, threshold: int | None) -> None:
    if (replace or threshold is not None) and not has_holder:
        raise UsageError(
            "--replace and --threshold go with --holder", next_step="add --holder FILE, the public.json of a holder"
        )
    if replace and threshold is not None:
        raise UsageError("replacing a holder leaves the threshold as it is", next_step="leave --threshold out")
