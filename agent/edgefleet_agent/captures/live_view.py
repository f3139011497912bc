"""What the device sends while somebody watches it: the newest few answers, now and then, and only until the document says (ADR 0044).

1. The verified document says until when. The device ends it by itself: by its clock, and after LONGEST_S whatever its clock says.
2. Workers tell their newest answers each second. At most one message in EVERY_S goes out, with at most LINES lines: the newest of each
   model and lane first, so that a quiet one is seen next to a busy one. Nothing waits: what is older is forgotten.
3. A bucket of `watch_daily_bytes` of its own bounds it, so that telemetry never waits because somebody watched all day.
4. It goes last of all (`connection.sender`), is not written anywhere, and is confirmed by nobody.
5. Where the owner does not want it (`watch_predictions`), or on a metered link, one message says so and nothing follows.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from edgefleet_agent.connection.budget import OVERHEAD_BYTES, Bucket, daily
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.protocol import SetWatch
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import PredictionLine, Watched, WatchState, encode

EVERY_S = 2.0
LINES = 5
LONGEST_S = 900
_KEPT = 32

log = logging.getLogger(__name__)


def left_s(until_s: int, now_s: float) -> float:
    """Return for how long the device is watched from now on. until_s: of the document, unix seconds, 0 = it is not."""
    return min(max(0.0, until_s - now_s), LONGEST_S) if until_s > 0 else 0.0


def chosen(lines: Sequence[PredictionLine], most: int) -> list[PredictionLine]:
    """Return at most `most` of these lines, oldest first: the newest of each model and lane, then the newest of the rest."""
    newest = sorted(lines, key=lambda line: line.at, reverse=True)
    firsts: dict[tuple[str, str], PredictionLine] = {}
    for line in newest:
        firsts.setdefault((line.model, line.lane), line)
    first = list(firsts.values())
    rest = [line for line in newest if line is not firsts[line.model, line.lane]]
    return sorted([*first, *rest][:most], key=lambda line: line.at)


class LiveView:
    """Whether somebody watches, and what there is to see. Only in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        settings: AgentSettings,
        device: str,
        boot_id: str,
        send_to_all: Callable[[SetWatch], object],
        pump: Callable[[], None],
    ) -> None:
        """Know what reaches every worker, and what makes the sender look for something to send."""
        self._loop = loop
        self._clock = clock
        self._settings = settings
        self._device = device
        self._boot_id = boot_id
        self._bucket: Bucket | None = daily(settings.watch_daily_bytes, clock.monotonic_s())
        self._lines: deque[PredictionLine] = deque(maxlen=_KEPT)
        self._seen = 0
        self._seq = 0
        self._last_state = ""
        self._next_s = 0.0
        self._end: Timer | None = None
        self._look: Timer | None = None
        self._send_to_all = send_to_all
        self._pump = pump

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches now."""
        return self._end is not None

    def follow(self, desired: DesiredOk) -> None:
        """Follow a verified document: begin, go on for longer, or end."""
        lasts_s = left_s(desired.predictions_until_s, self._clock.now().timestamp())
        if self._end is not None:
            self._end.cancel()
        elif lasts_s > 0:
            log.info("watched", extra={"for_s": int(lasts_s)})
            self._last_state = ""
            self._tell_workers(LINES)
        if lasts_s > 0:
            self._end = self._loop.call_later(lasts_s, self._ended)
            self._pump()
        elif self._end is not None:
            self._ended()

    def _ended(self) -> None:
        self._end = None
        self._lines.clear()
        self._seen = 0
        self._tell_workers(0)
        log.info("no longer watched")

    def _tell_workers(self, lines: int) -> None:
        if self._settings.watch_predictions:
            self._send_to_all(SetWatch(lines))

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer: tell it that somebody watches."""
        if self.is_watched and self._settings.watch_predictions:
            worker.send(SetWatch(LINES))

    def hear(self, lines: Sequence[PredictionLine], n: int) -> None:
        """Take the newest answers of a worker."""
        if self.is_watched:
            self._lines.extend(lines)
            self._seen += n
            self._look_in(self._next_s - self._clock.monotonic_s())

    def _look_in(self, delay_s: float) -> None:
        if self._look is None:
            self._look = self._loop.call_later(max(0.0, delay_s), self._looked)

    def _looked(self) -> None:
        self._look = None
        self._pump()

    def next_message(self, *, is_metered: bool) -> bytes | None:
        """Return what may go now, for the drain, when nothing else wants to; None when there is nothing, or not yet."""
        now_s = self._clock.monotonic_s()
        if not self.is_watched or now_s < self._next_s:
            return None
        state = WatchState.ON
        if not self._settings.watch_predictions:
            state = WatchState.OFF
        elif is_metered:
            state = WatchState.METERED
        if state is not WatchState.ON:
            self._lines.clear()
        if not self._lines and state == self._last_state:
            return None
        if self._bucket is not None:
            self._bucket = self._bucket.now(now_s)
            if (broke_s := self._bucket.wait_s()) > 0.0:
                self._look_in(min(broke_s, LONGEST_S))
                return None
        return self._message(state, now_s)

    def _message(self, state: WatchState, now_s: float) -> bytes:
        self._seq += 1
        payload = encode(
            Watched(
                device=self._device,
                boot_id=self._boot_id,
                seq=self._seq,
                ts=int(self._clock.now().timestamp() * 1_000),
                seen=self._seen,
                state=state.value,
                lines=chosen(self._lines, LINES),
            )
        )
        self._last_state, self._seen = state.value, 0
        self._lines.clear()
        self._next_s = now_s + EVERY_S
        if self._bucket is not None:
            self._bucket = self._bucket.less(len(payload) + OVERHEAD_BYTES)
        return payload
