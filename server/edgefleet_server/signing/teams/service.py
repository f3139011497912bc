"""Models that their teams sign: what they are asked for, their signatures, and what comes into force with the last that is needed.

Rules (ADR 0127):
- Who the team is, targets say: they delegate `m.<model>` to its keys, before `releases`. This server has no key of such a model.
- One request to a team waits at a time. It stands on the role as it is: when that changes, it is worth nothing and is dropped.
- A withdrawal takes the place of what else waits: it must not queue.
- Signatures count as TUF says. An answer with one that does not count is refused whole.
- A team takes a model over in one transaction with the targets that say so; first it signs what the role names today, so that devices
  find the same bundles. Private keys that this server had of it are destroyed after the commit, or at the next start or tick.
- While a team is to take a model over, the model's new bundles wait for it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlmodel import Session
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.file_format import BadCeremonyFileError
from edgefleet_ceremony.team_request import (
    TeamAct,
    TeamKeys,
    TeamRequest,
    add_team_signatures,
    checked_team,
    is_met,
    models_with_keys_of,
    role_of,
    team_answer_of,
    team_of,
    team_request_bytes,
    team_request_of,
)
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.ceremony.service import CeremonyService
from edgefleet_server.signing.errors import (
    BadAnswerError,
    BadHolderError,
    RequestOutdatedError,
    RequestUnknownError,
    RequestWaitingError,
    RoleUnknownError,
)
from edgefleet_server.signing.keys.key_keeper import KeyKeeper
from edgefleet_server.signing.keys.signer_uris import public_key_in
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.repository import TufRepository
from edgefleet_server.signing.role_lives import life_of
from edgefleet_server.signing.tables import TeamRequestRow
from edgefleet_server.signing.teams.role_metadata import (
    close,
    give_to_team,
    may_sign_as_server,
    reopen,
    take_from_server,
)
from edgefleet_server.signing.teams.role_proposal import NewTarget, next_role, with_bundles, with_withdrawal
from edgefleet_server.signing.teams.states import DONE, DROPPED, READY, WAITING
from edgefleet_server.signing.teams.team_files import TeamFiles, is_based_on
from edgefleet_server.signing.teams.views import TeamRequestView, view_of_team_request

MAX_SHOWN: Final = 100
CLOSE, OPEN = "close", "open"

_log = logging.getLogger(__name__)


class UnsignedBundles(Protocol):
    """Bundles that were converted and wait for a team."""

    def versions(self, model: str) -> Sequence[str]:
        """Return the versions of a model that have some."""
        ...

    def targets(self, model: str, version: str) -> Sequence[NewTarget]:
        """Return those of a release, none while it is being converted. Raises ReleaseUnknownError."""
        ...

    def accept(self, model: str, version: str) -> None:
        """Note that those of a release are signed. Joins the caller's transaction."""
        ...


@dataclass(frozen=True)
class _Asked:
    """What a team is asked for. team: None = the one that targets name."""

    model: str
    act: TeamAct
    version: str = ""
    team: TeamKeys | None = None
    options: str = ""


