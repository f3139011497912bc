"""A request for signatures as it is shown: what it changes, which thresholds it lacks, what waits for it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edgefleet_ceremony.change_text import changes_of
from edgefleet_ceremony.signature_request import request_of
from edgefleet_ceremony.signature_threshold import Threshold, thresholds_of
from edgefleet_server.signing.tables import SigningRequestRow


@dataclass(frozen=True)
class ThresholdView:
    """One threshold. role: whose file; by: the root that asks for it; signed, unsigned: holders, or key ids without one."""

    role: str
    by: str
    needed: int
    missing: int
    signed: Sequence[str]
    unsigned: Sequence[str]


@dataclass(frozen=True)
class SigningRequestView:
    """A request. changes: a sentence each. document: the file that is carried to the holders. ended_at: None while it waits."""

    id: str
    state: Literal["waiting", "done", "dropped"]
    purpose: str
    made_at: datetime
    ended_at: datetime | None
    changes: Sequence[str]
    thresholds: Sequence[ThresholdView]
    document: str


@dataclass(frozen=True)
class AnswersTaken:
    """What came of answers. added: signatures, `role by holder`. destroyed: private keys that this server had and has no more."""

    request: SigningRequestView
    added: Sequence[str]
    destroyed: Sequence[str]


def view_of(row: SigningRequestRow) -> SigningRequestView:
    """Return how a stored request is shown."""
    request = request_of(row.document)
    return SigningRequestView(
        id=row.id,
        state=row.state,  # type: ignore[arg-type]  # only these are written
        purpose=row.purpose,
        made_at=row.made_at,
        ended_at=row.ended_at,
        changes=changes_of(request),
        thresholds=[_threshold(one) for one in thresholds_of(request)],
        document=row.document.decode(),
    )


def _threshold(one: Threshold) -> ThresholdView:
    return ThresholdView(one.role, one.by, one.needed, one.missing, one.signed, one.unsigned)
