"""Keeps revoked devices off the broker: the list of revoked certificates in force, open sessions ended, retained messages gone.

1. A new list is issued when a certificate was revoked or a CA came or went, by whatever process, and once a day; it is valid for 30 days.
2. Each list has a canary of its own, a certificate that only this list revokes. The list is in force once the broker refuses the
   canary and lets in a certificate that was not revoked. Without the first, a list that the broker could not read lets everybody in;
   without the second, one that has expired locks everybody out. Both were seen with mosquitto 2.0.21 (ADR 0084).
3. Only then are the sessions of revoked devices ended, since a device whose session ends connects again within a second.
4. A list that is not in force is handed over again. After a while this is an event, a figure and a failed check.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.enrolment.revocation import Revocation
from edgefleet_server.gateway.broker.connect_probe import Admission, try_connect
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind
from edgefleet_server.signing.client_identities import BriefIdentity
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import RefusedCertificates

POLL_S: Final = 2.0
SETTLE_S: Final = 3.0
"""How long a broker may take to read a new list."""
SETTLE_STEP_S: Final = 0.1
ISSUE_EVERY: Final = timedelta(days=1)
LEAST_LEFT: Final = timedelta(days=15)
TRY_EVERY: Final = timedelta(minutes=5)
"""How often the canary is tried when nothing has changed."""
ALARM_AFTER: Final = timedelta(seconds=30)
ALARM_AFTER_EXTERNAL: Final = timedelta(minutes=15)
"""The operator of an external broker copies the list there, by a timer of his own."""
TRY_EXTERNAL_EVERY: Final = timedelta(seconds=20)
"""How often an external broker is tried that does not go by the list yet."""
BATCH: Final = 200

_log = logging.getLogger(__name__)


class RevocationNotInForceError(EdgefleetError):
    """The broker does not go by the newest list of revoked certificates."""

    code = "gateway.revocation_not_in_force"
    default_next_step = (
        "look for the broker in the server's log; restart the broker; until then revoked devices may still connect"
    )


class Broker(Protocol):
    """What is needed of the broker."""

    @property
    def endpoint(self) -> BrokerEndpoint:
        """Return where it serves."""
        ...

    def refuse(self, refused: RefusedCertificates) -> bool:
        """Hand over a list; return False while there is nobody to take it."""
        ...


class RevokedFleet(Protocol):
    """What is needed of the fleet."""

    @property
    def revocation(self) -> Revocation:
        """Says which devices were revoked."""
        ...

    @property
    def feed(self) -> EventLog:
        """Takes events."""
        ...


ListMark = tuple[int, datetime | None, str]


@dataclass(frozen=True)
class ListState:
    """The newest list and how it fares. mark: of the revocations in it, and of the CAs; good_at: when the canary was last as it should be.

    bad_since: since when the list is not in force, None when it is. problem: why, in words. tried_at: when the broker was tried last.
    """

    mark: ListMark
    issued_at: datetime
    expires: datetime
    bad_since: datetime | None
    problem: str = "the broker has not been tried yet"
    good_at: datetime | None = None
    tried_at: datetime | None = None

    @property
    def in_force(self) -> bool:
        """Whether the broker goes by it."""
        return self.bad_since is None


def is_due(state: ListState, mark: ListMark, now: datetime) -> bool:
    """Return whether another list must be issued."""
    return state.mark != mark or now - state.issued_at >= ISSUE_EVERY or now < state.issued_at


def is_to_try(state: ListState, now: datetime, pause: timedelta = timedelta(0)) -> bool:
    """Return whether the broker must be tried. pause: between tries while the list is not in force."""
    last, every = (state.good_at, TRY_EVERY) if state.in_force else (state.tried_at, pause)
    return last is None or not timedelta(0) <= now - last < every


def tried(state: ListState, canary: Admission, living: Admission, now: datetime) -> ListState:
    """Return the state after a try. canary: what became of the revoked certificate; living: of one that was not revoked."""
    if canary is Admission.REFUSED and living is Admission.LET_IN:
        return replace(state, bad_since=None, problem="", good_at=now, tried_at=now)
    if canary is Admission.LET_IN:
        problem = "the broker lets in a certificate that was revoked"
    elif Admission.UNKNOWN in (canary, living):
        problem = "the broker cannot be reached, or ends connections without an answer"
    else:
        problem = "the broker refuses a certificate that was not revoked, so no device can connect"
    return replace(state, bad_since=state.bad_since or now, problem=problem, tried_at=now)


def alarm_of(state: ListState, now: datetime, patience: timedelta) -> str:
    """Return what people must be called for, "" for nothing."""
    if state.bad_since is not None and now - state.bad_since >= patience:
        return state.problem
    if state.expires - now < LEAST_LEFT:
        return f"the list of revoked certificates expires at {state.expires.isoformat(timespec='minutes')} and was not issued again"
    return ""


class CutOff:
    """One thread. Thread-safe."""

    def __init__(
        self,
        broker: Broker,
        fleet: RevokedFleet,
        signing: SigningService,
        forget: Callable[[Sequence[DeviceId]], bool],
        clock: Clock,
        instance: str,
        *,
        alarm_after: timedelta | None = None,
    ) -> None:
        """Wire the parts; `start` runs the thread. The broker has been started. forget: removes what the broker retains of devices."""
        self._broker = broker
        self._endpoint = broker.endpoint
        self._revocation = fleet.revocation
        self._signing = signing
        self._feed = fleet.feed
        self._forget = forget
        self._clock = clock
        self._instance = instance
        self._is_external = self._endpoint.kind is BrokerKind.EXTERNAL
        self._patience = alarm_after or (ALARM_AFTER_EXTERNAL if self._is_external else ALARM_AFTER)
        self._pause = TRY_EXTERNAL_EVERY if self._is_external else timedelta(0)
        self._refused: RefusedCertificates | None = None
        self._canary: BriefIdentity | None = None
        self._is_handed_over = False
        begun = clock.now()
        self._state = ListState((-1, None, ""), begun - ISSUE_EVERY, begun + ISSUE_EVERY + LEAST_LEFT, begun)
        self._alarm = ""
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._unsubscribe: Callable[[], None] = _nothing
        self._thread = threading.Thread(target=self._run, name="gateway-cut-off", daemon=True)

    def start(self) -> None:
        """Run the thread."""
        self._unsubscribe = self._revocation.subscribe(lambda _device: self._awake.set())
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Blocks for a few seconds at most."""
        self._unsubscribe()
        self._unsubscribe = _nothing
        self._stopping.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def check(self) -> str:
        """Return a line for `/readyz`. Raises RevocationNotInForceError, for a broker that this server runs."""
        if self._alarm and not self._is_external:
            raise RevocationNotInForceError(self._alarm)
        if self._alarm:
            return f"not in force: {self._alarm}"
        return "in force" if self._state.in_force else "not in force yet"

    def in_force(self) -> float:
        """Return 1 while the broker goes by the newest list, else 0; for `/metrics`."""
        return 1.0 if self._state.in_force else 0.0

    def left_s(self) -> float:
        """Return for how many seconds the newest list is valid; for `/metrics`."""
        return (self._state.expires - self._clock.now()).total_seconds()

    # ---- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
            except (EdgefleetError, SQLAlchemyError, OSError) as error:
                why = error.message if isinstance(error, EdgefleetError) else type(error).__name__
                _log.warning("revocation not carried out", extra={"reason": why})
                self._state = replace(
                    self._state, bad_since=self._state.bad_since or self._clock.now(), problem=f"it failed: {why}"
                )
            except Exception:  # noqa: BLE001  # the outermost loop of this thread: revocation must go on
                _log.exception("revocation failed")
            self._tell()
            self._awake.wait(POLL_S)
            self._awake.clear()

    def _round(self) -> None:
        now, mark = self._clock.now(), (*self._signing.revocation_mark(), self._signing.cas.mark())
        if is_due(self._state, mark, now) or self._refused is None:
            self._issue(mark, now)
        is_tried = is_to_try(self._state, now, self._pause)
        if is_tried:
            self._put_in_force()
        if self._state.in_force or (self._is_external and is_tried):
            self._cut_off()

    def _issue(self, mark: ListMark, now: datetime) -> None:
        self._signing.renew_own(self._instance)
        self._refused, self._canary = self._signing.refused_certificates(self._instance)
        self._is_handed_over = False
        self._state = ListState(mark, now, self._refused.expires, self._state.bad_since or now, self._state.problem)

    def _put_in_force(self) -> None:
        """Hand the list over unless that is done, and try the broker until it goes by it, SETTLE_S at most; an external one once."""
        assert self._refused is not None
        problem = self._state.problem
        if not self._is_handed_over:
            self._is_handed_over = self._broker.refuse(self._refused)
        until_s = self._clock.monotonic_s() + SETTLE_S
        while not self._stopping.is_set():
            self._try()
            if self._state.in_force or self._is_external or self._clock.monotonic_s() >= until_s:
                break
            self._stopping.wait(SETTLE_STEP_S)
        if not self._state.in_force:  # the next round writes it once more, and the broker reads it again
            self._is_handed_over = False
        if self._state.problem not in ("", problem):  # once, however often it is tried
            _log.warning("list of revoked certificates not in force", extra={"reason": self._state.problem})

    def _try(self) -> None:
        assert self._canary is not None
        canary = try_connect(self._endpoint, self._canary)
        living = try_connect(self._endpoint, self._signing.brief_identity(self._canary.name))
        self._state = tried(self._state, canary, living, self._clock.now())

    def _cut_off(self) -> None:
        devices = self._revocation.not_cut_off(BATCH)
        gone = [device for device in devices if self._evict(device)]
        if not gone or not self._forget(gone) or not self._state.in_force:
            return
        self._revocation.cut_off(gone)
        _log.info("revoked devices cut off", extra={"devices": len(gone)})
        if len(devices) == BATCH:
            self._awake.set()

    def _evict(self, device: DeviceId) -> bool:
        """End a device's session by a connection in its name; the embedded broker has ended it when it took the list."""
        if self._endpoint.kind is BrokerKind.EMBEDDED:
            return True
        return try_connect(self._endpoint, self._signing.brief_identity(device)) is Admission.LET_IN

    def _tell(self) -> None:
        """Say once that something is wrong, and once that it is right again."""
        alarm = alarm_of(self._state, self._clock.now(), self._patience)
        if bool(alarm) is bool(self._alarm):
            self._alarm = alarm
            return
        try:
            kind = "revocation_failed" if alarm else "revocation_in_force"
            self._feed.add([NewEvent(kind, detail={"reason": alarm} if alarm else {})])
        except SQLAlchemyError as error:  # tried again with the next round
            _log.warning("event not stored", extra={"reason": type(error).__name__})
            return
        self._alarm = alarm
        if alarm:
            _log.error("revoked devices may still connect, or others cannot", extra={"reason": alarm})
        else:
            _log.info("revocation in force again")


def _nothing() -> None:
    return None
