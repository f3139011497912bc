"""A stage knows how many devices it was to take in when it opened: who is taken in later, because that was interrupted, is no joiner."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    with op.batch_alter_table("rollout_cell") as batch_op:
        batch_op.add_column(sa.Column("intake", sa.Integer(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("rollout_cell") as batch_op:
        batch_op.drop_column("intake")
