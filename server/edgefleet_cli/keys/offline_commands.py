"""`edgectl key init` and `edgectl key sign`: what holders of keys do, on a machine without a network. No server is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session

if TYPE_CHECKING:
    from edgefleet_ceremony.signature_request import SigningRequest

PassphraseFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Take the passphrase from the first line; give it once for all keys, or once for each in order.",
    ),
]


def init(  # noqa: PLR0913, PLR0917  # the options of a command
    ctx: typer.Context,
    out: Annotated[
        list[Path], typer.Option("--out", metavar="FOLDER", help="Mounted medium of one holder; once for each holder.")
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Make keys that no server ever has.")] = False,
    keys: Annotated[int | None, typer.Option("--keys", min=1, max=16, help="How many holders; checked.")] = None,
    threshold: Annotated[int, typer.Option("--threshold", min=1, max=16, help="How many of them must sign.")] = 2,
    holder: Annotated[
        list[str] | None,
        typer.Option("--holder", metavar="NAME", help="The holder's name, once for each --out; else the folder's."),
    ] = None,
    algorithm: Annotated[str, typer.Option("--algorithm", help="ed25519 or ecdsa (P-256).")] = "ed25519",
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Make a root key and a targets key for each holder, on that holder's medium. Run it again to go on after an interruption."""
    from edgefleet_cli.keys.holder_folder import ALGORITHMS, FOLDER, PUBLIC_FILE, checked_holders, make_holder
    from edgefleet_cli.keys.passphrases import sources_of

    session = Session.of(ctx)
    if not offline:
        raise UsageError(
            "only offline keys are made here",
            why="`edgectl server init` makes the keys of a server",
            next_step="add --offline",
        )
    if algorithm not in ALGORITHMS:
        raise UsageError(f"no algorithm is called {algorithm!r}", next_step=f"use one of {', '.join(ALGORITHMS)}")
    names = dict(zip(out, holder or [one.resolve().name for one in out], strict=False))
    if len(names) != len(out) or (holder and len(holder) != len(out)) or (keys is not None and keys != len(out)):
        raise UsageError(
            f"{len(out)} media, {len(holder or out)} holders and --keys {keys or len(out)} do not go together",
            next_step="give each medium once with --out, and with --holder as many names",
        )
    if keys is not None and threshold > keys:
        raise UsageError(f"{threshold} of {keys} holders can never sign", next_step="lower --threshold")
    checked_holders(names)
    passphrases = sources_of(passphrase_file or (), len(out), may_ask=session.may_ask, is_new=True)
    made = [
        (medium, *make_holder(medium, name, threshold, algorithm, passphrase))
        for (medium, name), passphrase in zip(names.items(), passphrases, strict=True)
    ]
    document = {
        "threshold": threshold,
        "holders": [
            {"holder": part.holder, "public": str(medium / FOLDER / PUBLIC_FILE), "made": is_new}
            | {role: key.keyid for role, key in part.keys.items()}
            for medium, part, is_new in made
        ],
    }
    session.out.document(document, lambda: _show_made(session, document))


