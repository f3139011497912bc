"""Add when a blob was last asked for, and since when nothing names it."""

import sqlalchemy as sa
from alembic import op

revision = "1045"
down_revision = "1044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("blobs", sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("blobs", sa.Column("unnamed_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("blobs", "unnamed_since")
    op.drop_column("blobs", "renewed_at")
