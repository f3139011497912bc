"""Devices are counted by what lists are read by: two indexes of their own are no longer needed."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.drop_index("ix_fleet_device_pinned", table_name="fleet_device")
    op.drop_index("ix_fleet_device_live", table_name="fleet_device")


def downgrade() -> None:
    """Take the step back."""
    live, pinned = sa.text("revoked_at IS NULL"), sa.text("(labels ->> 'edgefleet/pinned') IS NOT NULL")
    in_sqlite = sa.text("JSON_EXTRACT(labels, '$.\"edgefleet/pinned\"') IS NOT NULL")
    op.create_index("ix_fleet_device_live", "fleet_device", ["profile"], postgresql_where=live, sqlite_where=live)
    op.create_index(
        "ix_fleet_device_pinned", "fleet_device", ["profile"], postgresql_where=pinned, sqlite_where=in_sqlite
    )
