"""The health of devices as conditions of SQL: for lists, counts and the map. `fleet.health_state.judge` gives the meaning.

No condition is ever NULL. Conditions are in the order of the rules; each excludes those before it.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, false, literal, not_, or_, select, true
from sqlmodel import col

from edgefleet_protocol.messages import ASSIGNMENT_OF_PHASE
from edgefleet_server.fleet.health_state import SETTLED, TROUBLED, Health
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState

COLUMNS: Final = (
    FleetDevice.revoked_at,
    FleetDevice.is_online,
    FleetDevice.state_seq,
    FleetDevice.reported_gen,
    FleetDevice.suspect_since,
    FleetDevice.drift,
)
"""What the conditions compare of a device, but its id."""
_TROUBLED: Final = sorted(ASSIGNMENT_OF_PHASE[one].value for one in TROUBLED)
_INSTALLING: Final = sorted({state.value for phase, state in ASSIGNMENT_OF_PHASE.items() if phase not in SETTLED})


def has_health(values: Sequence[str], device: Any = FleetDevice) -> ColumnElement[bool]:
    """Return the condition of devices with one of these healths. device: what has the columns and the id, the table or a part of it."""
    found: list[ColumnElement[bool]] = []
    worse: list[ColumnElement[bool]] = []
    for health, condition in _rules(device):
        if health.value in values:
            found.append(and_(condition, *(not_(one) for one in worse)))
        worse.append(condition)
    return or_(false(), *found)


def health_word(device: Any = FleetDevice) -> Any:
    """Return the expression of a device's health."""
    return case(*((condition, literal(health.value)) for health, condition in _rules(device)))


def _rules(device: Any) -> list[tuple[Health, ColumnElement[bool]]]:
    is_online = device.is_online
    return [
        (Health.REVOKED, device.revoked_at.is_not(None)),
        (Health.UNKNOWN, is_online.is_(None)),
        (Health.OFFLINE, is_online.is_(False)),
        (Health.UNKNOWN, device.state_seq == 0),
        (Health.FAILING, _has_model(device, _TROUBLED, col(FleetModelState.version) == "")),
        (
            Health.DEGRADED,
            or_(device.suspect_since.is_not(None), device.drift.is_not(None), _has_model(device, _TROUBLED)),
        ),
        (Health.UPDATING, or_(_is_behind(device), _has_model(device, _INSTALLING))),
        (Health.HEALTHY, true()),
    ]


def _has_model(device: Any, states: Sequence[str], *more: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition of devices with a model in one of these states, which few have: an index finds them at once."""
    row = FleetModelState
    return device.id.in_(select(col(row.device_id)).where(col(row.assignment).in_(states), *more))  # type: ignore[no-any-return]


def _is_behind(device: Any) -> ColumnElement[bool]:
    row = FleetDesired
    newer = select(col(row.gen)).where(col(row.device_id) == device.id, col(row.gen) > device.reported_gen)
    return newer.exists()
