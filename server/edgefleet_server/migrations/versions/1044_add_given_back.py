"""Add how often a retraining was given back by its runners."""

import sqlalchemy as sa
from alembic import op

revision = "1044"
down_revision = "1043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("retraining_run", sa.Column("given_back", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("retraining_run", "given_back")
