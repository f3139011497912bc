"""What a window tells of a comparison and of a measurement."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    with op.batch_alter_table("telemetry_window", schema=None) as batch_op:
        batch_op.add_column(sa.Column("joules_per_answer", sa.Float(), nullable=False, server_default=sa.text("-1")))
        batch_op.add_column(sa.Column("shadow", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("telemetry_window", schema=None) as batch_op:
        batch_op.drop_column("shadow")
        batch_op.drop_column("joules_per_answer")
