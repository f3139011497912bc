"""Requests for signatures of root and targets: made here, signed elsewhere, in force in one transaction when every threshold is met.

Rules:
- One request waits at a time. It belongs to the root and the targets that it was made from: when those change, it is worth nothing.
- Signatures count as TUF says, for the old and the new root, by the code that devices use. An answer with one that does not count is
  refused whole.
- Root, targets, snapshot and timestamp change in the transaction that ends the request. Private keys that no root names any more are
  destroyed after it; a crash between the two is made up for at the next start and every tick.
- What only the passing of time asks for, a new life for root and targets, is asked for here when half of the old one is over.
- Decision: ADR 0116.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlmodel import Session
from tuf.api.metadata import Key, Root, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.file_format import BadCeremonyFileError
from edgefleet_ceremony.public_part import PublicPart, part_of
from edgefleet_ceremony.root_fields import OFFLINE_ROLES, holder_names
from edgefleet_ceremony.signature_request import SigningRequest, answer_of, request_bytes, request_of
from edgefleet_ceremony.signature_threshold import add_signatures, is_met, wanted_keys
from edgefleet_ceremony.team_request import role_of, team_request_of
from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.ceremony import proposal
from edgefleet_server.signing.ceremony.proposal import SignedToday
from edgefleet_server.signing.ceremony.views import AnswersTaken, SigningRequestView, view_of
from edgefleet_server.signing.errors import (
    BadAnswerError,
    BadHolderError,
    RequestOutdatedError,
    RequestUnknownError,
    RequestWaitingError,
    RoleOfflineError,
)
from edgefleet_server.signing.keys.key_keeper import KeyKeeper
from edgefleet_server.signing.named_files.audit_role import AuditRole
from edgefleet_server.signing.repository import TufRepository
from edgefleet_server.signing.role_lives import LIFE
from edgefleet_server.signing.tables import SigningRequestRow
from edgefleet_server.signing.teams.states import DONE, DROPPED, READY, WAITING
from edgefleet_server.signing.teams.team_files import TeamFiles

SERVER_ROLES: Final = ("releases", "director", "audit", "snapshot", "timestamp")
"""Roles of the server whose keys root or targets name."""
MAX_SHOWN: Final = 100
AFTER_DROP: Final = timedelta(days=1)

_log = logging.getLogger(__name__)


class CeremonyService:
    """Makes requests, takes answers, and brings them into force."""

    def __init__(
        self, db: Database, keys: KeyKeeper, repository: TufRepository, audit: AuditRole, clock: Clock
    ) -> None:
        """Wire the parts. Nothing is read."""
        self._db, self._keys, self._repository, self._audit, self._clock = db, keys, repository, audit, clock
        self._team_files = TeamFiles(repository)
        self._finished = (0, 0)

    # -- requests ------------------------------------------------------------------------------------------------------

    def requests(self) -> list[SigningRequestView]:
        """Return the newest requests, the newest first."""
        with self._db.read() as session:
            return [view_of(row) for row in store.requests(session, MAX_SHOWN)]

    def request(self, request_id: str) -> SigningRequestView:
        """Return one request. Raises RequestUnknownError."""
        found = next((one for one in self.requests() if one.id == request_id), None)
        if found is None:
            raise RequestUnknownError(f"no request for signatures is called {request_id[:40]!r}")
        return found

    def waiting(self) -> SigningRequestView | None:
        """Return the request that waits for signatures."""
        with self._db.read() as session:
            row = store.waiting_request(session)
            return None if row is None else view_of(row)

    def give_to_holders(self, parts: Sequence[str], threshold: int | None) -> SigningRequestView:
        """Ask for a root and targets that these holders sign. parts: their public files. threshold: None = as they agreed.

        The audit trail is delegated first, so that its first head makes no request worthless. Raises BadHolderError, RequestWaitingError.
        """
        holders = _parts(parts)
        agreed = {part.threshold for part in holders}
        if threshold is None and len(agreed) != 1:
            raise BadHolderError("the holders agreed on different thresholds; say which one holds")
        with self._db.session() as session:
            today = self._begin(session)
            if not self._repository.offline(session):
                self._audit.delegate(session, self._clock.now())
                today = self._begin(session)
            return self._ask(
                session, proposal.with_holders(today, holders, threshold or min(agreed), self._clock.now())
            )

    def replace_holder(self, name: str, part: str) -> SigningRequestView:
        """Ask for a root and targets in which another holder stands in for one.

        Raises BadHolderError, RoleOfflineError, RequestWaitingError.
        """
        (holder,) = _parts([part])
        with self._db.session() as session:
            today = self._begin(session, is_offline=True)
            return self._ask(session, proposal.with_other_holder(today, name, holder, self._clock.now()))

    def renew(self, roles: Sequence[str]) -> SigningRequestView:
        """Ask for root, targets or both as they are, for a new life. Raises RoleOfflineError, RequestWaitingError."""
        with self._db.session() as session:
            today = self._begin(session, is_offline=True)
            return self._ask(session, proposal.renewed(today, _known(roles), self._clock.now()))

    def change_targets(self, purpose: str, change: Callable[[Targets], None]) -> SigningRequestView:
        """Ask for targets with a change, e.g. another key of a delegated role. Raises RoleOfflineError, RequestWaitingError."""
        with self._db.session() as session:
            today = self._begin(session, is_offline=True)
            targets = today.next_targets()
            change(targets)
            return self._ask(session, today.request(purpose, self._clock.now(), None, targets))

    def renew_keys(self, roles: Sequence[str]) -> SigningRequestView:
        """Ask for a new key of each of these roles of the server, made here now. Its old one signs until the request is in force.

        A key that an earlier request left unused is revoked: a thief of the key folder may have it.
        Raises RoleOfflineError, RequestWaitingError, BadHolderError; blocks on fsync.
        """
        unknown = sorted(set(roles) - set(SERVER_ROLES))
        if unknown:
            raise BadHolderError(
                f"holders give no key to {', '.join(unknown)[:80]}",
                next_step=f"name some of {', '.join(SERVER_ROLES)}; keys of models are not named by root or targets",
            )
        with self._db.session() as session:
            self._begin(session, is_offline=True)
            named = self._repository.role_keys(session).named()
            self._keys.discard_unused(roles, named)
            return self.give_keys({role: self._keys.prepare(role, besides=named) for role in dict.fromkeys(roles)})

    def give_keys(self, new: Mapping[str, Key]) -> SigningRequestView:
        """Ask for other keys of roles that root or targets name; their private parts are in the key ring already.

        Raises RoleOfflineError, RequestWaitingError, BadHolderError.
        """
        with self._db.session() as session:
            today = self._begin(session, is_offline=True)
            return self._ask(session, proposal.with_role_keys(today, new, self._clock.now()))

    def drop(self, request_id: str) -> SigningRequestView:
        """End a request without its change. Raises RequestUnknownError."""
        with self._db.session() as session:
            row = self._waiting_row(session, request_id)
            row.state, row.ended_at = DROPPED, self._clock.now()
            session.flush()
            return view_of(row)

    # -- answers -------------------------------------------------------------------------------------------------------

    def take(self, request_id: str, answers: Sequence[str]) -> SigningRequestView:
        """Add signatures; with the last that is needed, bring the request into force.

        The keys are destroyed by `finish`, once the caller's transaction is committed. Raises RequestUnknownError, BadAnswerError,
        RequestOutdatedError.
        """
        now = self._clock.now()
        with self._db.session() as session:
            store.take_turn(session)
            row = self._waiting_row(session, request_id)
            request = request_of(row.document)
            self._check_today(session, request)
            for text in answers:
                self._add(request, text)
            row.document = request_bytes(request)
            if is_met(request):
                self._publish(session, request, now)
                row.state, row.ended_at = DONE, now
                _log.warning("in force, signed by its holders: %s (request %s)", row.purpose, row.id)
            session.flush()
            return view_of(row)

    def finish(self) -> list[str]:
        """Note what became of keys, and destroy those that the root in force keeps off the server; return the files that were there.

        May be repeated.
        """
        with self._db.read() as session:
            root, targets = store.latest(session, "root"), store.latest(session, "targets")
            if root is None or targets is None or (root[0], targets[0]) == self._finished:
                return []
            offline = self._repository.offline(session)
            if not offline:
                self._finished = root[0], targets[0]
                return []
            keys = self._repository.role_keys(session)
        self._keys.settle(keys.named(), keys.root.version)
        gone = [name for role in sorted(offline | {"root"}) for name in self._keys.destroy(role, keys.named())]
        self._finished = root[0], targets[0]
        if gone:
            _log.warning("destroyed private keys that are not in use any more: %s", ", ".join(gone))
        return gone

    def ask_due(self) -> bool:
        """Ask for a new life of offline roles of which half is over, unless a request waits; return whether one was made.

        For a day after one was dropped nothing is asked for: who dropped it has something else to ask.
        """
        now = self._clock.now()
        with self._db.read() as session:
            if not self._due(session, now) or store.waiting_request(session) is not None:
                return False
            if any(one.ended_at and one.ended_at > now - AFTER_DROP for one in store.requests(session, 1)):
                return False
        try:
            with self._db.session() as session:
                self.renew(self._due(session, now))
        except RequestWaitingError:  # another server was faster
            return False
        return True

    def ask_above(self, version: int) -> None:
        """Ask for targets above a version that devices have seen, if targets are offline and no request waits. Replaces nothing."""
        with self._db.session() as session:
            offline = self._repository.offline(session)
            if "targets" not in offline or store.waiting_request(session) is not None:
                return
            today = self._begin(session)
            self._ask(session, proposal.renewed(today, ["targets"], self._clock.now(), above=version))

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _publish(self, session: Session, request: SigningRequest, now: datetime) -> None:
        """Bring a request into force, with what teams signed for it. Raises RequestOutdatedError."""
        rows = store.team_requests_in(session, READY)
        ready = {one.role: one for one in (team_request_of(row.document) for row in rows)}
        given: dict[str, int] = {}
        if "targets" in request.proposed:
            given = self._team_files.of_targets(session, request.proposed["targets"].signed, ready, now)
        self._repository.publish_signed(session, request.proposed, now, given)
        for row in rows:
            if role_of(row.model) in given:
                row.state, row.ended_at = DONE, now

    def _due(self, session: Session, now: datetime) -> list[str]:
        offline = self._repository.offline(session)
        if not offline:
            return []
        made = {name: file.made_at for name, file in store.newest_files(session, OFFLINE_ROLES).items()}
        return [role for role in OFFLINE_ROLES if role in offline | {"root"} and made[role] + LIFE[role] / 2 <= now]

    def _begin(self, session: Session, *, is_offline: bool = False) -> SignedToday:
        """Take the turn and return root and targets. Raises RequestWaitingError, RoleOfflineError."""
        store.take_turn(session)
        waiting = store.waiting_request(session)
        if waiting is not None:
            raise RequestWaitingError(f"request {waiting.id} waits for signatures: {waiting.purpose}")
        root, targets = self._repository.today(session)
        if is_offline and not self._repository.offline(session):
            raise RoleOfflineError(
                "root and targets are signed by this server: nothing is asked of holders yet",
                next_step="give them to holders first: `edgectl key ceremony --holder FILE` for each",
            )
        return SignedToday(root, targets, LIFE["root"], LIFE["targets"], _server_keys(root.signed, targets.signed))

    def _ask(self, session: Session, request: SigningRequest) -> SigningRequestView:
        """Store a request, signed by the server's own root key where that still has a say."""
        if "root" in request.proposed and self._keys.has_root():
            signer = self._keys.root_signer()
            if signer.public_key.keyid in wanted_keys(request, "root"):
                request.proposed["root"].sign(cast("Any", signer), append=True)
        row = SigningRequestRow(
            id=request.id,
            state=WAITING,
            purpose=request.purpose[:200],
            document=request_bytes(request),
            made_at=request.made_at,
        )
        store.add_request(session, row)
        _log.warning("request %s waits for signatures: %s", row.id, row.purpose)
        return view_of(row)

    def _check_today(self, session: Session, request: SigningRequest) -> None:
        root, targets = self._repository.today(session)
        for role, found in (("root", root), ("targets", targets)):
            if found.signed.to_dict() != request.current[role].signed.to_dict():
                raise RequestOutdatedError(f"{role} is another one now than when request {request.id} was made")

        for role, proposed in request.proposed.items():
            if proposed.signed.expires <= self._clock.now():
                raise RequestOutdatedError(f"request {request.id} waited so long that its {role} would be over already")

    def _add(self, request: SigningRequest, text: str) -> None:
        try:
            answer = answer_of(text.encode())
        except BadCeremonyFileError as error:
            raise BadAnswerError(f"an answer cannot be taken: {error}") from error
        if answer.request != request.id:
            raise BadAnswerError(f"an answer belongs to request {answer.request!r}, not to {request.id!r}")
        _, refused = add_signatures(request, answer)
        if refused:
            raise BadAnswerError(f"signatures of an answer do not count: {'; '.join(refused)[:400]}")

    def _waiting_row(self, session: Session, request_id: str) -> SigningRequestRow:
        row = store.waiting_request(session)
        if row is None or row.id != request_id:
            raise RequestUnknownError(f"no request {request_id[:40]!r} waits for signatures")
        return row


