"""How fast rollouts go: running minutes, leases of downloads, and what an assignment knows of its tries."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "rollout_minute",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("per_min", sa.Integer(), nullable=False),
        sa.Column("offered", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "stage", name=op.f("pk_rollout_minute")),
    )
    op.create_table(
        "download_lease",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("site", sa.String(length=127), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_download_lease")),
    )
    op.create_index(op.f("ix_download_lease_site"), "download_lease", ["site"], unique=False)
    line = op.create_table(
        "download_line",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booked_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_download_line")),
    )
    op.bulk_insert(line, [{"id": 1, "booked_until": None}])
    with op.batch_alter_table("rollout_assignment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("retries", sa.Integer(), nullable=False, server_default=sa.text("0")))
        batch_op.add_column(sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("due_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("unanswered_s", sa.Float(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("rollout_assignment", schema=None) as batch_op:
        for name in ("unanswered_s", "due_at", "retry_at", "retries"):
            batch_op.drop_column(name)
    op.drop_table("download_line")
    op.drop_index(op.f("ix_download_lease_site"), table_name="download_lease")
    op.drop_table("download_lease")
    op.drop_table("rollout_minute")
