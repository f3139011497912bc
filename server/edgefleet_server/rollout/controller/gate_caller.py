"""Asks the webhook gates of running rollouts, and writes down what they say. Any number of processes may run it.

A tick never calls others over HTTP: its transaction must not wait for them. A tick says in the
cell's code what it waits for; that is when a gate is asked; the next tick finds the answer among its facts. Which gates are asked when,
and what an answer means, is in `analysis.stage_gates`.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import Database
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.rollout.model import Answered
from edgefleet_server.rollout.spec.model import WebhookGate
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.store import webhook_gates
from edgefleet_server.rollout.store.webhook_gates import DueCall

POLL_S: Final = 1.0
AT_ONCE: Final = 32
MAX_BODY_CHARS: Final = 500
STOP_WAIT_S: Final = 3.0

_log = logging.getLogger(__name__)


class GateCaller:
    """Asks gates for one process."""

    def __init__(self, db: Database, clock: Clock, wake: Callable[[], None], poster: HttpPoster, owner: str) -> None:
        """Wire the parts. wake: called when an answer is stored, so that the controller looks at once."""
        self._db = db
        self._poster = poster
        self._clock = clock
        self._wake = wake
        self._owner = owner
        self._free = threading.Semaphore(AT_ONCE)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="gate")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gates", daemon=True)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is being asked just now is asked again by the process that runs next."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.ident is not None:
            self._thread.join(STOP_WAIT_S)

    def tick(self) -> int:
        """Ask every gate whose turn it is, each on a thread of its own; return how many."""
        room = 0
        while room < AT_ONCE and self._free.acquire(blocking=False):
            room += 1
        taken: list[DueCall] = []
        try:
            now = self._clock.now()
            with self._db.read() as session:
                is_due = room > 0 and webhook_gates.is_any_due(session, now)
            if is_due:
                with self._db.session() as session:
                    taken = webhook_gates.claim(session, now, room)
        finally:
            for _ in range(room - len(taken)):
                self._free.release()
        for call in taken:
            self._pool.submit(self._attempt, call)
        return len(taken)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self.tick()
            except (SQLAlchemyError, EdgefleetError, OSError):
                _log.exception("gates could not be looked through; trying again")

    def _attempt(self, call: DueCall) -> None:
        try:
            self.ask(call)
        except Exception:  # noqa: BLE001  # the outermost call of a thread: a bug in one must not stop the others for good
            _log.exception("asking a gate failed", extra={"rollout_id": call.rollout, "stage": call.stage})
        finally:
            self._free.release()

    def ask(self, call: DueCall) -> None:
        """Ask one gate and store its answer. Blocks as long as the gate's timeout."""
        gate = stored_spec(call.spec).stages[call.stage].gates[call.place]
        answer = self._answer(call, gate)
        with self._db.session() as session:
            webhook_gates.note(session, call, answer, self._clock.now() + gate.every)
        details = {"rollout_id": call.rollout, "gate": gate.name, "status": answer.status, "error": answer.error}
        _log.info("gate asked", extra=details)
        self._wake()

    def _answer(self, call: DueCall, gate: WebhookGate) -> Answered:
        body = msgspec.json.encode(_question(call, gate, stored_spec(call.spec).stages[call.stage].name))
        try:
            timeout_s = gate.timeout.total_seconds()
            posted = self._poster.post(gate.url, body, {"content-type": "application/json"}, timeout_s)
        except EdgefleetError as error:
            return Answered(at=self._clock.now().timestamp(), error=error.message)
        text = posted.body[:MAX_BODY_CHARS].replace("\0", "")
        return Answered(at=self._clock.now().timestamp(), status=posted.status, body=text)


def _question(call: DueCall, gate: WebhookGate, stage: str) -> dict[str, Any]:
    """Return what a gate is sent: Flagger's fields, and ours in `metadata`."""
    return {
        "name": call.name or call.rollout,
        "namespace": "edgefleet",
        "phase": "Waiting" if call.cell_state == "pending" else "Progressing",
        "type": gate.kind.value,
        "metadata": {
            "rollout": call.rollout,
            "release": call.release,
            "stage": stage,
            "stratum": call.stratum,
            "state": call.cell_state,
            "reason": call.cell_reason,
        },
    }
