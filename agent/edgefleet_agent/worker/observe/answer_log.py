"""What a worker notes of its answers: a line each for the prediction log, and now and then one for the capture.

1. `answered` is called by `settle`, in whichever thread, and must cost microseconds: it appends to lists. Everything else happens in the
   event loop, EVERY_S after `wake`, and only then.
2. A worker writes no file: blocks and sealed records go to agentd over the control socket. What does not fit there is lost and
   counted, an answer never waits for it.
3. While somebody watches the device (ADR 0044), `LiveAnswers` keeps the newest answers: what was said, never what was asked. The
   bundle's privacy policy decides: with `outputs` false a line says that there was an answer, how long it took, and no more.
4. A trace id names one answer: the caller's own where it sends one, else the worker's prefix and a counter.
"""

import asyncio
import itertools
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgefleet_agent.captures.prediction_log import Block, Row, pack_block
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.worker.control.protocol import (
    LABELS_AHEAD,
    LABELS_PER_S,
    Captured,
    Label,
    Labels,
    Predictions,
    Seen,
    Start,
    ToAgentd,
)
from edgefleet_agent.worker.observe.kept_log import Caller, KeptLog
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import MAX_LABELS, PredictionLine
from edgefleet_runtime.port import Array

EVERY_S = 1.0
MAX_ROWS = 512
SEND_BYTES = 64 * 1024
SEND_PAUSE_S = 0.05
LABELS_AT_ONCE = 100
"""Of feedback in one message: with all their figures it fits a control packet."""
TRACE_HEADER = b"x-edgefleet-trace"
_TRACE = re.compile(rb"[!-~]{1,64}")


class Tap(Protocol):
    """Who else hears of answers: the capture. is_drifting: signals drift, so that more answers are worth keeping."""

    is_drifting: bool

    def answered(
        self,
        trace_id: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        classes: Sequence[int],
        *,
        at_s: float,
    ) -> bool:
        """Look at one answer; True when it will be told. at_s: when it was given, `time.perf_counter`."""
        ...

    def keep(
        self, reason: str, inputs: Mapping[str, Array], outputs: Mapping[str, Any], *, difference: float = 0.0
    ) -> None:
        """Take part in the sampling by hand."""
        ...

    def flag(self, trace_id: str) -> bool:
        """Keep an answer that was given a moment ago; False when it is not remembered."""
        ...

    @property
    def left_s(self) -> float | None:
        """Seconds until there is something to tell; None: there is nothing."""
        ...

    def end_window(self) -> Sequence[Captured]:
        """Return what is to be sent to agentd, and begin again."""
        ...


