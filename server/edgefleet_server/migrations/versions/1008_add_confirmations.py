"""Keep which devices were asked whether a failure is true of a release, and what they showed."""

import sqlalchemy as sa
from alembic import op

revision = "1008"
down_revision = "1007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "rollout_confirmation",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("stratum", sa.String(length=800), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("needs_proof", sa.Boolean(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("proof", sa.JSON(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("rollout_id", "stratum", "number", name=op.f("pk_rollout_confirmation")),
    )
    op.create_index("ix_rollout_confirmation_verdict", "rollout_confirmation", ["verdict"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("rollout_confirmation")
