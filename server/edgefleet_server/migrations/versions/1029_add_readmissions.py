"""Keep what devices ask for whose certificate ended while they were away."""

import sqlalchemy as sa
from alembic import op

revision = "1029"
down_revision = "1028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_readmission",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by", sa.String(length=120), nullable=False),
        sa.Column("readmitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("by_rule", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_id"),
    )
    op.create_index("ix_fleet_readmission_state", "fleet_readmission", ["state", "device_id"])
    op.create_index("ix_fleet_readmission_readmitted_at", "fleet_readmission", ["readmitted_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("fleet_readmission")
