"""Keep which devices are suspect, since when and why."""

import sqlalchemy as sa
from alembic import op

revision = "1007"
down_revision = "1006"
branch_labels = None
depends_on = None

_INDEX = "ix_fleet_device_suspect"


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("fleet_device", sa.Column("suspect_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("fleet_device", sa.Column("suspect_reason", sa.Text(), server_default="", nullable=False))
    condition = sa.text("suspect_since IS NOT NULL")
    op.create_index(_INDEX, "fleet_device", ["id"], sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(_INDEX, "fleet_device")
    op.drop_column("fleet_device", "suspect_reason")
    op.drop_column("fleet_device", "suspect_since")
