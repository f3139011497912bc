"""What this machine believes of a model's role: walked to by TUF from the root of trust that it pinned, whatever the server says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgefleet_cli.keys.errors import RootNotTrustedError

if TYPE_CHECKING:
    from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

    from edgefleet_cli.core.session import Session

_FIRST_ROOT = "1.root.json"


@dataclass(frozen=True)
class TrustedRole:
    """What is signed today. targets: says who signs the model; role: None before the first. root_sha256: of the pinned root."""

    targets: Targets
    role: Targets | None
    root_sha256: str


def trusted_role(session: Session, model: str, root_sha256: str) -> TrustedRole:
    """Return what is signed of a model today. root_sha256: of the first root, where this machine has pinned none ("" = ask a person).

    Raises RootNotTrustedError, TrailNotProvenError, DeclinedError, ApiError.
    """
    from edgefleet_ceremony.team_request import role_of
    from edgefleet_cli.audit.audit_state import state_of
    from edgefleet_cli.audit.trust_walk import metadata_file, walked

    state = state_of(session.server)
    pinned = state.root()
    root = pinned or metadata_file(session.api, _FIRST_ROOT)
    digest = hashlib.sha256(root).hexdigest()
    _check_root(session, digest, root_sha256, is_pinned=pinned is not None)
    updater, _ = walked(session.api, state, root, session.clock.now(), f"{model}/-/-.bundle", may_be_over=True)
    if pinned is None:
        state.pin_root(root)
    trusted: Any = updater._trusted_set
    name = role_of(model)
    return TrustedRole(trusted.targets, trusted.get(name), digest)


def _check_root(session: Session, digest: str, wanted: str, *, is_pinned: bool) -> None:
    if wanted and wanted.lower() != digest:
        raise RootNotTrustedError(
            "the server's first root is not the one that was named",
            why=f"its SHA-256 is {digest}, --root-sha256 says {wanted}",
            next_step="check the address of the server; if it is right, somebody else answers there: sign nothing",
        )
    if wanted or is_pinned:
        return
    if not session.may_ask:
        raise RootNotTrustedError(
            "this machine has never seen the root of trust of this server, and nobody vouches for it",
            why=f"the SHA-256 of the first root that it shows is {digest}",
            next_step="compare it by another way, and give it: --root-sha256 HEX",
        )
    session.confirm(
        f"No root of trust is pinned here. Does another source say that the first root has the SHA-256 {digest}?"
    )
