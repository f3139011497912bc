"""Releases that the team of their model signs: `edgectl publish --key`, `edgectl release sign` and `release withdraw --key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import text

if TYPE_CHECKING:
    from edgefleet_cli.core.session import Session
    from edgefleet_cli.keys.team_signature import WithKeys

UNSIGNED = "unsigned"


def sign_release(session: Session, ref: str, using: WithKeys, source_sha256: str = "") -> api.key.TeamRequest:
    """Sign the bundles of a release that wait for its team; return the request after it. Raises what `sign_proposal` does, ApiError."""
    from edgefleet_cli.keys.team_signature import Meant, sign_proposal

    model, _, version = ref.partition("@")
    waiting = session.api.post(f"/releases/{part(ref)}:ask-team", NOTHING, api.key.TeamRequest).value
    return sign_proposal(session, waiting, Meant(model, "release", version, source_sha256), using)


def sign_withdrawal(session: Session, ref: str, using: WithKeys) -> api.key.TeamRequest:
    """Sign what the team of a model is asked to withdraw. Raises what `sign_proposal` does, UsageError, ApiError."""
    from edgefleet_cli.keys.team_commands import waiting_for
    from edgefleet_cli.keys.team_signature import Meant, refuse_unless, sign_proposal

    model, _, version = ref.partition("@")
    waiting = waiting_for(session, model)
    if waiting is None or waiting.act != "withdraw":
        raise UsageError(
            f"no withdrawal waits for a team of {model}",
            why="the server signs this model by itself, or the team has signed it already",
            next_step=f"look at it: `edgectl key team {model}`",
        )
    words = f"withdraws version {version}:"
    refuse_unless(any(line.startswith(words) for line in waiting.changes), f"it does not withdraw {ref}")
    return sign_proposal(session, waiting, Meant(model, "withdraw"), using)


def note_withdrawal(session: Session, ref: str, request: api.key.TeamRequest | None) -> None:
    """Say what a withdrawal waits for. request: after a signature, None where nobody has signed yet."""
    if request is None or request.state == "waiting":
        session.out.note(
            "nobody can deploy it from now on; devices refuse it once its team has signed:"
            f" `edgectl key team {text(ref.partition('@')[0])} --sign FILE`"
        )
        return
    show_signed(session, request)


def source_of(model: str) -> str:
    """Return the SHA-256 that the manifest of a bundle made from this file or folder says. Raises UsageError, UnreadableFileError."""
    from edgefleet_cli.release.conversion.model_files import read_source
    from edgefleet_protocol.digest import folder_sha256

    source = read_source(model)
    if source.kind == "file":
        return source.files[0].sha256
    return folder_sha256((one.path, one.sha256) for one in source.files)  # type: ignore[misc]  # checked digests


def note_unsigned(session: Session, ref: str) -> None:
    """Say that a release waits, and what signs it."""
    session.out.note(f"{text(ref)} waits for the signatures of its team: `edgectl release sign {text(ref)} --key FILE`")


def show_signed(session: Session, request: api.key.TeamRequest) -> None:
    """Say how a request stands after a signature."""
    from edgefleet_cli.keys.team_commands import next_signature
    from edgefleet_cli.keys.team_signature import state_of_request

    session.out.note(f"signed; {state_of_request(request)}")
    if request.state == "waiting":
        session.out.note(next_signature(request))
