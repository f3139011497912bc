"""Add model cards: what people state of a release."""

import sqlalchemy as sa
from alembic import op

revision = "1040"
down_revision = "1039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "model_cards",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("stated", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_model_cards")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("model_cards")