class AnswerLog:
    """The notes of one worker. `tap` is None while nothing is captured, `live` while nobody watches."""

    def __init__(
        self,
        start: Start,
        first_output: str,
        send: Callable[[ToAgentd], bool | None],
        number: Callable[[Array], float] | None = None,
    ) -> None:
        """Name who is watched. Call it in the event loop. first_output: whose value is the score. send: to agentd; False: it is lost.

        number: of an output that is no classification, its first number as it is answered.
        """
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._first_output = first_output
        self._number = number or (lambda output: _score(output, 0))
        self._send = send
        self._clock = SystemClock()
        self._prefix = secrets.token_hex(4)
        self._traces = itertools.count(1)
        # a deque: one thread may append while another takes from the front
        self._rows: deque[tuple[float, str, float, int, float, bool]] = deque(maxlen=16 * MAX_ROWS)
        self._outgoing: deque[Captured] = deque()
        self._label_room, self._labels_s = float(LABELS_AHEAD), time.monotonic()
        self.is_due = False
        self.tap: Tap | None = None
        self.live: LiveAnswers | None = None
        self.kept: KeptLog | None = None
        self.settle: Callable[[], None] = lambda: None
        """Called before anything is told or flagged: hands over the answers that were put down elsewhere."""

    def trace_of(self, header: bytes | None) -> str:
        """Return the trace id of a request: the caller's if it is a usable one."""
        if header is not None and _TRACE.fullmatch(header) is not None:
            return header.decode("ascii")
        return self.new_trace()

    def new_trace(self) -> str:
        """Return a trace id that no answer of this worker has had. From any thread."""
        return f"{self._prefix}{next(self._traces):08x}"

    def wake_if_read(self) -> None:
        """`wake` when answers are told to anybody: a log, a capture, or somebody who watches. From any thread."""
        readers = (self.tap, self.live, self.kept)
        if self._start.log_predictions or any(one is not None for one in readers):
            self.wake()

    def answered(
        self,
        at_s: float,
        trace_id: str,
        inputs: Mapping[str, Array] | None,
        outputs: Mapping[str, Array],
        classes: Sequence[int],
        run_s: float,
        *,
        nonfinite: bool,
    ) -> None:
        """Note one answer. at_s: when it was given, `time.perf_counter`. inputs: None when they are not for a capture. From any thread."""
        tap, live = self.tap, self.live
        if tap is not None and inputs is not None:
            tap.answered(trace_id, inputs, outputs, classes, at_s=at_s)
        if live is not None:
            live.answered(at_s, trace_id, outputs, run_s, nonfinite=nonfinite)
        if self._start.log_predictions:
            top = classes[0] if classes else -1
            first = outputs[self._first_output]
            score = self._number(first) if top < 0 else _score(first, top)
            self._rows.append((at_s, trace_id, run_s, top, score, nonfinite))

    def failed(self, status: str, trace_id: str, caller: Caller, run_s: float = 0.0) -> None:
        """Note that a caller got no answer. status: error or timeout. From any thread."""
        if self.kept is not None:
            self.kept.failed(status, trace_id, caller, run_s)
            self.wake()

    def keep(
        self, reason: str, inputs: Mapping[str, Array], outputs: Mapping[str, Any], *, difference: float = 0.0
    ) -> None:
        """Offer an input to the capture, as a shadow does with what it disagrees on; nothing happens while none is wanted."""
        if self.tap is not None:
            self.tap.keep(reason, inputs, outputs, difference=difference)
            self.wake()

    def flag(self, trace_id: str) -> bool:
        """Keep an answer that was given a moment ago; False when it is not remembered, or nothing is captured."""
        self.settle()
        found = self.tap is not None and self.tap.flag(trace_id)
        if found:
            self.wake()
        return found

    def wake(self) -> None:
        """Have everything told EVERY_S from now. From any thread."""
        if not self.is_due:
            self.is_due = True
            self._loop.call_soon_threadsafe(self._loop.call_later, EVERY_S, self._tick)

    def _tick(self) -> None:
        self.is_due = False
        self._flush()
        seen = self.live.take() if self.live is not None else None
        if seen is not None:
            self._send(seen)
        left_s = self.tap.left_s if self.tap is not None else None
        if left_s is not None and left_s <= 0.0:
            self._end_window()
            self._tell_captured()
        elif left_s is not None and not self.is_due:
            self.is_due = True
            self._loop.call_later(min(EVERY_S, left_s), self._tick)

    def tell_labels(self, labels: Sequence[Label], unit: float) -> int:
        """Tell what callers say of earlier answers, after these; return of how many it could be told. In the event loop.

        What agentd cannot pair in time would count as labels without an answer.
        """
        self._flush()
        now_s = time.monotonic()
        room = min(LABELS_AHEAD, self._label_room + LABELS_PER_S * (now_s - self._labels_s))
        taken = labels[: int(room)]
        n = 0
        for at in range(0, len(taken), LABELS_AT_ONCE):
            part = list(taken[at : at + LABELS_AT_ONCE])
            if self._send(Labels(items=part, unit=unit)) is False:
                break
            n += len(part)
        self._label_room, self._labels_s = room - n, now_s
        return n

    def tell(self) -> None:
        """Tell what is noted for the prediction log without waiting. In the event loop."""
        self._flush()

    def close(self) -> None:
        """Tell everything that is left. In the event loop."""
        self._flush()
        if self.kept is not None:
            self.kept.tell(is_last=True)
        self._end_window()
        while self._outgoing:
            self._send(self._outgoing.popleft())

    def _end_window(self) -> None:
        if self.tap is not None:
            self._outgoing.extend(self.tap.end_window())

    def _tell_captured(self) -> None:
        """Send a socket's worth of records at a time: what does not fit there is lost, also what others want to say."""
        sent = 0
        while self._outgoing and sent < SEND_BYTES:
            message = self._outgoing.popleft()
            sent += len(message.sealed)
            self._send(message)
        if self._outgoing:
            self._loop.call_later(SEND_PAUSE_S, self._tell_captured)

    def _flush(self) -> None:
        self.settle()
        if self.kept is not None:
            self.kept.tell()
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        if rows:
            now, now_ms = time.perf_counter(), int(self._clock.now().timestamp() * 1_000)
            for begin in range(0, len(rows), MAX_ROWS):
                self._tell(rows[begin : begin + MAX_ROWS], now, now_ms)

    def _tell(self, rows: list[tuple[float, str, float, int, float, bool]], now: float, now_ms: int) -> None:
        start = self._start
        began = rows[0][0]
        lines = [
            Row(int((at - began) * 1e3), trace, int(run_s * 1e6), top, score, nonfinite)
            for at, trace, run_s, top, score, nonfinite in rows
        ]
        t0_ms = now_ms - int((now - began) * 1e3)
        block = Block(1, start.model, start.version, start.digest, start.lane, t0_ms, lines)
        self._send(Predictions(body=pack_block(block), n=len(lines)))