def taken(before: SigningRequestView, after: SigningRequestView, destroyed: Sequence[str]) -> AnswersTaken:
    """Return what came of answers: the signatures that are there after and were not before."""
    had = {(one.role, one.by): set(one.signed) for one in before.thresholds}
    added = {
        f"{one.role} by {name}" for one in after.thresholds for name in one.signed if name not in had[one.role, one.by]
    }
    return AnswersTaken(after, sorted(added), destroyed)


def _parts(texts: Sequence[str]) -> list[PublicPart]:
    try:
        return [part_of(text.encode()) for text in texts]
    except BadCeremonyFileError as error:
        raise BadHolderError(f"a holder's public file cannot be taken: {error}") from error


def _known(roles: Sequence[str]) -> list[str]:
    unknown = sorted(set(roles) - set(OFFLINE_ROLES))
    if unknown or not roles:
        raise BadHolderError(
            f"only {' and '.join(OFFLINE_ROLES)} are renewed by holders, not {', '.join(unknown) or 'nothing'}"
        )
    return list(roles)


def _server_keys(root: Root, targets: Targets) -> frozenset[str]:
    """Return the ids of keys that are not holders' keys: those of online roles, and of root and targets as long as this server has them."""
    held = holder_names(root.to_dict())
    named = [*root.roles.items(), *((targets.delegations.roles or {}).items() if targets.delegations else ())]
    return frozenset(keyid for _, role in named for keyid in role.keyids if keyid not in held)
