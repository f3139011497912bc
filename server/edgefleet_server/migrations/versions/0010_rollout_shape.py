"""Who approved a stage, who belongs to a rollout for good, and names of strata that have labels in them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_STRATA = ("rollout_cell", "rollout_assignment", "rollout_decision", "rollout_quality", "rollout_gate_call")


def upgrade() -> None:
    """Take the step."""
    for table in _STRATA:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.alter_column(
                "stratum", existing_type=sa.String(length=63), type_=sa.String(length=800), existing_nullable=False
            )
    with op.batch_alter_table("rollout_cell", schema=None) as batch_op:
        batch_op.add_column(sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("approved_by", sa.String(length=80), nullable=False, server_default=""))
    op.create_table(
        "rollout_member",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_rollout_member")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("rollout_member")
    with op.batch_alter_table("rollout_cell", schema=None) as batch_op:
        batch_op.drop_column("approved_by")
        batch_op.drop_column("asked_at")
    for table in _STRATA:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.alter_column(
                "stratum", existing_type=sa.String(length=800), type_=sa.String(length=63), existing_nullable=False
            )
