"""Alert receivers as the rest of the server sees them: make one, and take what Alertmanager sends.

- A firing alert acts once on each rollout that it is about: (receiver, group key, fingerprint, start) is noted in the transaction of the
  act. Alertmanager repeats itself until the alert is resolved; a person who resumes the rollout meanwhile is not overruled by that.
- An alert about a rollout that finished within a day reopens it: `rollback` takes the release back, `pause` asks a person what to do. Where
  one is open, that is the one meant.
- A resolved alert resumes nothing: that is a person's word.
- An alert that cannot act (the rollout was taken back, or is paused already) is answered with the reason, not with an error: Alertmanager
  would only send it again.
- A token is `efh_<id>_<secret>` and can do nothing else; only the SHA-256 of its secret is stored.
"""

import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.rules import split_key
from edgefleet_server.alerting import rules, store
from edgefleet_server.alerting.errors import BadHookTokenError, BadMatcherError
from edgefleet_server.alerting.model import (
    Alert,
    AlertAction,
    AlertDeed,
    AlertOutcome,
    AlertResult,
    NewReceiver,
    ReceiverView,
)
from edgefleet_server.alerting.tables import AlertReceiver
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.errors import IllegalStateError
from edgefleet_server.rollout.service import RolloutService

KEPT: Final = timedelta(days=90)
CODE: Final = "alert"
"""Code of a rollout that an alert reopened."""
TOKEN_PREFIX: Final = "efh_"  # noqa: S105  # the prefix of a token, not one
PATH: Final = "/api/v1/hooks/alertmanager/"
_NOTHING_SHA256: Final = sha256_hex(b"no such secret")


@dataclass(frozen=True, slots=True)
class _Act:
    """A rollout that an alert is about. is_over: it has finished."""

    rollout: str
    is_over: bool


