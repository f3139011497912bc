"""Add display names of devices and of claim tokens."""

import sqlalchemy as sa
from alembic import op

revision = "1003"
down_revision = "1002"
branch_labels = None
depends_on = None

_TABLES = ("fleet_claim", "fleet_device")


def upgrade() -> None:
    """Take the step."""
    for table in _TABLES:
        op.add_column(table, sa.Column("display_name", sa.String(length=64), server_default="", nullable=False))


def downgrade() -> None:
    """Take the step back."""
    for table in _TABLES:
        op.drop_column(table, "display_name")
