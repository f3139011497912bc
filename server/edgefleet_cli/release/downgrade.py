"""Before an older release goes out than what devices run: on a terminal a question, in a script a warning on stderr.

A script that rolls back on purpose is not stopped. `undo` and rollbacks say nothing: going back is what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session

OLDER_RELEASE = "older_release"


def ask_or_warn(session: Session, release: str, warning: str) -> None:
    """Ask before devices get an older release, or write the warning. warning: "" when they do not. Raises DeclinedError."""
    if not warning:
        return
    if session.may_ask and not session.options.yes:
        session.confirm(f"{warning}. Deploy {release} all the same?")
    else:
        session.out.note(f"warning: {warning}")


def warning_in(findings: Sequence[api.rollout.Finding]) -> str:
    """Return what a plan says of an older release, "" when it says nothing."""
    return next((one.message for one in findings if one.code == OLDER_RELEASE), "")
