"""A request to a team as it is shown: what it changes, who signed it, what it waits for. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edgefleet_ceremony.team_change import change_lines
from edgefleet_ceremony.team_request import signed_and_unsigned, team_request_of
from edgefleet_server.signing.tables import TeamRequestRow


@dataclass(frozen=True)
class TeamRequestView:
    """A request to the team of a model. version: of the release, "" for other acts. changes: a sentence each.

    needed: how many must sign; signed, unsigned: ids of the team's keys. state: `ready` waits for the holders of targets.
    document: the file that is signed. ended_at: None while it waits.
    """

    id: str
    model: str
    act: Literal["team", "release", "withdraw", "renew"]
    version: str
    state: Literal["waiting", "ready", "done", "dropped"]
    made_at: datetime
    ended_at: datetime | None
    changes: Sequence[str]
    needed: int
    signed: Sequence[str]
    unsigned: Sequence[str]
    document: str


def view_of_team_request(row: TeamRequestRow) -> TeamRequestView:
    """Return how a stored request is shown."""
    request = team_request_of(row.document)
    signed, unsigned = signed_and_unsigned(request)
    return TeamRequestView(
        id=row.id,
        model=row.model,
        act=row.act,  # type: ignore[arg-type]  # only these are written
        version=row.version,
        state=row.state,  # type: ignore[arg-type]
        made_at=row.made_at,
        ended_at=row.ended_at,
        changes=change_lines(request),
        needed=request.team.threshold,
        signed=signed,
        unsigned=unsigned,
        document=row.document.decode(),
    )
