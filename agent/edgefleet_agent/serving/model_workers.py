"""The workers of one model, as `serving` keeps them, and the route that callers take to them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edgefleet_agent.core.loop import Timer
from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.paths import worker_socket
from edgefleet_agent.reporting.window import Sums
from edgefleet_agent.serving.worker_process import Worker, WorkerOptions
from edgefleet_agent.worker.control.protocol import LaneRoute


@dataclass(slots=True)
class ModelWorkers:
    """The workers of one model, and what waits for one of them. made_room: the slot of the worker that left for a trial."""

    active: Worker | None = None
    trial: Worker | None = None
    is_recycling: bool = False
    draining: list[Worker] = field(default_factory=list)
    restart: Timer | None = None
    probe: Timer | None = None
    when_gone: Callable[[], None] | None = None
    made_room: SlotRef | None = None
    failures: int = 0
    serving_since_s: float | None = None
    sums: Sums | None = None


def route_of(options: WorkerOptions, model: str, lanes: ModelWorkers) -> LaneRoute:
    """Return where the active version of a model is asked; while it made room for a trial, where it will be."""
    active = lanes.active
    if active is None:
        ref = lanes.made_room
        assert ref is not None
        path = str(worker_socket(options.sockets, model, "active", ref.slot))
        return LaneRoute(socket=path, version=ref.version, digest=ref.sha256, slot=ref.slot, state="starting")
    return LaneRoute(
        socket=str(active.socket_path),
        version=active.ref.version,
        digest=active.ref.sha256,
        slot=active.ref.slot,
        state="ready" if active.state in ("ready", "serving") else "starting",
    )
