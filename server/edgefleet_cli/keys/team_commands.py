"""`edgectl key team`: a model given to its team, what waits for the team's signatures, and their answers brought into force."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.keys.offline_commands import PassphraseFiles
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

_MAX_PEM = 4000
RootSha256 = Annotated[
    str,
    typer.Option(
        "--root-sha256",
        metavar="HEX",
        envvar="EDGECTL_ROOT_SHA256",
        help="SHA-256 of the server's first root of trust, where this machine has pinned none.",
    ),
]
TEAM_REQUESTS: Sheet[api.key.TeamRequest] = Sheet(
    "requests to teams; `edgectl key team MODEL --key FILE` makes the first",
    [
        Column("request", lambda r: text(r.id), keep=True),
        Column("model", lambda r: text(r.model), keep=True),
        Column("act", lambda r: text(r.act), keep=True),
        Column("version", lambda r: text(r.version)),
        Column("state", lambda r: text(r.state), keep=True),
        Column("signed", lambda r: f"{len(r.signed)} of {r.needed}"),
        Column("made", lambda r: moment(r.made_at)),
        Column("ended", lambda r: moment(r.ended_at), spare=1),
    ],
    lambda r: text(r.id),
)


def team(  # noqa: PLR0913, PLR0917  # the options of a command
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Without it: all requests.", autocompletion=completion.models),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="FILE", help="Public key, PEM, of one of the team; repeatable."),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", min=1, max=16, help="How many of the team must sign; default: 1.")
    ] = None,
    close: Annotated[
        bool | None,
        typer.Option(
            "--close/--open",
            help="Let the server sign no new models from then on, or let it again.",
            show_default=False,
        ),
    ] = None,
    sign: Annotated[
        list[str] | None,
        typer.Option(
            "--sign", metavar="KEY", help="Sign what waits: private key, PEM, or a URI (hsm:…, hv:…); repeatable."
        ),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Ask the team to prolong what it signed.")] = False,
    answer: Annotated[
        Path | None,
        typer.Option("--answer", metavar="FILE", help="Answer that `edgectl key sign REQUEST --key FILE` wrote."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write what waits, to be signed elsewhere.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop what waits.")] = False,
    root_sha256: RootSha256 = "",
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Give a model to a team whose keys are not on the server, or show, sign and drop what waits for the team's signatures."""
    session = Session.of(ctx)
    _check_together(key, renew, answer, cancel, sign, is_new=threshold is not None or close is not None)
    if model is None:
        _list_all(session, is_alone=not (key or renew or answer or cancel or sign or out))
        return
    waiting = _begun(session, model, key, threshold, close) if key else waiting_for(session, model)
    if renew:
        waiting = session.api.post(f"/models/{part(model)}:renew-team", NOTHING, api.key.TeamRequest).value
    if out is not None:
        _write(session, _known(waiting, model), out)
    if cancel:
        _cancel(session, _known(waiting, model))
    elif answer is not None:
        _answer(session, _known(waiting, model), answer)
    elif sign:
        _sign(session, _known(waiting, model), sign, root_sha256, passphrase_file)
    elif waiting is not None:
        _show(session, waiting)
    else:
        _show_team(session, model)


def _list_all(session: Session, *, is_alone: bool) -> None:
    """List what waits of all models. is_alone: no option was given, which would be about one. Raises UsageError."""
    if not is_alone:
        raise UsageError("which model is meant?", next_step="give its name: `edgectl key team MODEL`")
    session.out.items(session.api.pages("/team-requests", api.key.TeamRequest), TEAM_REQUESTS)


def _check_together(
    key: list[Path] | None, renew: bool, answer: Path | None, cancel: bool, sign: list[str] | None, *, is_new: bool
) -> None:
    """Raise UsageError where options do not go together. is_new: one is given that is for a new team."""
    if sum((bool(key), renew, answer is not None, cancel)) > 1 or (cancel and sign):
        raise UsageError("--key, --renew, --answer and --cancel do not go together", next_step="give one of them")
    if is_new and not key:
        raise UsageError("--threshold, --close and --open go with --key", next_step="give --key for each of the team")


