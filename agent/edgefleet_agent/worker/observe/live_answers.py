"""The newest answers of a worker while somebody watches its device (ADR 0044): what was said, never what was asked.

1. `answered` runs in whichever thread answers: it appends to a bounded deque. Only what is sent is labelled, in the event loop.
2. The bundle's privacy policy decides: with `outputs` false a line tells that there was an answer, how long it took, and no more.
"""

import time
from collections import deque
from collections.abc import Mapping

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.worker.control.protocol import Seen
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import MAX_LABELS, PredictionLine
from edgefleet_runtime.port import Array

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

    def answered(self, trace_id: str, outputs: Mapping[str, Array], run_s: float, *, nonfinite: bool) -> None:
        """Note one answer. From any thread; answers come from one at a time."""
        self._newest.append((time.perf_counter(), trace_id, outputs, run_s, nonfinite))
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
