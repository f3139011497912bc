"""Add costs: bytes to and from devices by hour, model and groups, and the prices that an operator set."""

import sqlalchemy as sa
from alembic import op

revision = "1038"
down_revision = "1037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "cost_group_set",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cost_group_set")),
        sa.UniqueConstraint("digest", name=op.f("uq_cost_group_set_digest")),
    )
    op.create_table(
        "cost_traffic",
        sa.Column("scale_s", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("groups_id", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scale_s", "at", "model", "kind", "bundle", "groups_id", name=op.f("pk_cost_traffic")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cost_prices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cost_prices")),
    )


def downgrade() -> None:
    """Take the step back."""
    for table in ("cost_prices", "cost_traffic", "cost_group_set"):
        op.drop_table(table)
