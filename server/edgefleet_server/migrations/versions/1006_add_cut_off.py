"""Add when a revoked device was cut off, the serial of each device's certificate, and an index of revoked certificates."""

import sqlalchemy as sa
from alembic import op

revision = "1006"
down_revision = "1005"
branch_labels = None
depends_on = None

_INDEX = "ix_signing_certificate_revoked_at"


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("fleet_device", sa.Column("cut_off_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("fleet_device", sa.Column("cert_serial", sa.String(length=48), server_default="", nullable=False))
    op.create_index(_INDEX, "signing_certificate", ["revoked_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(_INDEX, table_name="signing_certificate")
    op.drop_column("fleet_device", "cert_serial")
    op.drop_column("fleet_device", "cut_off_at")
