"""Claim tokens whose devices wait for an operator, and who waits."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    with op.batch_alter_table("fleet_claim", schema=None) as batch_op:
        batch_op.add_column(sa.Column("approval", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "fleet_pending",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("claim_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("csr", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_pending")),
    )
    with op.batch_alter_table("fleet_pending", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_pending_claim_id"), ["claim_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_fleet_pending_state"), ["state"], unique=False)


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("fleet_pending", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_fleet_pending_state"))
        batch_op.drop_index(batch_op.f("ix_fleet_pending_claim_id"))
    op.drop_table("fleet_pending")
    with op.batch_alter_table("fleet_claim", schema=None) as batch_op:
        batch_op.drop_column("approval")
