"""Sends what the outbox holds. Any number of processes may run it.

- A claim takes a webhook, not a delivery: SKIP LOCKED, a lease, a fence. So one process at a time sends to one receiver, in order, and
  what a dead one left is taken over when its lease ends (at once by the same process, started again).
- Each webhook that has something due gets a lane, a thread of its own: a slow receiver delays only itself.
- Each try is written down before the next one, if the fence is still ours. One that dies between the two sends that message once more, with
  the same id: at least once.
- A delivery that failed waits, and so do later ones of the same order (rollout, device); others go on.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.outbound.http_post import HttpPoster, Posted
from edgefleet_server.webhook import rules, store
from edgefleet_server.webhook.errors import SecretMissingError
from edgefleet_server.webhook.model import DeliveryState, Outcome, Parcel, Receiver
from edgefleet_server.webhook.service import MAX_WEBHOOKS, WebhookService

POLL_S: Final = 1.0
STOP_WAIT_S: Final = 3.0
MAX_ANSWER_CHARS: Final = 1000
Draw = Callable[[], float]
Transport = Callable[[str, bytes, float], Posted]
"""Sends a message to a channel: its id, the message, seconds. An answer means that it was taken. Raises EdgefleetError."""

_log = logging.getLogger(__name__)


class WebhookSender:
    """Sends for one process. `owner` is unique among the processes that share the database. draw: 0 to 1, for the back-off."""

    def __init__(  # noqa: PLR0913  # two clocks, and what it sends with
        self,
        db: Database,
        feed: EventLog,
        service: WebhookService,
        poster: HttpPoster,
        owner: str,
        *,
        shared: Clock,
        own: Clock,
        timeout_s: float,
        draw: Draw = random.random,
        transports: Mapping[str, Transport] | None = None,
    ) -> None:
        """Wire the parts. shared: the time that all processes of the database go by; own: this machine's. transports: of channels."""
        self._db = db
        self._feed = feed
        self._service = service
        self._poster = poster
        self._clock = shared
        self._own = own
        self._owner = owner
        self._timeout_s = timeout_s
        self._draw = draw
        self._transports = dict(transports or {})
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._lanes = ThreadPoolExecutor(MAX_WEBHOOKS, thread_name_prefix="webhook")
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._silence: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Send from now on; a commit of this process wakes it."""
        self._silence = self._service.bell.subscribe(self._woken.set)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the tries that are under way, or without them when they take long."""
        self._silence()
        self._stopping.set()
        self._woken.set()
        self._lanes.shutdown(wait=False, cancel_futures=True)
        if self._thread.ident is not None:
            self._thread.join(STOP_WAIT_S)

    def tick(self) -> int:
        """Open a lane for each webhook that has something due; return how many."""
        now = self._clock.now()
        with self._db.read() as session:
            if not store.is_any_due(session, now):
                return 0
        with self._lock:
            busy = set(self._busy)
        with self._db.session() as session:
            claimed = store.claim(session, self._owner, now, busy, MAX_WEBHOOKS)
        for webhook_id, fence in claimed:
            with self._lock:
                self._busy.add(webhook_id)
            self._lanes.submit(self._lane, webhook_id, fence)
        return len(claimed)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(POLL_S)
            self._woken.clear()
            if self._stopping.is_set():
                return
            try:
                self.tick()
            except (SQLAlchemyError, EdgefleetError, OSError):
                _log.exception("webhooks could not be looked through; trying again")
                self._stopping.wait(POLL_S)

    def _lane(self, webhook_id: str, fence: int) -> None:
        try:
            while not self._stopping.is_set() and self._send_batch(webhook_id, fence):
                pass
            with self._db.session() as session:
                store.hold_fence(session, webhook_id, fence, None)
        except Exception:  # noqa: BLE001  # the outermost call of a thread: a bug in one lane must not stop the others for good
            _log.exception("sending to a webhook failed", extra={"webhook_id": webhook_id})
            self._stopping.wait(POLL_S)
        finally:
            with self._lock:
                self._busy.discard(webhook_id)
            self._woken.set()

    def _send_batch(self, webhook_id: str, fence: int) -> bool:
        """Send what is due now; return whether there may be more."""
        now = self._clock.now()
        with self._db.session() as session:
            if not store.hold_fence(session, webhook_id, fence, now + store.LEASE):
                return False
            to = store.receiver(session, webhook_id, now)
            parcels = [] if to is None else store.due(session, webhook_id, now)
            events = self._feed.by_id([one.event_id for one in parcels if one.event_id is not None])
        if to is None or not parcels:
            return False
        failed: set[str] = set()
        for parcel in parcels:
            if self._stopping.is_set():
                return False
            if parcel.order_key in failed:
                continue
            event = None if parcel.event_id is None else events.get(parcel.event_id)
            if event is not None:
                body = rules.message_of(event, self._service.source)
            else:
                body = msgspec.json.encode(parcel.body) if parcel.body is not None else b""
            outcome = self._try(to, fence, parcel, body)
            if outcome is None or outcome.holds or outcome.gone:
                return False
            if outcome.state is DeliveryState.PENDING:
                failed.add(parcel.order_key)
        return True

    def _try(self, to: Receiver, fence: int, parcel: Parcel, body: bytes) -> Outcome | None:
        """Send one message and write down what came of it; None when the claim was lost meanwhile."""
        posted: Posted | None = None
        error = ""
        if not body:
            outcome = Outcome(DeliveryState.DEAD, None, None, "its event is no longer kept")
        else:
            start_s = self._clock.monotonic_s()
            try:
                posted = self._post(to, parcel, body)
            except EdgefleetError as refused:
                error = refused.message
            took_s = posted.took_s if posted is not None else self._clock.monotonic_s() - start_s
            outcome = rules.outcome_of(
                None if posted is None else posted.status,
                "" if posted is None else posted.retry_after,
                error,
                parcel.attempts + 1,
                parcel.give_up_at,
                self._clock.now(),
                self._draw(),
            )
        attempt = {
            "took_ms": int(1000 * took_s) if body else 0,
            "status": outcome.status,
            "error": outcome.error,
            "answer": "" if posted is None else posted.body[:MAX_ANSWER_CHARS].replace("\0", ""),
        }
        return outcome if self._write(to, fence, parcel, outcome, attempt) else None

    def _post(self, to: Receiver, parcel: Parcel, body: bytes) -> Posted:
        if to.transport:
            return self._transports[to.transport](to.id, body, self._timeout_s)
        keys = [self._service.sealer.open(one) for one in to.secrets]
        if not keys:  # they were deleted with a lost sealing key: the receiver could not tell whose message it is
            raise SecretMissingError(
                f"the webhook has no secret that signs; `edgectl webhook rotate {to.id}` makes one"
            )
        headers = rules.headers_of(parcel.message_id, body, keys, self._own.now())
        return self._poster.post(to.url, body, headers, self._timeout_s)

    def _write(self, to: Receiver, fence: int, parcel: Parcel, outcome: Outcome, attempt: Mapping[str, object]) -> bool:
        now = self._clock.now()
        with self._db.session() as session:
            if not store.hold_fence(session, to.id, fence, now + store.LEASE):
                return False
            row = store.receiver(session, to.id, now)
            store.note(session, parcel, outcome, attempt, now)
            if outcome.gone:
                store.switch_off(session, to.id, "the receiver answered 410 Gone", now)
            elif outcome.holds:
                failures = (to.failures if row is None else row.failures) + 1
                pause = rules.wait_of(failures, self._draw(), rules.LONGEST_HOLD)
                until = now + pause
                if outcome.status is not None and outcome.next_at is not None:
                    until = max(until, outcome.next_at)  # 429 and 503 may say how long
                store.hold(session, to.id, failures, min(until, now + timedelta(hours=24)))
            elif row is not None and row.failures:
                store.hold(session, to.id, 0, None)
        if outcome.state is not DeliveryState.DELIVERED:
            extra = {"webhook_id": to.id, "delivery": parcel.id, "state": outcome.state.value, "error": outcome.error}
            _log.info("webhook delivery failed", extra=extra)
        return True
