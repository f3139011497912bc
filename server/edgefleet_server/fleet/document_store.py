"""SQL of many desired documents at once. Its own file because `store` is a page long already, and objects of rows cost more than signing.

Every function works in the caller's session and never commits.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sqlalchemy import Table, Text, cast, select
from sqlmodel import Session, col

from edgefleet_server import bulk
from edgefleet_server.fleet.contents import Texts
from edgefleet_server.fleet.store import CAPTURE_KEY_ROW
from edgefleet_server.fleet.tables import FleetCaptureKey, FleetDesired

_DESIRED: Final[Table] = FleetDesired.__table__  # type: ignore[attr-defined]


def lock(session: Session, device_ids: Collection[str]) -> Iterator[tuple[str, int, Texts, str | None]]:
    """Lock the documents of devices that `store.lock_live` returned; yield device, gen, content and the public key for captures.

    The key may be read in the same statement because it changes only while no device is locked (`store.lock_devices`).
    """
    key = select(col(FleetCaptureKey.public_key)).where(col(FleetCaptureKey.id) == CAPTURE_KEY_ROW).scalar_subquery()
    table = _DESIRED
    texts = [cast(column, Text) for column in (table.c.models, table.c.telemetry, table.c.tasks)]
    statement = (
        select(table.c.device_id, table.c.gen, *texts, key)
        .where(bulk.among(session, table.c.device_id, device_ids))
        .order_by(table.c.device_id)
        .with_for_update(of=table)
    )
    for device_id, gen, models, telemetry, tasks, public_key in session.execute(statement):
        yield device_id, int(gen), Texts(models, telemetry, tasks), public_key


def write(session: Session, new: Sequence[bulk.Row], changed: Sequence[bulk.Row]) -> None:
    """Store documents whose devices are locked: rows of the whole table, by `device_id`."""
    bulk.insert_rows(session, _DESIRED, new)
    bulk.update_rows(session, _DESIRED, changed)
    gone = {row["device_id"] for row in changed}
    for known in [one for one in session.identity_map.values() if isinstance(one, FleetDesired)]:
        if known.device_id in gone:
            session.expire(known)