def show_team_state(session: Session, request: api.key.TeamRequest) -> None:
    """Show how a request stands, and what to do next."""
    from edgefleet_cli.keys.team_signature import state_of_request

    say = session.out.line
    say(
        f"request {text(request.id)} to the team of {text(request.model)}: {text(request.act)} {text(request.version)}".rstrip(
            " -"
        )
    )
    for line in request.changes:
        say(f"  {text(line)}")
    say(f"signed by {', '.join(text(one)[:12] for one in request.signed) or 'nobody yet'}; {state_of_request(request)}")
    if request.state == "waiting":
        session.out.note(next_signature(request))


def next_signature(request: api.key.TeamRequest) -> str:
    """Return which command signs a request that waits."""
    if request.act == "release":
        return f"another of the team signs it: `edgectl release sign {request.model}@{request.version} --key FILE`"
    return f"another of the team signs it: `edgectl key team {request.model} --sign FILE`"


def waiting_for(session: Session, model: str) -> api.key.TeamRequest | None:
    """Return the request that waits for the team of a model."""
    found = session.api.each("/team-requests", api.key.TeamRequest)
    return next((one.value for one in found if one.value.model == model and one.value.ended_at is None), None)


def _begun(
    session: Session, model: str, keys: list[Path], threshold: int | None, close: bool | None
) -> api.key.TeamRequest:
    from edgefleet_cli.core.files import read_text

    pems = tuple(read_text(one, _MAX_PEM) for one in keys)
    words = {None: "", True: "close", False: "open"}
    session.confirm(
        f"Let {threshold or 1} of {len(pems)} keys sign {model} in place of those that sign it today? Lost keys make it unpublishable."
    )
    body = api.key.TeamIn(keys=pems, threshold=threshold or 1, new_models=words[close])
    return session.api.post(f"/models/{part(model)}:team", body, api.key.TeamRequest).value


def _known(waiting: api.key.TeamRequest | None, model: str) -> api.key.TeamRequest:
    if waiting is None:
        raise UsageError(
            f"nothing waits for the team of {model}", next_step="`edgectl key team` shows what was asked for"
        )
    return waiting


def _sign(
    session: Session, waiting: api.key.TeamRequest, keys: list[str], root_sha256: str, files: list[Path] | None
) -> None:
    from edgefleet_cli.keys.team_signature import Meant, WithKeys, sign_proposal

    meant = Meant(waiting.model, waiting.act, waiting.version if waiting.act == "release" else "")
    _show(session, sign_proposal(session, waiting, meant, WithKeys(keys, files or (), root_sha256)))


def _answer(session: Session, waiting: api.key.TeamRequest, file: Path) -> None:
    from edgefleet_cli.keys.holder_folder import read_file

    body = api.key.TeamAnswerIn(answer=read_file(file).decode("utf-8", "replace"))
    _show(session, session.api.post(f"/team-requests/{part(waiting.id)}:sign", body, api.key.TeamRequest).value)


def _cancel(session: Session, waiting: api.key.TeamRequest) -> None:
    session.confirm(f"Drop what the team of {waiting.model} is asked for: {waiting.act} {waiting.version}?")
    session.api.post(f"/team-requests/{part(waiting.id)}:drop", NOTHING, api.key.TeamRequest)
    session.out.note(f"dropped request {text(waiting.id)}")


def _write(session: Session, waiting: api.key.TeamRequest, out: Path) -> None:
    from edgefleet_cli.core.files import write_whole

    write_whole(out, waiting.document.encode())
    session.out.note(
        f"wrote request {text(waiting.id)} to {out}; it is signed by `edgectl key sign {out.name} --key FILE`"
    )


def _show(session: Session, request: api.key.TeamRequest) -> None:
    from edgefleet_cli.core.transport.reply import reply_of

    session.out.facts(reply_of(request).raw, lambda: show_team_state(session, request))


def _show_team(session: Session, model: str) -> None:
    role = session.api.get(f"/keys/{part(f'm.{model}')}", api.key.Role)
    found = role.value
    who = f"{found.threshold} of the {len(found.keys)} keys of its team" if found.is_offline else "this server"
    session.out.facts(
        role.raw,
        lambda: session.out.line(
            f"{text(model)} is signed by {who}, valid until {moment(found.expires)}; nothing waits"
        ),
    )
