"""Files of model roles that teams signed: stored beside the rest of the repository, and named by its snapshot.

No key is used here but those of snapshot and timestamp, and of targets where a team takes a model over while targets is this server's.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlmodel import Session
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.team_request import TeamRequest
from edgefleet_server.signing import store
from edgefleet_server.signing.errors import RequestOutdatedError
from edgefleet_server.signing.repository import KEPT_FOR, SERIALIZER, TufRepository
from edgefleet_server.signing.teams.role_metadata import is_signed, team_roles


class TeamFiles:
    """Brings signed files of teams into the repository, inside the caller's session; the caller has its turn and commits."""

    def __init__(self, repository: TufRepository) -> None:
        """Use a repository."""
        self._repository = repository

    def publish(self, session: Session, request: TeamRequest, now: datetime) -> None:
        """Store the file of a model's role that its team signed, and name it."""
        self._repository.publish(session, {}, now, given=self._put(session, request.role, request.proposed, now))

    def take_over(self, session: Session, targets: Targets, request: TeamRequest, now: datetime) -> None:
        """Sign targets that delegate a model to its team, and name the role's file that the team signed. The keys of targets are here."""
        changed = {"targets": targets, **self._repository.left_to_server(session, targets)}
        given = self._put(session, request.role, request.proposed, now)
        self._repository.publish(session, changed, now, given=given)

    def of_targets(
        self, session: Session, targets: Targets, ready: Mapping[str, TeamRequest], now: datetime
    ) -> dict[str, int]:
        """Store what teams signed for targets that give them their models; return the versions by role. ready: by role.

        Raises RequestOutdatedError where a role changed after its team signed it.
        """
        given: dict[str, int] = {}
        for role in sorted(team_roles(targets)):
            known = self._repository.newest(session, role)
            if known is not None and is_signed(targets, role, known):
                continue
            request = ready.get(role)
            if request is None or not is_signed(targets, role, request.proposed) or not is_based_on(request, known):
                raise RequestOutdatedError(
                    f"{role} is another one now than what its team signed",
                    next_step=f"drop it and begin again: `edgectl key ceremony --cancel`, then `edgectl key team {role[2:]}`",
                )
            given |= self._put(session, role, request.proposed, now)
        return given

    def _put(self, session: Session, role: str, file: Metadata[Targets], now: datetime) -> dict[str, int]:
        version = int(file.signed.version)
        store.put(session, role, version, file.to_bytes(SERIALIZER), now)
        store.prune(session, role, below=version, older_than=now - KEPT_FOR)
        return {role: version}


def is_based_on(request: TeamRequest, known: Metadata[Targets] | None) -> bool:
    """Return whether a request stands on the file of the role that is there."""
    if request.current is None or known is None:
        return request.current is None and known is None
    return bool(request.current.signed == known.signed)
