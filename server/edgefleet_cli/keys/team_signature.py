"""Signing for a team: what a server proposes is compared with what this machine believes, and signed only if it is just what was meant.

Rule: a server may be stolen. So nothing of its words counts. What is signed today comes by TUF from the pinned root; the proposal may
differ from it by what was asked for and nothing else; the bundles are fetched, and are what the proposal names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgefleet_cli.core import api
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.keys.errors import BadRequestFileError, ProposalRefusedError
from edgefleet_cli.keys.trusted_role import trusted_role

if TYPE_CHECKING:
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # documented, but not in __all__

    from edgefleet_ceremony.team_request import TeamRequest
    from edgefleet_cli.core.session import Session


@dataclass(frozen=True)
class Meant:
    """What is to be signed. act: as requests name it; version: of the release; source_sha256: of the model, "" where it is not at hand."""

    model: str
    act: str
    version: str = ""
    source_sha256: str = ""


@dataclass(frozen=True)
class WithKeys:
    """Which keys sign, and by what they are found. root_sha256: of the server's first root, "" where it is pinned here."""

    keys: Sequence[str]
    passphrase_files: Sequence[Path] = ()
    root_sha256: str = ""


def sign_proposal(session: Session, waiting: api.key.TeamRequest, meant: Meant, using: WithKeys) -> api.key.TeamRequest:
    """Check what a server proposes, show it, sign it after a question, and hand the signatures in; return the request after it.

    Raises ProposalRefusedError, RootNotTrustedError, BadRequestFileError, BadMediumError, UsageError, DeclinedError, ApiError.
    """
    from edgefleet_ceremony.team_request import TeamAnswer, team_answer_bytes

    asked = read_team_request(waiting.document.encode(), "what the server proposes")
    _check(session, asked, meant, using.root_sha256)
    show_team_request(session, asked)
    if asked.act == "release":
        _check_bundles(session, asked, meant.source_sha256)
    session.confirm("Sign this?")
    signatures = signatures_by(session, asked, using)
    answer = team_answer_bytes(TeamAnswer(request=asked.id, signatures=signatures)).decode()
    body = api.key.TeamAnswerIn(answer=answer)
    return session.api.post(f"/team-requests/{part(waiting.id)}:sign", body, api.key.TeamRequest).value


def read_team_request(data: bytes, what: str) -> TeamRequest:
    """Return the request in a file's bytes. Raises BadRequestFileError."""
    from edgefleet_ceremony.file_format import BadCeremonyFileError
    from edgefleet_ceremony.team_request import team_request_of

    try:
        return team_request_of(data)
    except BadCeremonyFileError as error:
        raise BadRequestFileError(
            f"{what} is no request to a team",
            why=str(error),
            next_step="ask again: `edgectl key team MODEL --out FILE`",
        ) from error


def signatures_by(session: Session, asked: TeamRequest, using: WithKeys) -> list[Signature]:
    """Return the signatures of these keys. Raises UsageError, BadMediumError."""
    from edgefleet_cli.keys.passphrases import sources_of
    from edgefleet_cli.keys.team_keys import signature_by

    passphrases = sources_of(using.passphrase_files, len(using.keys), may_ask=session.may_ask)
    payload = asked.proposed.signed_bytes
    return [
        signature_by(where, asked.team.keys, payload, passphrase)
        for where, passphrase in zip(using.keys, passphrases, strict=True)
    ]


def show_team_request(session: Session, asked: TeamRequest) -> None:
    """Show on stderr what is to be signed. Each fact is one line: a server that lies could write others into its words."""
    from edgefleet_ceremony.team_change import change_lines

    def say(line: str) -> None:
        session.out.notice(" ".join(line.splitlines()))

    say(f"Request {asked.id} to the team of {asked.model}: {asked.act} {asked.version}".rstrip())
    for line in change_lines(asked):
        say(f"  {line}")
    keys = ", ".join(sorted(one[:12] for one in asked.team.keys))
    say(f"Signed by {asked.team.threshold} of {len(asked.team.keys)} keys: {keys}")