def _score(output: Array, top: int) -> float:
    """Return the model's number for the first sample's class; 0 when there is none."""
    if output.size <= top or output.dtype.kind not in "iuf":
        return 0.0
    return float(output.item(top))  # the first sample's classes come first


MAX_LINES = 16
LABEL_CHARS = 40

_Noted = tuple[float, str, Mapping[str, Array], float, bool]


class LiveAnswers:
    """Remembers the newest `lines` answers between two tellings."""

    def __init__(self, served: ServedModel, lines: int) -> None:
        self._served = served
        self._clock = SystemClock()
        self._newest: deque[_Noted] = deque(maxlen=max(1, min(lines, MAX_LINES)))
        self._n = 0

    def answered(
        self, at_s: float, trace_id: str, outputs: Mapping[str, Array], run_s: float, *, nonfinite: bool
    ) -> None:
        """Note one answer. at_s: when it was given, `time.perf_counter`. From any thread; answers come from one at a time."""
        self._newest.append((at_s, trace_id, outputs, run_s, nonfinite))
        self._n += 1

    def take(self) -> Seen | None:
        """Return what there is to tell and begin again; None when there was no answer."""
        noted = [self._newest.popleft() for _ in range(len(self._newest))]
        n, self._n = self._n, 0
        if not noted:
            return None
        now, now_ms = time.perf_counter(), int(self._clock.now().timestamp() * 1_000)
        return Seen([self._line(one, now_ms - int((now - one[0]) * 1e3)) for one in noted], max(n, len(noted)))

    def _line(self, noted: _Noted, at_ms: int) -> PredictionLine:
        _, trace_id, outputs, run_s, nonfinite = noted
        start, is_hidden = self._served.start, not self._served.privacy.outputs
        best: list[tuple[str, float]] = []
        if not is_hidden:
            try:
                best = self._served.postprocess.glance(outputs, MAX_LABELS)
            except EdgefleetError:
                best = []  # the caller learned what is wrong with it
        return PredictionLine(
            model=start.model,
            version=start.version,
            lane=start.lane,
            trace_id=trace_id,
            at=at_ms,
            latency_us=int(run_s * 1e6),
            labels=[label[:LABEL_CHARS] for label, _ in best],
            scores=[float(f"{score:.4g}") for _, score in best],
            nonfinite=nonfinite,
            hidden=is_hidden,
        )
