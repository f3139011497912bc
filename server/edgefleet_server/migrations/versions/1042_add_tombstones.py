"""Add tombstones of erased answers, and how much came in late for an erasure."""

import sqlalchemy as sa
from alembic import op

revision = "1042"
down_revision = "1041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "erased_answer",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("mark", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("erasure", sa.String(length=32), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "mark", "device_id", name=op.f("pk_erased_answer")),
    )
    op.create_index(op.f("ix_erased_answer_erased_at"), "erased_answer", ["erased_at"])
    op.add_column("prediction_erasure", sa.Column("late", sa.BigInteger(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("prediction_erasure", "late")
    op.drop_table("erased_answer")
