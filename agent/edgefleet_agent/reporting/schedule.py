"""When telemetry windows end: by the desired document, the settings and the link, each device at its own moment.

1. The first window after a start lasts the device's own part of the interval (`window.first_window_s`); later ones the interval.
2. A server that has more to store than it can asks for windows of several times that length; the next acknowledgement takes that back,
   or STRETCHED_S without one. The override of the settings stands.
3. The length of a window is measured with the monotonic clock; its start is read from the wall clock as it is at the end.
"""

from collections.abc import Callable

from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.reporting.window import first_window_s, interval_s, signals_every_s
from edgefleet_protocol.clock import Clock

LOOK_S = 30.0
CLOSE_S = 2
MAX_STRETCH = 8
STRETCHED_S = 6 * 3_600.0


class Ticker:
    """Calls `close` with (unix seconds, length in seconds, `signals_every_s`) at the end of each window.

    override_s: of the settings, 0 = none.
    """

    def __init__(
        self, loop: Loop, clock: Clock, device: str, override_s: int, close: Callable[[int, int, int], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._device = device
        self._override_s = override_s
        self._close = close
        self._began_s = clock.monotonic_s()
        self._is_first = True
        self._stretch = 1
        self._stretched_s = 0.0
        self.desired: DesiredOk | None = None
        self.is_metered = False

    @property
    def interval_s(self) -> int:
        """Return how long windows last now."""
        desired = self.desired
        profile, until = (desired.telemetry_profile, desired.telemetry_until_s) if desired else ("normal", 0)
        now_s = int(self._clock.now().timestamp())
        length = interval_s(profile, until, now_s, self._override_s, is_metered=self.is_metered)
        is_asked = not self._override_s and self._clock.monotonic_s() < self._stretched_s
        return length * self._stretch if is_asked else length

    def stretch(self, times: int) -> None:
        """The server asks for windows so many times as long, 0 or 1: for the usual ones. At most MAX_STRETCH times."""
        self._stretch = max(1, min(times, MAX_STRETCH))
        self._stretched_s = self._clock.monotonic_s() + STRETCHED_S if self._stretch > 1 else 0.0

    @property
    def is_closing(self) -> bool:
        """Whether the window ends within two seconds: time to ask the workers for their figures."""
        return self._left_s() <= CLOSE_S

    def start(self) -> None:
        """Begin; runs for as long as the loop does."""
        left = self._left_s()
        if left <= 0:
            self._end()
            left = self._left_s()
        self._loop.call_later(max(0.5, min(left, LOOK_S)), self.start)

    def _left_s(self) -> float:
        length: float = self.interval_s
        if self._is_first and length > 60:
            length = first_window_s(self._device, self.interval_s)
        return self._began_s + length - self._clock.monotonic_s()

    def finish(self) -> None:
        """End the open window now, with all signals that wait: agentd ends, and what it counted goes with the next connection."""
        self._end(0)

    def _end(self, every_s: int | None = None) -> None:
        age = max(1, int(self._clock.monotonic_s() - self._began_s))
        every_s = signals_every_s(self.interval_s) if every_s is None else every_s
        self._close(int(self._clock.now().timestamp()) - age, age, every_s)
        self._began_s += age
        self._is_first = False
