"""agentd's side of prediction log and capture: what workers tell goes to the disk, what was asked for goes to the outbox.

1. Capture is on while all of this holds: the device's consent (`capture_consent`), a tenant's key in the verified desired document,
   and, where the device pins a key (`capture_key`), that one. Withdrawn consent removes what was captured.
2. Task `capture` {model, reason, limit}: the newest matching records are put into the outbox one by one, each removed when the server
   has stored it. A last message with `left` 0 ends the task; a restart goes on with what is left.
3. What is shown to who watches the device (`live`) passes through here too.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgefleet_agent.captures.live_view import LiveView
from edgefleet_agent.captures.log_upload import PredictionUpload, as_message
from edgefleet_agent.captures.prediction_log import FLUSH_S, PredictionLog
from edgefleet_agent.captures.store import CaptureRecord, CaptureStore
from edgefleet_agent.connection.outbox import Kind, Outbox
from edgefleet_agent.core.durable import write_file
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.records import DesiredOk, TaskRequest
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.protocol import (
    AnswersTold,
    Captured,
    ForAll,
    Logged,
    Predictions,
    Seen,
    SetCapture,
    TellAnswers,
    ToAgentd,
)
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import Sample, encode

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 100
IN_OUTBOX = 2
SALT_BYTES = 32
HOUR_S = 3_600.0
WRITE_OUT_S = 2.0
"""A worker that tells nothing for so long, because a request keeps it busy or it has just died, is not waited for."""

log = logging.getLogger(__name__)


class CaptureDeps(msgspec.Struct, frozen=True):
    """What the recorder needs of the rest of agentd. All are called in the loop.

    send_to_all: to every worker, returns to how many. pump: the sender looks for something to send. finish: a task `capture` is over.
    show: what `status` says of the logs has changed.
    """

    send_to_all: Callable[[ForAll], int]
    pump: Callable[[], None]
    finish: Callable[[str], None]
    show: Callable[[], None]


@dataclass
class _WriteOut:
    """A reader of the log who waits. workers: so many have not told yet."""

    workers: int
    done: Callable[[bool], None]


class CaptureRecorder:
    """Everything about predictions and captures. Only in the loop's thread."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        loop: Loop,
        clock: Clock,
        settings: AgentSettings,
        paths: StatePaths,
        outbox: Outbox,
        device: str,
        boot_id: str,
        deps: CaptureDeps,
    ) -> None:
        now_s = clock.monotonic_s()
        self._loop = loop
        self._clock = clock
        self._settings = settings
        self._paths = paths
        self._outbox = outbox
        self._device = device
        self._boot_id = boot_id
        self._log = PredictionLog(
            paths.predictions, settings.prediction_log_bytes, settings.prediction_log_daily_bytes, now_s
        )
        self._flush_is_due = False
        self._write_outs: dict[int, _WriteOut] = {}
        self._write_out_number = 0
        self.store = CaptureStore(
            paths.captures, settings.capture_bytes, settings.capture_days, settings.capture_daily_bytes, now_s
        )
        self._fetches: list[tuple[TaskRequest, list[str]]] = []
        self._seq = 0
        self._on_the_way: dict[int, tuple[str, str]] = {}
        self._parts_on_the_way: dict[int, str] = {}
        self._rules = SetCapture()
        self._deps = deps
        self.upload = PredictionUpload(loop, clock, settings, paths, device, self.store.forget, self._part_closed)
        self.live = LiveView(loop, clock, settings, device, boot_id, deps.send_to_all, deps.pump)
        if not settings.capture_consent:
            self.store.clear()
        loop.call_later(HOUR_S, self._hourly)

    def _part_closed(self) -> None:
        self._deps.show()
        self._deps.pump()

    @property
    def is_capturing(self) -> bool:
        """Whether records are taken now."""
        return bool(self._rules.key)

    def close(self) -> None:
        """Write what is pending."""
        self._log.flush()
        self.upload.close()

    def write_out(self, done: Callable[[bool], None]) -> None:
        """Write all answers up to now for a reader of the log. done: called afterwards; False when a worker told nothing in time."""
        self._write_out_number += 1
        number = self._write_out_number
        self._write_outs[number] = _WriteOut(self._deps.send_to_all(TellAnswers(number)), done)
        self._loop.call_later(WRITE_OUT_S, lambda: self._written_out(number, is_whole=False))
        self._told(number, 0)

    def _told(self, number: int, workers: int) -> None:
        """So many workers told what they held; the last one ends the request, unless it ended before."""
        waiting = self._write_outs.get(number)
        if waiting is None:
            return
        waiting.workers -= workers
        if waiting.workers <= 0:
            self._written_out(number, is_whole=True)

    def _written_out(self, number: int, *, is_whole: bool) -> None:
        waiting = self._write_outs.pop(number, None)
        if waiting is not None:
            self._log.flush()
            waiting.done(is_whole)

    def _hourly(self) -> None:
        """Let records go after their days, also when no document comes for months."""
        self.store.expire(self._now_ms())
        self._loop.call_later(HOUR_S, self._hourly)

    # ---- from the document

    def follow(self, desired: DesiredOk) -> None:
        """Follow a verified document."""
        self._set_rules(desired)
        try:
            order = self.upload.follow(desired, self._salt)
        except (OSError, ValueError) as error:
            log.warning("no prediction log", extra={"reason": str(error)})
        else:
            if order is not None:
                self._deps.send_to_all(order)
        self.live.follow(desired)
        self._deps.pump()

    def _set_rules(self, desired: DesiredOk) -> None:
        key = desired.capture_key if self._settings.capture_consent else ""
        pinned = self._settings.capture_key.lower()
        if key and pinned and key != pinned:
            log.warning("capture is off: the document names another key than the device pins", extra={"key": key[:16]})
            key = ""
        rules = SetCapture()
        if key:
            try:
                rules = SetCapture(
                    bytes.fromhex(key),
                    self._salt(),
                    self._device,
                    self._settings.capture_random_ratio,
                    self._settings.capture_window_s,
                )
            except OSError as error:
                log.warning("capture is off: no salt for hashed fields", extra={"reason": str(error)})
        if rules != self._rules:
            self._rules = rules
            log.info("capture", extra={"on": self.is_capturing})
            self._deps.send_to_all(rules)

    def _salt(self) -> bytes:
        """Return this device's salt, made at first use. Raises OSError."""
        path = self._paths.capture_salt
        try:
            salt = path.read_bytes()
        except FileNotFoundError:
            salt = b""
        if len(salt) != SALT_BYTES:
            salt = secrets.token_bytes(SALT_BYTES)
            write_file(path, salt)
        return salt

    # ---- from workers

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer: tell it the rules."""
        if self.is_capturing:
            worker.send(self._rules)
        self.upload.on_ready(worker)
        self.live.on_ready(worker)

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take a message that is for the log or the captures; False for all others."""
        now_s = self._clock.monotonic_s()
        if isinstance(message, Predictions):
            is_full = self._log.is_on and self._log.add(message.body, message.n, now_s)
            if is_full:
                self._log.flush()
            elif not self._flush_is_due:
                self._flush_is_due = True
                self._loop.call_later(FLUSH_S, self._flush)
            return True
        if isinstance(message, Logged):
            self.upload.hear(worker, message)
            return True
        if isinstance(message, AnswersTold):
            self._told(message.number, 1)
            return True
        if isinstance(message, Captured):
            if self.is_capturing and message.key:
                self.store.add(_record(worker, message), now_s)
            return True
        if isinstance(message, Seen):
            self.live.hear(message.lines, message.n)
            return True
        return False

    def _flush(self) -> None:
        self._flush_is_due = False
        self._log.flush()

    # ---- the task

    def begin_fetch(self, request: TaskRequest) -> None:
        """Begin a task `capture`; `CaptureDeps.finish` is called when the server has its last record."""
        args = request.args
        limit = args.get("limit", DEFAULT_LIMIT)
        chosen = self.store.select(
            str(args.get("model", "")),
            str(args.get("reason", "")),
            min(limit, MAX_LIMIT) if isinstance(limit, int) else DEFAULT_LIMIT,
        )
        self._fetches.append((request, [entry.name for entry in chosen]))
        self._deps.pump()

    def next_sample(self) -> None:
        """Put the next record that was asked for into the outbox, when the ones before are on their way; else the next part of a log."""
        if self._outbox.waiting(Kind.SAMPLE) >= IN_OUTBOX:
            return
        if not self._fetches:
            self._next_part()
            return
        request, names = self._fetches[0]
        record = None
        while names and (record := self.store.read(names[0])) is None:
            names.pop(0)
        seq = self._seq + 1
        sample = self._sample(request, record, seq, max(0, len(names) - 1))
        if not self._outbox.add(Kind.SAMPLE, self._boot_id, seq, encode(sample), self._clock.monotonic_s()):
            return
        self._seq = seq
        name = names.pop(0) if names else ""
        if not names:
            self._fetches.pop(0)
        self._on_the_way[seq] = (name, "" if names else request.id)

    def _next_part(self) -> None:
        if not self._outbox.waiting(Kind.SAMPLE):  # what it gave up for want of room goes again
            while self._parts_on_the_way:
                self.upload.stored(self._parts_on_the_way.popitem()[1], is_there=False)
        part = self.upload.next_sample()
        if part is None:
            return
        seq = self._seq + 1
        message = encode(as_message(part, self._boot_id, seq, self._now_ms()))
        if not self._outbox.add(Kind.SAMPLE, self._boot_id, seq, message, self._clock.monotonic_s()):
            self.upload.stored(part.record, is_there=False)
            return
        self._seq = seq
        self._parts_on_the_way[seq] = part.record

    def _sample(self, request: TaskRequest, record: CaptureRecord | None, seq: int, left: int) -> Sample:
        common: dict[str, Any] = {"device": self._device, "boot_id": self._boot_id, "seq": seq, "ts": self._now_ms()}
        if record is None:
            return Sample(**common, task=request.id, left=left)
        return Sample(
            **common,
            task=request.id,
            left=left,
            record=record.record,
            model=record.model,
            sha256=record.sha256,
            reason=record.reason,
            label=record.label,
            trace_id=record.trace_id,
            taken=record.taken_ms,
            seen=record.seen,
            key=record.key,
            sealed=record.sealed,
        )

    def stored(self, boot_id: str, seqs: list[int]) -> None:
        """The server has these samples: they go from here, and with the last one its task is done."""
        for seq in seqs if boot_id == self._boot_id else ():
            if seq in self._parts_on_the_way:
                self.upload.stored(self._parts_on_the_way.pop(seq))
            name, task = self._on_the_way.pop(seq, ("", ""))
            if name:
                self.store.remove(name)
            if task:
                self._deps.finish(task)

    def heads(self) -> dict[str, list[object]]:
        """Return how far each prediction log is, for the state: the server may not have less, nor another one."""
        return self.upload.heads()

    def status(self) -> dict[str, object]:
        """Return what is captured, for `edge-agent status`."""
        store = self.store
        return {
            "consent": self._settings.capture_consent,
            "on": self.is_capturing,
            "records": len(store),
            "bytes": store.size_bytes,
            "by_reason": store.counts(),
            "refused": store.refused,
            "evicted": store.evicted,
            "logs": self.upload.status(),
        }

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)


def _record(worker: Worker, message: Captured) -> CaptureRecord:
    return CaptureRecord(
        record=message.record,
        model=worker.model,
        version=worker.ref.version,
        sha256=worker.ref.sha256,
        reason=message.reason,
        label=message.label,
        trace_id=message.trace_id,
        taken_ms=message.taken_ms,
        seen=message.seen,
        key=message.key,
        sealed=message.sealed,
    )
