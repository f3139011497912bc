"""What a worker keeps of each answer for the log that is sent (ADR 0105): its number, then what was said, sealed where there is a key.

1. `number` is called before an answer goes out. The count lies in a mapped file: a killed worker leaves behind how many there were.
2. `answered` and `failed` come later, from whichever thread, each number once. `tell` sends what is there up to the first number that is
   still missing, in order: agentd sees a gap only where there is one.
3. With a key each body is encrypted with a key of this process, changed every EPOCH answers and sealed to the tenant's: nothing on the
   device opens it once the key is forgotten.
"""

import logging
import mmap
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgefleet_agent.worker.control.protocol import Entry, Logged, LogRequest, SetLog, ToAgentd
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import MAX_LABELS
from edgefleet_protocol.prediction_parts import Answer, pseudonym
from edgefleet_runtime import privacy
from edgefleet_runtime.port import Array

EPOCH = 10_000
TELL_BYTES = 24 * 1024
MAX_NUMBERS = 64
MAX_CLASSES = 256
MAX_FIELD_BYTES = 8 * 1024
MAX_BODY_BYTES = 32 * 1024
"""A model with very many or very long names: then only classes, key and subject of the answer are kept."""
ROW_BYTES = 120
WAITING = 8 * 1024
"""Answers that wait to be told; what comes then is lost, and a gap."""

_log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class Caller(NamedTuple):
    """What a caller said of itself with a request."""

    key: str = ""
    subject: str = ""


NOBODY = Caller()


class Given(NamedTuple):
    """An answer, or that there was none. at_s: `time.perf_counter`. status: as in `Row`."""

    number: int
    at_s: float
    trace_id: str
    status: str
    run_s: float
    caller: Caller


