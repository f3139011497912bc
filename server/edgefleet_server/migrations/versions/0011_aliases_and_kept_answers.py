"""Aliases of releases, and answers that are kept for requests that come again."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "model_aliases",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_model_aliases_model")),
        sa.PrimaryKeyConstraint("model", "alias", name=op.f("pk_model_aliases")),
    )
    op.create_table(
        "access_repeats",
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", "key_sha256", name=op.f("pk_access_repeats")),
    )
    with op.batch_alter_table("access_repeats", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_access_repeats_created_at"), ["created_at"], unique=False)


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("access_repeats", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_access_repeats_created_at"))
    op.drop_table("access_repeats")
    op.drop_table("model_aliases")
