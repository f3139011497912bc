"""What was measured of devices for the quality gate of a rollout."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "rollout_quality",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("stratum", sa.String(length=63), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("control_id", sa.String(length=63), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spans", sa.JSON(), nullable=False),
        sa.Column("drift", sa.Float(), nullable=True),
        sa.Column("control_drift", sa.Float(), nullable=True),
        sa.Column("is_serving", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", "stage", name=op.f("pk_rollout_quality")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("rollout_quality")