class TeamService:
    """Makes requests to teams, takes their answers, and brings them into force. bundles: set once, before the first call."""

    bundles: UnsignedBundles

    def __init__(
        self, db: Database, keys: KeyKeeper, repository: TufRepository, ceremony: CeremonyService, clock: Clock
    ) -> None:
        """Wire the parts. Nothing is read."""
        self._db, self._keys, self._repository = db, keys, repository
        self._ceremony, self._clock = ceremony, clock
        self._files = TeamFiles(repository)
        self._finished = 0

    # -- reading -------------------------------------------------------------------------------------------------------

    def requests(self) -> list[TeamRequestView]:
        """Return the newest requests, the newest first."""
        with self._db.read() as session:
            return [view_of_team_request(row) for row in store.team_requests(session, MAX_SHOWN)]

    def request(self, request_id: str) -> TeamRequestView:
        """Return one request. Raises RequestUnknownError."""
        with self._db.read() as session:
            row = store.team_request(session, request_id)
            if row is None:
                raise _unknown(request_id)
            return view_of_team_request(row)

    def waiting(self, model: str) -> TeamRequestView | None:
        """Return the request to a model's team that is not over."""
        with self._db.read() as session:
            row = store.open_team_request(session, model)
            return None if row is None else view_of_team_request(row)

    def is_theirs(self, model: str) -> bool:
        """Return whether bundles of a model wait for a team: it has one, or is about to get one. Joins the caller's transaction."""
        with self._db.read() as session:
            if self._team(session, model) is not None:
                return True
            row = store.open_team_request(session, model)
            return row is not None and row.act == TeamAct.TEAM

    def threshold(self, model: str) -> int:
        """Return how many of its team have to sign a model, 0 where the server signs it."""
        with self._db.read() as session:
            team = self._team(session, model)
        return 0 if team is None else team.threshold

    # -- requests ------------------------------------------------------------------------------------------------------

    def set_team(self, model: str, pems: Sequence[str], threshold: int, new_models: str = "") -> TeamRequestView:
        """Ask these keys (public, PEM) to take a model over, or to take the place of those that sign it.

        new_models: whether this server may sign new models from then on: "" = as before, close, open. Raises BadHolderError,
        RequestWaitingError, BadIdError, BadKeyOrderError.
        """
        parse_model_name(model)
        try:
            team = checked_team([public_key_in(pem) for pem in pems], threshold)
        except BadCeremonyFileError as error:
            raise BadHolderError(f"these keys cannot be a team: {error}", next_step=_GIVE_KEYS) from error
        with self._db.session() as session:
            self._begin(session, model, {TeamAct.TEAM, TeamAct.RELEASE, TeamAct.RENEW})
            keys, teams = self._repository.role_keys(session), self._repository.team_roles(session)
            if models_with_keys_of(self._repository.load(session, "targets"), model, team):
                raise BadHolderError(
                    "a key of the team of another model cannot be this team's: what it signs of one could be shown as the other's",
                    next_step="make a key for each model: `openssl genpkey -algorithm ed25519`",
                )
            mine = {keyid for name in keys.names() if name not in teams for keyid in keys.of(name)[0]}
            if (mine | {one.keyid for one in self._keys.inventory().keys}) & team.keys.keys():
                raise BadHolderError(
                    "a key that the server or its holders have cannot be a team's key", next_step=_GIVE_KEYS
                )
            current = self._repository.newest(session, role_of(model))
            proposed = next_role(None if current is None else current.signed, model, self._clock.now())
            return self._ask(session, _Asked(model, TeamAct.TEAM, team=team, options=new_models), current, proposed)

    def ask_release(self, model: str, version: str) -> TeamRequestView | None:
        """Ask a team to sign the bundles of a release; return what waits already where that asks just this; None without a team.

        Raises RequestWaitingError, BadAnswerError where nothing waits to be signed, ReleaseUnknownError.
        """
        with self._db.session() as session:
            store.take_turn(session)
            targets = self.bundles.targets(model, version)
            if self._team(session, model) is None:
                return None
            if not targets:
                raise RequestUnknownError(f"no bundle of {model}@{version} waits for a signature")
            now, current = self._clock.now(), self._repository.newest(session, role_of(model))
            row = store.open_team_request(session, model)
            if row is not None and row.act == TeamAct.RELEASE and row.version == version:
                asked = team_request_of(row.document)
                wanted = {(one.path, one.sha256) for one in targets}
                before = {} if current is None else current.signed.targets
                added = {
                    (path, one.hashes["sha256"])
                    for path, one in asked.proposed.signed.targets.items()
                    if path not in before
                }
                if is_based_on(asked, current) and added == wanted and asked.proposed.signed.expires > now:
                    return view_of_team_request(row)
                self._end(session, row, DROPPED)
            self._begin(session, model, {TeamAct.RENEW})
            proposed = with_bundles(next_role(None if current is None else current.signed, model, now), targets, now)
            return self._ask(session, _Asked(model, TeamAct.RELEASE, version), current, proposed)

    def withdraw(self, session: Session, withdrawal: TargetWithdrawal) -> bool | None:
        """Ask a team to withdraw; None where the model has none, False when its role says so already or is asked to."""
        model, now = withdrawal.model, self._clock.now()
        row = store.open_team_request(session, model)
        if self._team(session, model) is None:
            if row is not None:  # what the team was to take over is another one now
                self._end(session, row, DROPPED)
                self._sign_here(session, model)
            return None
        current = self._repository.newest(session, role_of(model))
        if current is None:
            return False
        base = (
            current.signed
            if row is None or row.act != TeamAct.WITHDRAW
            else team_request_of(row.document).proposed.signed
        )
        proposed = next_role(base, model, now)
        if not with_withdrawal(proposed, withdrawal, now):
            return False
        if row is not None:
            self._end(session, row, DROPPED)
        newest = withdrawal.versions[-1] if withdrawal.versions else ""
        self._ask(session, _Asked(model, TeamAct.WITHDRAW, newest), current, proposed)
        return True

    def renew(self, model: str) -> TeamRequestView:
        """Ask a team to sign its role as it is, for a new life. Raises RoleUnknownError, RequestWaitingError."""
        with self._db.session() as session:
            self._begin(session, model, {TeamAct.RENEW})
            current = self._repository.newest(session, role_of(model))
            if current is None or self._team(session, model) is None:
                raise RoleUnknownError(f"{model[:63]!r} is not signed by a team")
            proposed = next_role(current.signed, model, self._clock.now())
            return self._ask(session, _Asked(model, TeamAct.RENEW), current, proposed)

    def ask_due(self) -> bool:
        """Ask teams for a new life of roles of which half is over, unless a request waits; return whether one was made."""
        now, asked = self._clock.now(), False
        with self._db.read() as session:
            files = store.newest_files(session, sorted(self._repository.team_roles(session)))
            due = [name[2:] for name, file in files.items() if file.made_at + life_of(name) / 2 <= now]
            due = [model for model in due if store.open_team_request(session, model) is None]
        for model in due:
            try:
                self.renew(model)
                asked = True
            except RequestWaitingError:  # another server was faster
                continue
        return asked

    def drop(self, request_id: str) -> TeamRequestView:
        """End a request without its change. Bundles that waited for a team that never forms are signed here. Raises RequestUnknownError."""
        with self._db.session() as session:
            store.take_turn(session)
            row = self._open_row(session, request_id)
            self._end(session, row, DROPPED)
            if self._team(session, row.model) is None:
                self._sign_here(session, row.model)
            return view_of_team_request(row)

    def drop_release(self, model: str, version: str) -> None:
        """End what a team was asked for a release that is to be deleted. Joins the caller's transaction."""
        with self._db.session() as session:
            row = store.open_team_request(session, model)
            if row is not None and (row.act, row.version) == (TeamAct.RELEASE, version):
                self._end(session, row, DROPPED)

    # -- answers -------------------------------------------------------------------------------------------------------

    def take(self, request_id: str, answer: str) -> TeamRequestView:
        """Add signatures; with the last that is needed, bring the request into force, or ask the holders of targets to let it.

        Keys are destroyed by `finish`, once the caller's transaction is committed. Raises RequestUnknownError, BadAnswerError,
        RequestOutdatedError, RequestWaitingError.
        """
        with self._db.session() as session:
            store.take_turn(session)
            row = self._open_row(session, request_id)
            if row.state != WAITING:
                raise BadAnswerError(
                    "the team has signed it already", next_step="the holders of targets have to: `edgectl key ceremony`"
                )
            request = team_request_of(row.document)
            self._check_today(session, request)
            self._add(request, answer)
            row.document = team_request_bytes(request)
            if is_met(request):
                self._bring(session, row, request)
            session.add(row)
            session.flush()
            return view_of_team_request(row)

    def finish(self) -> list[str]:
        """Destroy private keys of models that teams sign; return the files that were there. May be repeated."""
        with self._db.read() as session:
            found = store.latest(session, "targets")
            if found is None or found[0] == self._finished:
                return []
            teams = self._repository.team_roles(session)
            named = self._repository.role_keys(session).named() if teams else set()
        gone = [name for role in sorted(teams) for name in self._keys.destroy(role, named)]
        self._finished = found[0]
        if gone:
            _log.warning("destroyed private keys of models that teams sign: %s", ", ".join(gone))
        return gone

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _team(self, session: Session, model: str) -> TeamKeys | None:
        return team_of(self._repository.load(session, "targets"), model)

    def _begin(self, session: Session, model: str, replaced: set[TeamAct]) -> None:
        """Take the turn; what waits already gives way when it is one of `replaced`. Raises RequestWaitingError."""
        store.take_turn(session)
        row = store.open_team_request(session, model)
        if row is None:
            return
        if row.act not in replaced or row.state == READY:
            raise RequestWaitingError(
                f"request {row.id} to the team of {model} waits for signatures: {row.act} {row.version}".rstrip(),
                next_step=f"have it signed: `edgectl key team {model} --sign FILE`, or drop it: `edgectl key team {model} --cancel`",
            )
        self._end(session, row, DROPPED)

    def _ask(
        self, session: Session, asked: "_Asked", current: Metadata[Targets] | None, proposed: Targets
    ) -> TeamRequestView:
        root, targets = self._repository.today(session)
        team = asked.team or team_of(targets.signed, asked.model)
        assert team is not None, asked.model
        request = TeamRequest(
            model=asked.model,
            act=asked.act,
            version=asked.version,
            made_at=self._clock.now(),
            team=team,
            root=root,
            targets=targets,
            current=current,
            proposed=Metadata(proposed),
        )
        row = TeamRequestRow(
            id=request.id,
            model=asked.model,
            act=asked.act,
            version=asked.version,
            state=WAITING,
            options=asked.options,
            document=team_request_bytes(request),
            made_at=request.made_at,
        )
        store.add_team_request(session, row)
        _log.warning(
            "request %s to the team of %s waits for signatures: %s %s", row.id, row.model, row.act, row.version
        )
        return view_of_team_request(row)

    def _check_today(self, session: Session, request: TeamRequest) -> None:
        known = self._repository.newest(session, request.role)
        team = self._team(session, request.model)
        is_same_team = request.act is TeamAct.TEAM or team == request.team
        if not is_based_on(request, known) or not is_same_team:
            raise RequestOutdatedError(
                f"{request.role} is another one now than when request {request.id} was made",
                next_step=f"drop it, and ask again: `edgectl key team {request.model} --cancel`",
            )
        if request.proposed.signed.expires <= self._clock.now():
            raise RequestOutdatedError(
                f"request {request.id} waited so long that it would be over already",
                next_step=f"drop it, and ask again: `edgectl key team {request.model} --cancel`",
            )

    def _add(self, request: TeamRequest, text: str) -> None:
        try:
            answer = team_answer_of(text.encode())
        except BadCeremonyFileError as error:
            raise BadAnswerError(f"an answer cannot be taken: {error}", next_step=_SIGN_NEWEST) from error
        if answer.request != request.id:
            raise BadAnswerError(
                f"an answer belongs to request {answer.request!r}, not to {request.id!r}", next_step=_SIGN_NEWEST
            )
        _, refused = add_team_signatures(request, answer)
        if refused:
            raise BadAnswerError(
                f"signatures of an answer do not count: {'; '.join(refused)[:400]}", next_step=_SIGN_NEWEST
            )

    def _bring(self, session: Session, row: TeamRequestRow, request: TeamRequest) -> None:
        now = self._clock.now()
        if request.act is not TeamAct.TEAM:
            self._files.publish(session, request, now)
        elif "targets" in self._repository.offline(session):
            purpose = f"let the team of {request.model} sign it, {request.team.threshold} of {len(request.team.keys)}"
            releases = self._repository.load(session, "releases")
            self._ceremony.change_targets(purpose, lambda found: _hand_over(found, releases, request, row.options))
            row.state = READY
            return
        else:
            targets, releases = (self._repository.load(session, name) for name in ("targets", "releases"))
            _hand_over(targets, releases, request, row.options)
            self._files.take_over(session, targets, request, now)
        if request.act is TeamAct.RELEASE:
            self.bundles.accept(request.model, request.version)
        self._end(session, row, DONE)
        _log.warning("in force, signed by the team of %s: %s %s", request.model, request.act, request.version)

    def _sign_here(self, session: Session, model: str) -> None:
        """Sign what waited for a team that never formed; where the server may not sign the model, it goes on to wait for one."""
        now = self._clock.now()
        targets_role = self._repository.load(session, "targets")
        if not may_sign_as_server(targets_role, model):
            return
        for version in self.bundles.versions(model):
            targets = self.bundles.targets(model, version)
            for one in targets:
                self._repository.add_target(session, one.path, one.length, one.sha256, one.custom, now)
            if targets:
                self.bundles.accept(model, version)

    def _end(self, session: Session, row: TeamRequestRow, state: str) -> None:
        row.state, row.ended_at = state, self._clock.now()
        session.add(row)
        session.flush()

    def _open_row(self, session: Session, request_id: str) -> TeamRequestRow:
        row = store.team_request(session, request_id)
        if row is None or row.ended_at is not None:
            raise _unknown(request_id)
        return row


def _hand_over(targets: Targets, releases: Targets, request: TeamRequest, options: str) -> None:
    """Change targets so that a team signs its model. releases: read only, for the models that stay with the server."""
    give_to_team(targets, request.model, request.team)
    if options == CLOSE:
        take_from_server(releases, frozenset({request.role}))
        close(targets, releases)
    elif options == OPEN:
        reopen(targets)


def _unknown(request_id: str) -> RequestUnknownError:
    return RequestUnknownError(
        f"no request {request_id[:40]!r} to a team waits for signatures",
        next_step="`edgectl key team MODEL` shows what waits",
    )


_GIVE_KEYS: Final = "give one public key, PEM, of each of the team: `edgectl key team MODEL --key FILE`"
_SIGN_NEWEST: Final = "sign the newest request: `edgectl key team MODEL --sign FILE`"
