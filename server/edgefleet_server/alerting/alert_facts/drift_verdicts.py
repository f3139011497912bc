"""What the server's own judgement of the drift of models was: one model is judged after an evaluation, the longest waiting first.

With evaluations every 15 s, up to 40 models are judged every EVERY (`drift_judged_every_s`), and more of them less often.

To judge a model takes some tenths of a second, so that all of them in one evaluation would be too slow; what was judged is stored, so
that another process that evaluates next knows it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName
from edgefleet_server.alerting.active_alerts import store
from edgefleet_server.alerting.alert_rules.fleet_facts import DriftedSignal, DriftVerdict
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.drift.views import ModelDrift, SignalDrift

EVERY: Final = timedelta(minutes=10)
MOST_SIGNALS: Final = 16
DRIFT: Final = "drift"
_log = logging.getLogger(__name__)


class DriftVerdicts:
    """Judges models, one at a time, and keeps what was said. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        judge: Callable[[ModelName], ModelDrift],
        models: Callable[[], Sequence[ModelName]],
        every: timedelta = EVERY,
    ) -> None:
        """Wire the parts. models: the names of all; every: how long a judgement holds."""
        self._db = db
        self._judge = judge
        self._models = models
        self._every = every

    def known(self) -> tuple[list[DriftVerdict], frozenset[str]]:
        """Return the verdicts about the models that there are, and the names of these."""
        names = frozenset[str](self._models())
        with self._db.read() as session:
            return [one for one in store.drift_verdicts(session) if one.model in names], names

    def refresh(self, now: datetime) -> None:
        """Judge the model that is due, if one is."""
        with self._db.read() as session:
            known = {one.model: one for one in store.drift_verdicts(session)}
        name = due(self._models(), {model: one.judged_at for model, one in known.items()}, now, self._every)
        if name is None:
            return
        try:
            found = verdict_of(self._judge(name), name, now)
        except EdgefleetError as error:  # it was removed meanwhile
            _log.warning("a model's drift could not be judged", extra={"model": name, "error": error.message})
            found = DriftVerdict(name, "", now, ())
        except Exception:  # noqa: BLE001  # a bug in the judgement of one model must not keep the others waiting
            _log.exception("a model's drift could not be judged", extra={"model": name})
            found = replace(known.get(name) or DriftVerdict(name, "", now, ()), judged_at=now)
        with self._db.session() as session:
            store.write_drift_verdict(session, found)


def due(
    models: Sequence[ModelName], judged: Mapping[str, datetime], now: datetime, every: timedelta = EVERY
) -> ModelName | None:
    """Return the model to judge: one that never was, else the one that was judged longest ago, None when that is not long ago."""
    for name in models:
        if name not in judged:
            return name
    oldest = min(models, key=lambda one: judged[one], default=None)
    return oldest if oldest is not None and abs(now - judged[oldest]) >= every else None


def verdict_of(found: ModelDrift, name: str, now: datetime) -> DriftVerdict:
    """Return what alerts need of a judgement; figures that nothing was added to for long say nothing of now."""
    drifting = [] if found.is_old else [one for one in found.signals if one.state == DRIFT]
    return DriftVerdict(name, found.version, now, tuple(map(_signal, drifting[:MOST_SIGNALS])))


def _signal(one: SignalDrift) -> DriftedSignal:
    said = f"{one.said} {one.weighed}." if one.weighed else one.said
    return DriftedSignal(one.name, one.where, one.place, said, one.moved, one.devices, [d.device for d in one.named])
