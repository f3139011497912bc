"""Tasks of devices: a column in the desired document, and their own tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    with op.batch_alter_table("fleet_desired", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tasks", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "fleet_task",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result_type", sa.String(length=64), nullable=False),
        sa.Column("result_bytes", sa.Integer(), nullable=False),
        sa.Column("result_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_task")),
    )
    with op.batch_alter_table("fleet_task", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_task_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_fleet_task_device_id"), ["device_id"], unique=False)
    op.create_table(
        "fleet_task_result",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_fleet_task_result")),
    )
    with op.batch_alter_table("fleet_task_result", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_task_result_at"), ["at"], unique=False)


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("fleet_task_result")
    op.drop_table("fleet_task")
    with op.batch_alter_table("fleet_desired", schema=None) as batch_op:
        batch_op.drop_column("tasks")
