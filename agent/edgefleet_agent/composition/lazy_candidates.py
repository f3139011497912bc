"""Candidates of agentd, loaded with the first document that names one: a device without them does not carry their code.

What they do is in `candidate`; this is the same to agentd before there are any.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from edgefleet_agent.install.records import DesiredOk, HoldOk
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed, FetchProgress
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.worker.control.protocol import ForAll, ModelRoute, Stats
from edgefleet_protocol.messages import CandidateState, Window

if TYPE_CHECKING:
    from edgefleet_agent.candidate.controller import CandidateController


class LazyCandidates:
    """What may run as a candidate of an active version."""

    def __init__(self, paths: StatePaths, make: "Callable[[], CandidateController]") -> None:
        """Know how to make them."""
        self._paths = paths
        self._make = make
        self._made: CandidateController | None = None
        self._hold: HoldOk | None = None

    def apply(self, desired: DesiredOk) -> None:
        """Act on a verified document; after the installer did."""
        if self._made is None and (desired.candidates or desired.refused_candidates or self._were_any()):
            self._made = self._make()
            if self._hold is not None:
                self._made.hold(self._hold)
        if self._made is not None:
            self._made.apply(desired)

    def _were_any(self) -> bool:
        """Whether a run before has left a record: what it holds of slots must be settled."""
        return any(self._paths.models.glob("*/candidate.msgpack"))

    def hold(self, hold: HoldOk) -> None:
        """Remember the hold."""
        self._hold = hold
        if self._made is not None:
            self._made.hold(hold)

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """How a fetch goes."""
        if self._made is not None:
            self._made.on_fetch(packet)

    def tick(self) -> None:
        """Look at everything again."""
        if self._made is not None:
            self._made.tick()

    @property
    def is_busy(self) -> bool:
        """Whether time matters now."""
        return self._made is not None and self._made.is_busy

    def take_windows(self, began_s: int, length_s: int) -> Iterable[Window]:
        """Return the figures of the window that ends."""
        return self._made.take_windows(began_s, length_s) if self._made is not None else ()

    def states(self) -> Mapping[str, CandidateState]:
        """Return what is to be reported of the candidates, by model."""
        return self._made.states() if self._made is not None else {}

    # ---- for what serves

    def route(self, model: str, route: ModelRoute) -> ModelRoute:
        """Return the model's routes with its candidate."""
        return self._made.route(model, route) if self._made is not None else route

    def on_primary_stats(self, model: str, stats: Stats) -> None:
        """An active worker reported its figures."""
        if self._made is not None:
            self._made.on_primary_stats(model, stats)

    def ask_stats(self) -> None:
        """Ask the candidates' workers for their figures."""
        if self._made is not None:
            self._made.ask_stats()

    def send_to_all(self, message: ForAll) -> int:
        """Tell something to every candidate's worker that can answer; return to how many."""
        return self._made.send_to_all(message) if self._made is not None else 0

    def close(self) -> None:
        """End the candidates' workers."""
        if self._made is not None:
            self._made.close()

    def pids(self) -> dict[str, int]:
        """Return the process ids of the candidates' workers, by model."""
        return self._made.pids() if self._made is not None else {}
