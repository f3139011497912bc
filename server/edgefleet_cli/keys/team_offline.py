"""Signing a request to a team where the key is, without a server: the file says what is signed today, under a root that is vouched for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefleet_cli.keys.errors import RootNotTrustedError
from edgefleet_cli.keys.request_signature import fingerprint
from edgefleet_cli.keys.team_signature import WithKeys, refuse_unless, show_team_request, signatures_by

if TYPE_CHECKING:
    from edgefleet_ceremony.team_request import TeamRequest
    from edgefleet_cli.core.session import Session


def is_team_request(data: bytes) -> bool:
    """Tell whether a file is a request to a team."""
    from edgefleet_ceremony.team_request import TEAM_REQUEST_FORMAT

    return TEAM_REQUEST_FORMAT.encode() in data


def sign_team_request(
    session: Session, asked: TeamRequest, keys: Sequence[Path], trust_root: str | None, files: Sequence[Path] | None
) -> dict[str, Any]:
    """Check a request, show it, sign it after a question; return what was done, with the answer's bytes in `answer`.

    Raises RootNotTrustedError, ProposalRefusedError, UsageError, BadMediumError, DeclinedError.
    """
    from edgefleet_ceremony.team_change import refusals
    from edgefleet_ceremony.team_request import TeamAnswer, team_answer_bytes

    own = fingerprint(asked.root)
    _check_chain(asked)
    found = refusals(asked, session.clock.now())
    refuse_unless(not found, "; ".join(found))
    show_team_request(session, asked)
    if trust_root is not None and trust_root.lower() != own:
        raise RootNotTrustedError(
            "the root of today is not the one that was named",
            why=f"its fingerprint is {own}, --trust-root says {trust_root}",
            next_step="ask for the request again, and do not sign this one",
        )
    if trust_root is None:
        session.confirm(f"Does another source say that the root of today is {own}?")
    session.out.notice(
        "Not checked: the bundles themselves. `edgectl release sign REF` does that, where the server is reached"
    )
    session.confirm("Sign this?")
    signatures: Any = signatures_by(session, asked, WithKeys([str(one) for one in keys], files or ()))
    return {
        "request": asked.id,
        "model": asked.model,
        "act": str(asked.act),
        "version": asked.version,
        "root_fingerprint": own,
        "signed_by": [one.keyid for one in signatures],
        "answer": team_answer_bytes(TeamAnswer(request=asked.id, signatures=signatures)),
    }


def _check_chain(asked: TeamRequest) -> None:
    """Check that root, targets and the role as it is belong together. Raises ProposalRefusedError."""
    from edgefleet_ceremony.team_request import models_with_keys_of, role_of, team_of

    try:
        asked.root.signed.verify_delegate("root", asked.root.signed_bytes, asked.root.signatures)
        asked.root.signed.verify_delegate("targets", asked.targets.signed_bytes, asked.targets.signatures)
        team = team_of(asked.targets.signed, asked.model)
        if team is not None and asked.current is not None:
            asked.targets.signed.verify_delegate(
                role_of(asked.model), asked.current.signed_bytes, asked.current.signatures
            )
    except Exception as error:  # noqa: BLE001 - whatever the library says of it, it does not hold
        refuse_unless(False, f"what it says of today is not signed: {error}")
        return
    others = models_with_keys_of(asked.targets.signed, asked.model, asked.team)
    refuse_unless(
        not others, f"its team has a key of the team of {', '.join(others)}: each model needs keys of its own"
    )
    refuse_unless(asked.act == "team" or team == asked.team, "its team is not the one that targets name")