def sign(
    ctx: typer.Context,
    request: Annotated[
        Path,
        typer.Argument(metavar="REQUEST", help="The file that `edgectl key ceremony` or `key team` wrote with --out."),
    ],
    key: Annotated[
        list[Path], typer.Option("--key", metavar="FOLDER", help="The holder's medium, or one PEM file; repeatable.")
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the answer goes.")] = None,
    trust_root: Annotated[
        str | None,
        typer.Option("--trust-root", metavar="SHA256", help="Believe the root of today if it has this fingerprint."),
    ] = None,
    passphrase_file: PassphraseFiles = None,
) -> None:
    """Show what a request changes, and sign it with the keys of a medium after a question."""
    from edgefleet_ceremony.signature_request import answer_bytes
    from edgefleet_cli.core.files import write_whole
    from edgefleet_cli.keys.holder_folder import read_file, read_signers, remember_root
    from edgefleet_cli.keys.passphrases import sources_of
    from edgefleet_cli.keys.request_signature import check_root, fingerprint, memory_of, read_request, signed_by
    from edgefleet_cli.keys.team_offline import is_team_request, sign_team_request
    from edgefleet_cli.keys.team_signature import read_team_request

    session = Session.of(ctx)
    if is_team_request(data := read_file(request)):
        asked_of_team = read_team_request(data, str(request))
        done = sign_team_request(session, asked_of_team, key, trust_root, passphrase_file)
        file = out or request.with_name(f"{request.stem}.{done['signed_by'][0][:8]}.answer.json")
        write_whole(file, done["answer"])
        session.out.document({**done, "answer": str(file)}, lambda: session.out.line(f"signed: {file}"))
        session.out.note(f"carry {file} to the server: `edgectl key team {done['model']} --answer {file.name}`")
        return
    asked = read_request(request)
    reasons = [check_root(asked, one, trust_root) for one in key]
    facts = _facts(asked, fingerprint(asked.current["root"]), next((one for one in reasons if one), ""))
    _show_request(session, facts)
    if not facts["root_believed"]:
        session.confirm(
            f"No root is remembered here. Does another source say that the root of today is {facts['root_fingerprint']}?"
        )
    session.confirm("Sign this?")
    passphrases = sources_of(passphrase_file or (), len(key), may_ask=session.may_ask)
    media = zip(key, passphrases, strict=True)
    answer = signed_by(asked, [signer for one, passphrase in media for signer in read_signers(one, passphrase)])
    target = out or request.with_name(f"{request.stem}.{_short(answer)}.answer.json")
    for one in key:  # before the answer is there: what a medium does not remember must not leave it
        remember_root(one, memory_of(asked))
    write_whole(target, answer_bytes(answer))
    document = {
        **facts,
        "answer": str(target),
        "signed": {role: len(found) for role, found in answer.signatures.items()},
    }
    session.out.document(document, lambda: session.out.line(f"signed {' and '.join(answer.signatures)}: {target}"))
    session.out.note(f"carry {target} to the server: `edgectl key ceremony --answer {target.name}`")


def _short(answer: Any) -> str:
    return str(next(iter(answer.signatures.values()))[0].keyid[:8])


def _facts(request: SigningRequest, root: str, believed: str) -> dict[str, Any]:
    from edgefleet_ceremony.change_text import changes_of, state_after
    from edgefleet_ceremony.signature_threshold import thresholds_of

    return {
        "request": request.id,
        "purpose": request.purpose,
        "made_at": request.made_at.isoformat(),
        "root_fingerprint": root,
        "root_believed": believed,
        "changes": changes_of(request),
        "after": state_after(request),
        "missing": [f"{one.missing} for {one.role} ({one.by})" for one in thresholds_of(request) if one.missing],
    }


def _show_request(session: Session, facts: dict[str, Any]) -> None:
    """Show on stderr what is to be signed, whatever the format of the answer is: it is read before the question.

    Each fact is one line: a server that lies could write others into its own words.
    """

    def say(line: str) -> None:
        session.out.notice(" ".join(line.splitlines()))

    say(f"Request {facts['request']}, made {facts['made_at'][:16]}: {facts['purpose']}")
    say(f"Root of today: {facts['root_fingerprint']}")
    say(f"  {facts['root_believed'] or 'this medium has no memory of an earlier root to compare it with'}")
    say("What changes:")
    for line in facts["changes"]:
        say(f"  {line}")
    say("What holds afterwards:")
    for line in facts["after"]:
        say(f"  {line}")
    say(f"Signatures still missing: {', '.join(facts['missing']) or 'none'}")


def _show_made(session: Session, document: dict[str, Any]) -> None:
    for one in document["holders"]:
        session.out.line(f"{one['holder']}: {'made' if one['made'] else 'was there already'}")
        session.out.line(f"  root    {one['root']}")
        session.out.line(f"  targets {one['targets']}")
        session.out.line(f"  public  {one['public']}")
    session.out.note(
        f"{document['threshold']} of all holders must sign. Carry the public.json files to the operator, "
        "and compare the key ids by another way"
    )
