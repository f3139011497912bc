"""The health of devices at hand, from the rows that lists read."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgefleet_server.fleet import store as fleet_store
from edgefleet_server.fleet.health_state import HealthFacts, Judgement, ModelFacts, judge


def judged(row: Any, states: Sequence[Any]) -> Judgement:
    """Return the health of a device. row: as `store.shown_devices`; states: its rows of `store.shown_states`."""
    said: Mapping[str, Any] = {one["model"]: one for one in (row.reported or {}).get("models", ())}
    models = [
        ModelFacts(one.model, one.version, one.phase, _why(one, said.get(one.model, {})), one.changed_at)
        for one in states
    ]
    facts = HealthFacts(
        status=fleet_store.status_of(row.is_online, row.revoked_at),
        has_report=row.state_seq != 0,
        is_behind=(row.desired_gen or 0) > row.reported_gen,
        is_suspect=row.suspect_since is not None,
        drifting=sorted(row.drift or ()),
        models=models,
        away_since=row.revoked_at or row.offline_since,
        suspect_since=row.suspect_since,
        behind_since=row.issued_at,
    )
    return judge(facts)


def _why(state: Any, said: Mapping[str, Any]) -> str:
    return str(said.get("reason") or said.get("error_code") or state.error_class or "")
