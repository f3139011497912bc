"""Add with which token a token was made: those that people make for themselves end with it."""

import sqlalchemy as sa
from alembic import op

revision = "1034"
down_revision = "1033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: nobody has made a token of their own before."""
    op.add_column("access_tokens", sa.Column("made_with", sa.String(length=16), server_default="", nullable=False))


def downgrade() -> None:
    """Take the step back: tokens that people made stay until they end, also when the one they were made with is revoked."""
    op.drop_column("access_tokens", "made_with")