class KeptLog:
    """The numbered answers of one worker."""

    def __init__(self, served: ServedModel, send: Callable[[ToAgentd], None], now_ms: Callable[[], int]) -> None:
        self._served = served
        self._send = send
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._count: mmap.mmap | None = None
        self._n = 0
        self._told = 0
        self._awaited = 0
        self._noted: dict[int, tuple[Entry, tuple[bytes, str]]] = {}
        self._rules: LogRequest | None = None
        self._order = SetLog()
        self._seal: Callable[[int, bytes], bytes] | None = None
        self._epoch = (b"", "")
        self._epoch_to = 0
        self.wants_inputs = False

    @property
    def is_on(self) -> bool:
        """Whether answers are numbered."""
        return self._rules is not None

    def follow(self, order: SetLog) -> None:
        """Keep answers by these rules from now on. In the event loop. Raises OSError, EdgefleetError: then none are numbered."""
        self.tell(is_last=True)
        self._rules = None
        rules = order.models.get(self._served.start.model)
        self._order = order
        if rules is None:
            self.wants_inputs = False
            return
        if self._count is None:
            self._count = _counter(Path(order.counts) / f"{os.getpid()}.count")
        self._begin_epoch()
        self.wants_inputs = rules.inputs and bool(order.key)
        self._rules = rules

    def number(self) -> int:
        """Return the number of an answer that is about to be given. From any thread."""
        with self._lock:
            self._n += 1
            count = self._count
            assert count is not None
            count[:8] = self._n.to_bytes(8, "little")
            return self._n

    def answered(
        self,
        given: Given,
        inputs: Mapping[str, Array] | None,
        outputs: Mapping[str, Array],
        classes: Sequence[int],
    ) -> None:
        """Note what was answered."""
        self._note(given, self._said(given.caller, inputs, outputs, classes))

    def failed(self, status: str, trace_id: str, caller: Caller, run_s: float = 0.0) -> None:
        """Note that a caller got no answer. status: error or timeout."""
        if self.is_on:
            given = Given(self.number(), time.perf_counter(), trace_id, status, run_s, caller)
            self._note(given, self._said(caller))

    def _note(self, given: Given, said: Answer) -> None:
        rules = self._rules
        if rules is None or len(self._noted) >= WAITING:
            return
        number, at_s, trace_id, status, run_s, caller = given
        at_ms = self._now_ms() - int((time.perf_counter() - at_s) * 1e3)
        subject = pseudonym(rules.subject_key, caller.subject) if caller.subject else b""
        body = _encode(said)
        if len(body) > MAX_BODY_BYTES:
            body = _encode(Answer(classes=said.classes, key=said.key, subject=said.subject))
        with self._lock:
            sealed = self._seal(number, body) if self._seal is not None else body
            entry = Entry(at_ms, trace_id, status, int(run_s * 1e6), subject, number, sealed)
            self._noted[number] = entry, self._epoch

    def _said(
        self,
        caller: Caller,
        inputs: Mapping[str, Array] | None = None,
        outputs: Mapping[str, Array] | None = None,
        classes: Sequence[int] = (),
    ) -> Answer:
        policy = self._served.privacy
        best: list[tuple[str, float]] = []
        numbers: dict[str, tuple[list[int], list[float]]] = {}
        if outputs and policy.outputs:
            try:
                best = self._served.postprocess.glance(outputs, MAX_LABELS)
            except EdgefleetError:
                best = []  # the caller learned what is wrong with it
            for name, array in outputs.items() if not best else ():
                if array.size <= MAX_NUMBERS and array.dtype.kind in "biuf":
                    numbers[name] = (list(array.shape), [float(value) for value in array.ravel().tolist()])
        fields: dict[str, Any] = {}
        dropped: list[str] = []
        if inputs is not None and self.wants_inputs:
            served = self._served
            fields, dropped = privacy.apply(policy, served.preprocess, served.runtime.inputs, inputs, self._order.salt)
            if len(_encode(fields)) > MAX_FIELD_BYTES:
                fields, dropped = {}, sorted({*fields, *dropped})
        return Answer(
            labels=[label for label, _ in best],
            scores=[score for _, score in best],
            classes=list(classes[:MAX_CLASSES]) if policy.outputs else [],
            outputs=numbers,
            key=caller.key,
            subject=caller.subject if policy.subject == "keep" else "",
            fields=fields,
            dropped=dropped[:MAX_NUMBERS],
        )

    # ---- in the event loop

    def tell(self, *, is_last: bool = False) -> None:
        """Send what is noted, in order. A number that another thread has been given and not yet noted is waited for, once."""
        with self._lock:
            noted, self._noted = self._noted, {}
        run: list[Entry] = []
        first = size = 0
        epoch = (b"", "")
        for number in sorted(noted):
            if number <= self._told:  # it came after it was counted as lost
                continue
            if run and (number != self._told + 1 or size >= TELL_BYTES or noted[number][1] != epoch):
                self._send(Logged(first, run, *epoch))
                run = []
            if number != self._told + 1 and self._awaited != self._told + 1 and not is_last:
                self._awaited = self._told + 1
                with self._lock:
                    self._noted |= {late: one for late, one in noted.items() if late >= number}
                break
            entry, epoch = noted[number]
            if not run:
                first, size = number, 0
            run.append(entry)
            size += ROW_BYTES + len(entry.body)
            self._told = number
        if run:
            self._send(Logged(first, run, *epoch))
        if self._rules is not None and self._n >= self._epoch_to:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_to = self._n + EPOCH
        if not self._order.key:
            self._seal, self._epoch = None, (b"", "")
            return
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        from edgefleet_protocol.hpke import about_log, key_id, seal

        secret = secrets.token_bytes(32)
        start = self._served.start
        sealed = seal(self._order.key, secret, about_log(self._order.device, start.model))
        cipher = ChaCha20Poly1305(secret)
        with self._lock:
            self._epoch = (sealed, key_id(self._order.key))
            self._seal = lambda number, body: cipher.encrypt(number.to_bytes(12, "big"), body, None)


def _counter(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(fd, 8)
        return mmap.mmap(fd, 8)
    finally:
        os.close(fd)
