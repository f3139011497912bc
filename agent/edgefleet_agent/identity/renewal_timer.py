"""When agentd renews its identity, and with which identity it connects. The renewal itself is a short child (`renew`).

1. Due at two thirds of the certificate's life. A failure keeps the old identity and is tried again after 1 min, 10 min, 1 h, 6 h.
2. A renewed identity that waits in `next/` is tried first; when the broker refuses it, every other attempt uses the old one.
3. `connected` with the renewed one takes it over. With the old one, or when the disk did not take it, the new one gets another chance
   after 10 s, 1 min, 10 min, then each hour: a broker that is restarted looks like one that refuses.
4. A broker that shows a certificate of an unknown CA starts the child too: it asks what is announced.
5. A clock that is wrong can start a renewal too early, never break one: the child's TLS and the server judge, not this timer.
"""

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgefleet_agent.core.child_process import ChildProcess
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.errors import IdentityBusyError, StateFileError
from edgefleet_agent.identity.place_follower import PlaceFollower, Way, due_s
from edgefleet_agent.identity.store import Identity, load_identity
from edgefleet_agent.identity.takeover import NEXT_FOLDER, finish_take_over, identity_lock, load_next, take_over
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.clock import Clock

MODULE = "edgefleet_agent.enrolment.renew"
RETRY_S = (60.0, 600.0, 3_600.0, 21_600.0)
FIRST_LOOK_S = 10.0
"""A start has better things to do."""
TRY_NEW_AGAIN_S = (10.0, 60.0, 600.0, 3_600.0)
BUSY = 6
"""Exit code of a renewal that found somebody else at the identity, which takes moments."""

log = logging.getLogger(__name__)


class Calls(NamedTuple):
    """What the timer asks for. tell: the server's place changed."""

    reconnect: Callable[[str], None]
    renewed: Callable[[Identity], None]
    tell: Callable[[], None]


class RenewalTimer:
    """The identities of one device while agentd runs."""

    def __init__(
        self,
        loop: Loop,
        state: Path,
        folder: Path,
        clock: Clock,
        settings: AgentSettings,
        calls: Calls,
    ) -> None:
        """Read the identity."""
        self._loop = loop
        self._state = state
        self._folder = folder
        self._clock = clock
        self._command = settings.python_command
        self._look_s = settings.renew_look_s
        self._child: ChildProcess | None = None
        self._failures = 0
        self._unknown = False
        self._timer: Timer | None = None
        self._chance: Timer | None = None
        self._chances = 0
        self._calls = calls
        self._seen_next: Identity | None = None
        # busy: a renewal runs right now, and that finishes what was begun as well
        with contextlib.suppress(IdentityBusyError), identity_lock(folder):
            finish_take_over(folder)
        self.identity = load_identity(folder)
        self.places = PlaceFollower(loop, folder, self.identity.place, calls.reconnect)

    def start(self) -> None:
        """Begin to look at the time."""
        self._seen_next = self._waiting()
        self._look_in(min(FIRST_LOOK_S, self._look_s))

    def candidates(self) -> list[Way]:
        """Return what to connect with, the renewed identity first. Safe from any thread."""
        old = (self.identity, self._folder)
        new = self._waiting()
        return self.places.ways([(new, self._folder / NEXT_FOLDER), old] if new is not None else [old])

    def _waiting(self) -> Identity | None:
        """Return the renewed identity in `next/`. One that cannot be read counts as none: the next renewal replaces it."""
        try:
            return load_next(self._folder)
        except (StateFileError, OSError) as error:
            log.warning("renewed identity unreadable", extra={"reason": str(error)})
            return None

    def connected(self, folder: Path, number: int = 0) -> str:
        """The broker took the identity of this folder. Return the serial of its certificate for the server, which revokes older ones.

        "" until the renewed identity has replaced the old one on the disk: what is still needed here must not be revoked there.
        number: of the `Way`.
        """
        self.places.connected(number)
        self._unknown = False
        if self._chance is not None:
            self._chance.cancel()
        if folder == self._folder:
            if self._waiting() is not None:
                self._try_new_later()
            return self.identity.cert_serial
        try:
            with identity_lock(self._folder):
                take_over(self._folder)
        except (IdentityBusyError, OSError) as error:
            log.warning("renewed identity not taken over", extra={"reason": str(error)})
            self._try_new_later()
            return ""
        self._chances = 0
        self.identity = load_identity(self._folder)
        log.info("identity renewed", extra={"until_s": self.identity.cert_until_s})
        self._calls.renewed(self.identity)
        self._look_in(self._look_s)
        return self.identity.cert_serial

    def _try_new_later(self) -> None:
        delay_s = TRY_NEW_AGAIN_S[min(self._chances, len(TRY_NEW_AGAIN_S) - 1)]
        self._chance = self._loop.call_later(delay_s, self._try_new)

    def _try_new(self) -> None:
        self._chances += 1  # only now: one that a broken connection took away was none
        self._calls.reconnect("a renewed identity waits")

    def lost(self, reason: str) -> None:
        """The connection ended, or none came about."""
        self.places.lost()
        if "CERTIFICATE_VERIFY_FAILED" in reason and not self._unknown:
            self._unknown = True
            self._look_in(FIRST_LOOK_S)

    def offered(self, kind: str, was_judged: bool) -> None:
        """A document came on this connection."""
        self.places.came.add(kind)
        if was_judged:
            self.proved(kind)

    def proved(self, kind: str) -> None:
        """A document is verified."""
        if self.places.proved(kind):
            self.identity = load_identity(self._folder)
            self._calls.tell()
            self._look_in(0.0)

    def close(self) -> None:
        """End a running child; what it has made so far is complete or not there."""
        if self._timer is not None:
            self._timer.cancel()
        self.places.close()
        if self._child is not None:
            self._child.abandon()
            self._child = None

    def _look(self) -> None:
        waiting = self._waiting()
        if waiting is not None and waiting != self._seen_next:
            # made by `edge-agent renew` while this agent runs, or by our child
            self._seen_next = waiting
            self._calls.reconnect("a renewed identity waits")
        due_in_s = due_s(self.identity, self.places.announced) - self._clock.now().timestamp()
        if self._child is not None or waiting is not None:
            self._look_in(self._look_s)
        elif due_in_s > 0 and not self._unknown:
            self._look_in(min(due_in_s, self._look_s))
        else:
            self._start_child()

    def _look_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._look)

    def _start_child(self) -> None:
        argv = [*(self._command or (sys.executable,)), "-m", MODULE, "--state", str(self._state), "--if-due"]
        argv += ["--hear"] * self._unknown
        try:
            self._child = ChildProcess(self._loop, argv, self._ended)
        except OSError as error:
            log.warning("renewal not started", extra={"reason": str(error)})
            self._failed()
            return
        log.info("renewal started", extra={"pid": self._child.pid})

    def _ended(self, exit_code: int, _output: bytes) -> None:
        self._child = None
        if exit_code == BUSY:
            self._look_in(min(FIRST_LOOK_S, self._look_s))
            return
        if exit_code != 0:
            self._failed()
            return
        self._failures = 0
        self.places.read_again()
        self.identity = load_identity(self._folder)  # the child may have noted the life of the certificate
        self._look_in(0.0 if self._waiting() is not None else self._look_s)

    def _failed(self) -> None:
        delay_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._look_in(delay_s)
