"""Ground truth of a device that may never get any: what pairs labels with answers is loaded with the first of them.

An agent without labels carries only this.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import Labels, ToAgentd
from edgefleet_protocol.messages import Window

if TYPE_CHECKING:
    from edgefleet_agent.feedback.service import FeedbackKeeper


class LazyFeedback:
    """A `FeedbackKeeper`, made when it is needed."""

    def __init__(self, make: "Callable[[], FeedbackKeeper]") -> None:
        """Make nothing yet."""
        self._make = make
        self._keeper: FeedbackKeeper | None = None

    def _made(self) -> "FeedbackKeeper":
        if self._keeper is None:
            self._keeper = self._make()
        return self._keeper

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer."""

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take labels; False for all others."""
        return isinstance(message, Labels) and self._made().hear(worker, message)

    def begin_task(self, request: TaskRequest) -> None:
        """Begin a task `feedback`."""
        self._made().begin_task(request)

    def told(self, windows: list[Window], t0: int, length_s: int) -> list[Window]:
        """Return windows with what was counted since they were told last. t0: unix seconds."""
        return windows if self._keeper is None else self._keeper.told(windows, t0, length_s)

    def status(self) -> dict[str, Any]:
        """Return how feedback fared since agentd began, by model."""
        return {} if self._keeper is None else self._keeper.status()

    def close(self) -> None:
        """Count what waits."""
        if self._keeper is not None:
            self._keeper.close()
