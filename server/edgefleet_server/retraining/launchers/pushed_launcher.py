"""Starts a training elsewhere for the engine of retraining: all kinds of launchers but the runner."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

from edgefleet_protocol.clock import Clock
from edgefleet_server.retraining.errors import LaunchError, LaunchRefusedError
from edgefleet_server.retraining.launchers.launch_sender import LaunchSender
from edgefleet_server.retraining.launchers.model import LaunchNotice, LaunchState
from edgefleet_server.retraining.launchers.settings_reader import read_target
from edgefleet_server.retraining.model import LaunchOrder, RetrainingView


class PushedLauncher:
    """Checks settings and starts trainings. address: of this server, without a slash at the end."""

    def __init__(self, sender: LaunchSender, clock: Clock, address: Callable[[], str]) -> None:
        """Wire the parts."""
        self._sender = sender
        self._clock = clock
        self._address = address

    def check(self, order: LaunchOrder) -> None:
        """Look at the settings of a trigger before it is stored. Raises BadLauncherError."""
        read_target(order.kind.value, order.settings, order.secret)

    def launch(self, run: RetrainingView, trigger: LaunchOrder) -> str:
        """Start the training; return where it runs, in words. Blocks for one request. run: its attempts count this one.

        Raises LaunchError for what may pass, LaunchRefusedError and BadLauncherError for what stays.
        """
        target = read_target(trigger.kind.value, trigger.settings, trigger.secret)
        outcome = self._sender.start(target, self._notice(run, trigger), max(run.attempts, 1))
        if outcome.state is LaunchState.FAILED:
            raise LaunchRefusedError(outcome.why, next_step=outcome.next_step)
        if outcome.state is LaunchState.AGAIN:
            error = LaunchError(outcome.why, next_step="see that it runs and can be reached from this server")
            error.after_s = outcome.after_s
            raise error
        known = " ".join(one for one in (outcome.launched.id, outcome.launched.where) if one)
        return f"started: {known}" if known else "started"

    def _notice(self, run: RetrainingView, trigger: LaunchOrder) -> LaunchNotice:
        return LaunchNotice(
            retraining=run.id,
            trigger=run.trigger,
            model=run.model,
            parent=run.parent,
            server=self._address().rstrip("/"),
            deadline=self._clock.now() + timedelta(seconds=trigger.deadline_s),
            words=run.cause.words,
            alert="" if run.cause.alert is None else str(run.cause.alert),
            moved=tuple(asdict(one) for one in run.cause.signals),
        )
