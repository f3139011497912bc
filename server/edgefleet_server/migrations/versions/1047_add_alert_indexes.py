"""Add the indexes by which rules of alerts find devices whose certificate ends or whose disk fills (ADR 0165)."""

from alembic import op

revision = "1047"
down_revision = "1046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_index("ix_fleet_device_cert_not_after", "fleet_device", ["cert_not_after", "id"])
    op.create_index("ix_fleet_device_free_mb", "fleet_device", ["free_mb", "id"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index("ix_fleet_device_free_mb", "fleet_device")
    op.drop_index("ix_fleet_device_cert_not_after", "fleet_device")
