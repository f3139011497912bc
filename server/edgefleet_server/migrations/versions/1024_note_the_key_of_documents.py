"""Note the director's key that signed each desired document, so that a new key's work can be found. Old ones: from the envelope."""

import json

import sqlalchemy as sa
from alembic import op

revision = "1024"
down_revision = "1023"
branch_labels = None
depends_on = None

_PIECE = 5_000
_ROWS = sa.table(
    "fleet_desired",
    sa.column("device_id", sa.String()),
    sa.column("envelope", sa.LargeBinary()),
    sa.column("key_id", sa.String()),
)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working, and what it signs is signed once more later."""
    op.add_column("fleet_desired", sa.Column("key_id", sa.String(length=64), nullable=False, server_default=""))
    _read_envelopes(op.get_bind())
    op.create_index("ix_fleet_desired_key_id", "fleet_desired", ["key_id"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index("ix_fleet_desired_key_id", "fleet_desired")
    op.drop_column("fleet_desired", "key_id")


def _read_envelopes(connection: sa.Connection) -> None:
    row, after = _ROWS.c, ""
    change = sa.update(_ROWS).where(row.device_id == sa.bindparam("device")).values(key_id=sa.bindparam("key"))
    while True:
        wanted = sa.select(row.device_id, row.envelope).where(row.device_id > after).order_by(row.device_id)
        found = connection.execute(wanted.limit(_PIECE)).all()
        if not found:
            return
        after = found[-1][0]
        connection.execute(change, [{"device": device, "key": _key_of(envelope)} for device, envelope in found])


def _key_of(envelope: bytes) -> str:
    """Return the id of the first key that signed an envelope, "" for what is none."""
    try:
        return str(json.loads(bytes(envelope))["signatures"][0]["keyid"])[:64]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
