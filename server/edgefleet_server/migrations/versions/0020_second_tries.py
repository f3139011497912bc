"""Which devices of a rollout failed before a person had them tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    with op.batch_alter_table("rollout_assignment", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("failed_before", sa.String(length=16), nullable=False, server_default=sa.text("''"))
        )


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("rollout_assignment", schema=None) as batch_op:
        batch_op.drop_column("failed_before")
