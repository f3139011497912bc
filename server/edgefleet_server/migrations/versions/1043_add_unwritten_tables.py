"""Add which tables hold freed rows of an erasure."""

import sqlalchemy as sa
from alembic import op

revision = "1043"
down_revision = "1042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column(
        "prediction_erasure", sa.Column("unwritten", sa.JSON(), nullable=False, server_default=sa.text("'{}'"))
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("prediction_erasure", "unwritten")
