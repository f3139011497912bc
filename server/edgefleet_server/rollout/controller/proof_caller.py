"""Has bundles checked about which a failure is asked, one at a time, and writes down what the check found. Every process may run it.

A tick never runs a model: its transaction must not wait for one. An open question says that it needs a proof; the next tick finds it.
A check that could not be made is written down as well: it speaks neither for nor against the bundle, and is not made again.
Source: ADR 0087.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import ErrorClass
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.reader import DesiredReader
from edgefleet_server.rollout.model import Proof
from edgefleet_server.rollout.spec.model import profile_of
from edgefleet_server.rollout.store import confirmation_rows
from edgefleet_server.rollout.store.confirmation_rows import DueProof

POLL_S: Final = 1.0
STOP_WAIT_S: Final = 10.0

_log = logging.getLogger(__name__)


class Checked(Protocol):
    """What a check of a bundle found."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        ...

    @property
    def what(self) -> str:
        """In words what was checked, or what failed."""
        ...


class Prover(Protocol):
    """Checks bundles."""

    def prove(
        self, ref: ReleaseRef, profile: ProfileName, sha256: Sha256, error_class: ErrorClass, envelope: bytes = b""
    ) -> Checked:
        """Check a bundle, and the signed document that offers it. Raises EdgefleetError when it could not be checked."""
        ...

    def stop(self) -> None:
        """End what is being made."""
        ...


class ProofCaller:
    """Has bundles checked for one process."""

    def __init__(
        self, db: Database, clock: Clock, wake: Callable[[], None], prover: Prover, documents: DesiredReader
    ) -> None:
        """Wire the parts. wake: called when a proof is stored, so that the controller looks at once."""
        self._db = db
        self._clock = clock
        self._wake = wake
        self._prover = prover
        self._documents = documents
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proofs", daemon=True)

    def start(self) -> None:
        """Check from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is being checked just now is checked again by the process that runs next."""
        self._stopping.set()
        self._prover.stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_WAIT_S)

    def tick(self) -> bool:
        """Have one bundle checked, if one is due; return whether one was. Blocks as long as the check."""
        now = self._clock.now()
        with self._db.read() as session:
            if not confirmation_rows.is_any_due(session, now):
                return False
        with self._db.session() as session:
            due = confirmation_rows.claim(session, now)
        if due is None:
            return False
        proof = self._proof(due)
        if self._stopping.is_set() and proof.is_ok is None:
            return False  # it was interrupted: its lease runs out
        with self._db.session() as session:
            confirmation_rows.note(session, due, proof)
        _log.info("bundle checked", extra={"rollout_id": due.rollout, "ok": proof.is_ok, "what": proof.what})
        self._wake()
        return True

    def _proof(self, due: DueProof) -> Proof:
        one = due.confirmation
        ref = ReleaseRef.parse(f"{due.model}@{due.version}")
        try:
            signed = self._documents.of_device(one.words[0])
            profile, error_class = ProfileName(profile_of(one.stratum)), ErrorClass(one.error_class)
            envelope = b"" if signed is None else signed.envelope  # a revoked device has no document any more
            found = self._prover.prove(ref, profile, Sha256(one.sha256), error_class, envelope)
        except EdgefleetError as error:
            return Proof(is_ok=None, what=f"the server could not check the bundle: {error.message}")
        except Exception as error:  # noqa: BLE001  # of untrusted bytes: one bundle must not end the checks of all others
            _log.exception("checking a bundle failed", extra={"rollout_id": due.rollout})
            return Proof(
                is_ok=None, what=f"the server could not check the bundle ({type(error).__name__}): see its log"
            )
        return Proof(is_ok=found.ok, what=found.what)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                while not self._stopping.is_set() and self.tick():
                    pass
            except (SQLAlchemyError, EdgefleetError, OSError):
                _log.exception("no bundle could be checked; trying again")
