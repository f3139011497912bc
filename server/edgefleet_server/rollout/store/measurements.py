"""The SQL of what was measured for the quality gate. Every function works in the caller's session and never commits."""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import Table, insert, select
from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Metric
from edgefleet_server.rollout.store.tables import RolloutQuality

_TABLE: Final[Table] = RolloutQuality.__table__  # type: ignore[attr-defined]


def measured(session: Session, rollout_id: str) -> tuple[DeviceQuality, ...]:
    """Return what was measured of a rollout's devices, in order of device."""
    statement = select(_TABLE).where(_TABLE.c.rollout_id == rollout_id).order_by(_TABLE.c.device_id)
    return tuple(
        DeviceQuality(
            device=DeviceId(row.device_id),
            stratum=ProfileName(row.stratum),
            stage=row.stage,
            control=row.control_id,
            began_at=row.began_at,
            taken_at=row.taken_at,
            spans={Metric(name): Span(*values) for name, values in row.spans.items()},
            drift=row.drift,
            control_drift=row.control_drift,
            is_serving=row.is_serving,
        )
        for row in session.execute(statement)
    )


def add(session: Session, rollout_id: str, taken: Sequence[DeviceQuality]) -> None:
    """Store what was measured of devices that have nothing stored yet, in one batch."""
    if taken:
        session.execute(
            insert(RolloutQuality),
            [
                {
                    "rollout_id": rollout_id,
                    "device_id": one.device,
                    "stratum": one.stratum,
                    "stage": one.stage,
                    "control_id": one.control,
                    "began_at": one.began_at,
                    "taken_at": one.taken_at,
                    "spans": {name.value: list(_values(span)) for name, span in one.spans.items()},
                    "drift": one.drift,
                    "control_drift": one.control_drift,
                    "is_serving": one.is_serving,
                }
                for one in taken
            ],
        )


def _values(span: Span) -> tuple[float | None, ...]:
    plain = msgspec.to_builtins(span)
    return tuple(plain[name] for name in ("before", "after", "control_before", "control_after"))
