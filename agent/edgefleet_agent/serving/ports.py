"""Whom `serving` talks to: who decides, candidates, who hears of answers. Others implement these."""

from typing import Protocol

from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import Failed, ForAll, Golden, ModelRoute, Stats, ToAgentd


class Owner(Protocol):
    """Who decides what the workers' words mean. Called in the loop."""

    def on_trial_message(self, model: str, message: ToAgentd) -> None:
        """A worker on trial sent a message."""
        ...

    def on_trial_exit(self, model: str, how: str, failed: Failed | None) -> None:
        """A worker on trial ended before it was promoted."""
        ...

    def on_active_golden(self, model: str, golden: Golden) -> None:
        """The serving worker answered golden vectors."""
        ...

    def on_stats(self, model: str, sha256: str, stats: Stats) -> None:
        """A worker that serves this digest, or has served it, reported its figures."""
        ...

    def on_active_exit(self, model: str, how: str, failed: Failed | None) -> bool:
        """The serving worker ended unasked; True to start it again."""
        ...

    def active_ref(self, model: str) -> SlotRef | None:
        """Return the slot to start a model from, None when nothing is to serve."""
        ...

    def before_start(self, model: str) -> None:
        """An active worker is about to be started: count it durably."""
        ...

    def on_serving(self, model: str) -> None:
        """The active worker accepts requests."""
        ...


class Candidates(Protocol):
    """What runs as a candidate. Called in the loop."""

    def route(self, model: str, route: ModelRoute) -> ModelRoute:
        """Return the model's routes with its candidate."""
        ...

    def on_primary_stats(self, model: str, stats: Stats) -> None:
        """An active worker reported its figures."""
        ...

    def ask_stats(self) -> None:
        """Ask the candidates' workers for theirs."""
        ...

    def send_to_all(self, message: ForAll) -> int:
        """Tell something to every candidate's worker that can answer; return to how many."""
        ...

    def close(self) -> None:
        """End the candidates' workers."""
        ...


class Listener(Protocol):
    """Who hears what workers tell of their answers. Called in the loop."""

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer."""
        ...

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take a message; False when it is for somebody else."""
        ...


class Listeners:
    """Several who hear what workers say, one after the other."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer."""
        for one in self._listeners:
            one.on_ready(worker)

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take a message; False when it is for somebody else."""
        return any(one.hear(worker, message) for one in self._listeners)