def refuse_unless(is_so: bool, why: str) -> None:
    """Raise ProposalRefusedError."""
    if not is_so:
        raise ProposalRefusedError(
            "what the server asks to be signed is not what was meant; nothing was signed",
            why=" ".join(why.splitlines()),
            next_step="ask again; if it stays so, the server may be stolen: tell its owner, and sign nothing",
        )


def _check(session: Session, asked: TeamRequest, meant: Meant, root_sha256: str) -> None:
    """Compare a proposal with what is signed today and with what was meant. Raises ProposalRefusedError, RootNotTrustedError."""
    from edgefleet_ceremony.team_change import refusals
    from edgefleet_ceremony.team_request import models_with_keys_of, team_of

    refuse_unless(
        (asked.model, str(asked.act)) == (meant.model, meant.act),
        f"it is for {asked.model}, {asked.act}, and {meant.act} of {meant.model} was meant",
    )
    if meant.version:
        refuse_unless(asked.version == meant.version, f"it is for version {asked.version}, not {meant.version}")
    trusted = trusted_role(session, meant.model, root_sha256)
    current = None if asked.current is None else asked.current.signed
    refuse_unless(current == trusted.role, f"it does not start from what {asked.role} says today")
    if asked.act != "team":
        refuse_unless(team_of(trusted.targets, meant.model) == asked.team, "its team is not the one that targets name")
    others = models_with_keys_of(trusted.targets, meant.model, asked.team)
    refuse_unless(
        not others, f"its team has a key of the team of {', '.join(others)}: each model needs keys of its own"
    )
    found = refusals(asked, session.clock.now())
    refuse_unless(not found, "; ".join(found))


def _check_bundles(session: Session, asked: TeamRequest, source_sha256: str) -> None:
    """Fetch the bundles that are to be signed, and check that they are what the proposal and their manifests say."""
    from edgefleet_agent.diagnostics.bundles import inspect
    from edgefleet_protocol.errors import EdgefleetError

    before = {} if asked.current is None else asked.current.signed.targets
    proposed = asked.proposed.signed.targets
    with tempfile.TemporaryDirectory(prefix="edgectl-sign-") as folder:
        for path in sorted(proposed.keys() - before.keys()):
            file = Path(folder) / "bundle"
            with file.open("wb") as sink:
                for chunk in session.api.blob(str(proposed[path].hashes["sha256"])):
                    sink.write(chunk)
            try:
                found = inspect(file)
            except EdgefleetError as error:
                refuse_unless(False, f"{path} is no sound bundle: {error.message}")
            manifest = found["manifest"]
            said = {"sha256": found["sha256"], "length": found["bytes"], "path": _path_of(manifest)}
            wanted = {"sha256": proposed[path].hashes["sha256"], "length": proposed[path].length, "path": path}
            refuse_unless(said == wanted, f"the bundle of {path} is another one than the proposal names")
            if source_sha256:
                refuse_unless(
                    manifest["source_sha256"] == source_sha256,
                    f"{path} says that it was made from another model: {manifest['source_sha256'][:12]}…",
                )
    made = (
        f"and say that they were made from {source_sha256[:12]}…"
        if source_sha256
        else "(give --model FILE to compare the source)"
    )
    session.out.notice(f"Checked: the bundles are whole, have the digests above {made}")
    session.out.notice(
        "Not checked: that they compute what the model computes. The server converted them; `edgectl convert MODEL` does it here"
    )


def _path_of(manifest: dict[str, object]) -> str:
    return f"{manifest['model']}/{manifest['version']}/{manifest['profile']}.bundle"


def state_of_request(request: api.key.TeamRequest) -> str:
    """Return in words how a request stands."""
    if request.state == "waiting":
        return f"waiting for signature {len(request.signed) + 1} of {request.needed}"
    return _WORDS.get(request.state, request.state)


_WORDS = {
    "ready": "signed by the team; the holders of targets have to let it sign: `edgectl key ceremony`",
    "done": "in force",
    "dropped": "dropped",
}