class AlertService:
    """Makes receivers and takes alerts. Thread-safe; calls block."""

    def __init__(self, db: Database, rollouts: RolloutService, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._rollouts = rollouts
        self._clock = clock

    def create(self, name: str, action: AlertAction, matchers: Sequence[str], model: str, by: str) -> NewReceiver:
        """Make a receiver; its URL is returned this once. Raises BadMatcherError."""
        for one in matchers:
            rules.parse_matcher(one)
        if model and not matchers:
            raise BadMatcherError(
                "a model says which rollouts matched alerts are about, and nothing is matched",
                next_step="give --match too",
            )
        receiver_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12]
        secret = secrets.token_urlsafe(32)
        row = AlertReceiver(
            id=receiver_id,
            name=name,
            secret_sha256=sha256_hex(secret.encode()),
            action=action.value,
            matchers=list(matchers),
            model=model,
            created_at=self._clock.now(),
            created_by=by[:80],
        )
        with self._db.session() as session:
            session.add(row)
            session.flush()
        return NewReceiver(_view(row), f"{PATH}{TOKEN_PREFIX}{receiver_id}_{secret}")

    def receivers(self) -> list[ReceiverView]:
        """Return all receivers, oldest first."""
        with self._db.read() as session:
            return [_view(row) for row in store.receivers(session)]

    def receiver(self, receiver_id: str) -> ReceiverView:
        """Return one receiver. Raises ReceiverUnknownError."""
        with self._db.read() as session:
            return _view(store.known(session, receiver_id))

    def deeds(self, *, limit: int) -> list[AlertDeed]:
        """Return what alerts did within KEPT, newest first, at most so many."""
        with self._db.read() as session:
            return [
                AlertDeed(row.at, name, row.rollout_id, row.outcome, row.reason, row.starts_at, row.fingerprint)
                for row, name in store.seen_page(session, limit)
            ]

    def delete(self, receiver_id: str) -> None:
        """Remove a receiver: its token is worth nothing from now on. Raises ReceiverUnknownError."""
        with self._db.session() as session:
            store.remove(session, receiver_id)

    def take(self, token: str, body: Any) -> list[AlertResult]:
        """Do what the alerts of a notification ask for; return what was done about each. Raises BadHookTokenError, BadPayloadError."""
        receiver = self._receiver(token)
        notification = rules.parse_notification(body)
        group = sha256_hex(notification.group_key.encode())
        with self._db.session() as session:
            store.mark_used(session, receiver.id, self._clock.now())
        results: list[AlertResult] = []
        for alert in notification.alerts:
            results += self._one(receiver, group, alert)
        return results

    def check(self, token: str) -> None:
        """Raise BadHookTokenError unless a receiver has this token."""
        self._receiver(token)

    def prune(self) -> int:
        """Forget alerts of more than KEPT ago; return how many. For the engine tick."""
        with self._db.session() as session:
            return store.prune(session, self._clock.now() - KEPT)

    def _receiver(self, token: str) -> AlertReceiver:
        receiver_id, secret = split_key(token.removeprefix(TOKEN_PREFIX)) or ("", "")
        with self._db.read() as session:
            row = store.find(session, receiver_id) if receiver_id and token.startswith(TOKEN_PREFIX) else None
        expected = _NOTHING_SHA256 if row is None else row.secret_sha256
        is_right = hmac.compare_digest(expected, sha256_hex(secret.encode()))
        if row is None or not is_right:
            raise BadHookTokenError(
                "the token in this URL is not valid", next_step="create another one: `edgectl alert-receiver create`"
            )
        return row

    def _one(self, receiver: AlertReceiver, group: str, alert: Alert) -> list[AlertResult]:
        def result(outcome: AlertOutcome, reason: str, rollout: str = "") -> AlertResult:
            return AlertResult(alert.name, alert.fingerprint, outcome, rollout, reason)

        named = alert.labels.get(rules.ROLLOUT_LABEL, "")
        if not named and not rules.is_matched(alert.labels, [rules.parse_matcher(one) for one in receiver.matchers]):
            reason = f"it has no label {rules.ROLLOUT_LABEL}, and the receiver's matchers do not hold"
            return [result(AlertOutcome.NOT_OURS, reason)]
        if not alert.is_firing:
            return [result(AlertOutcome.RESOLVED, "a resolved alert resumes nothing; a person does")]
        model = receiver.model or alert.labels.get(rules.MODEL_LABEL, "")
        found = self._about(named, model)
        if not found:
            about = f"named {named[:63]!r}" if named else f"of model {model[:63]!r}" if model else "named, and no model"
            return [result(AlertOutcome.NO_ROLLOUT, f"there is no rollout {about} that is open or finished of late")]
        return [result(*self._act(receiver, group, alert, act), act.rollout) for act in found]

    def _about(self, named: str, model: str) -> list[_Act]:
        """Return the open rollouts that an alert is about; where there is none, the newest one that finished of late."""
        rollouts = self._rollouts
        open_now = rollouts.open_named(named) if named else rollouts.open_of(model) if model else []
        if open_now:
            return [_Act(one, is_over=False) for one in open_now]
        over = rollouts.watched(name=named) if named else rollouts.watched(model=model) if model else []
        return [_Act(one, is_over=True) for one in over]

    def _act(self, receiver: AlertReceiver, group: str, alert: Alert, act: _Act) -> tuple[AlertOutcome, str]:
        """Act once; return what became of it, and why. One transaction: what is noted is done, and the other way round."""
        row = {
            "receiver_id": receiver.id,
            "group_sha256": group,
            "fingerprint": alert.fingerprint,
            "starts_at": alert.starts_at,
            "rollout_id": act.rollout,
            "at": self._clock.now(),
            "outcome": AlertOutcome.ACTED.value,
            "reason": "",
        }
        with self._db.session() as session:
            if not store.note_first(session, row):
                return AlertOutcome.SEEN, "this alert acted already since it began to fire"
            outcome, reason = self._steer(session, receiver, alert, act)
            store.set_outcome(session, row, outcome.value, reason)
        return outcome, reason

    def _steer(self, _session: Session, receiver: AlertReceiver, alert: Alert, act: _Act) -> tuple[AlertOutcome, str]:
        reason, by = rules.reason_of(alert), f"alerts {receiver.name}"[:80]
        takes_back = receiver.action == AlertAction.ROLLBACK.value
        try:
            if act.is_over:
                self._rollouts.reopen(act.rollout, by, CODE, reason, rollback=takes_back)
            elif takes_back:
                self._rollouts.abort(act.rollout, by, reason, rollback=True)
            else:
                self._rollouts.pause(act.rollout, by, reason)
        except IllegalStateError as error:
            return AlertOutcome.NOT_POSSIBLE, error.message
        return AlertOutcome.ACTED, reason


def _view(row: AlertReceiver) -> ReceiverView:
    return ReceiverView(
        id=row.id,
        name=row.name,
        action=row.action,
        matchers=row.matchers,
        model=row.model,
        created_at=row.created_at,
        created_by=row.created_by,
        last_used_at=row.last_used_at,
    )
