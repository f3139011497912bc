"""When each model is asked for the answers to its golden inputs again."""

from collections.abc import Callable, Mapping

from edgefleet_agent.install.machine import is_on_trial
from edgefleet_agent.install.records import ModelRecord


class GoldenSchedule:
    """Asks models every `interval_s`, and those on trial every `trial_s`."""

    def __init__(self, ask: Callable[[str], object], interval_s: float, trial_s: float) -> None:
        self._ask = ask
        self._interval_s = interval_s
        self._trial_s = trial_s
        self._asked_s: dict[str, float] = {}

    def tick(self, records: Mapping[str, ModelRecord], now_s: float) -> None:
        """Ask those whose turn it is."""
        for model, record in records.items():
            every_s = self._trial_s if is_on_trial(record) else self._interval_s
            if now_s - self._asked_s.get(model, now_s - every_s) >= every_s:
                self._asked_s[model] = now_s
                self._ask(model)
