"""Add trusted pipelines, and the ID tokens that were exchanged."""

import sqlalchemy as sa
from alembic import op

revision = "1031"
down_revision = "1030"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "access_pipelines",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("repository", sa.String(length=255), nullable=False),
        sa.Column("repository_id", sa.String(length=64), nullable=False),
        sa.Column("ref", sa.String(length=255), nullable=False),
        sa.Column("environment", sa.String(length=255), nullable=False),
        sa.Column("workflow", sa.String(length=255), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("last_used_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_access_pipelines")),
    )
    op.create_table(
        "access_pipeline_tokens",
        sa.Column("id_token_sha256", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id_token_sha256", name=op.f("pk_access_pipeline_tokens")),
    )
    op.create_index(op.f("ix_access_pipeline_tokens_pipeline"), "access_pipeline_tokens", ["pipeline"])
    op.create_index(op.f("ix_access_pipeline_tokens_ends_at"), "access_pipeline_tokens", ["ends_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(op.f("ix_access_pipeline_tokens_ends_at"), "access_pipeline_tokens")
    op.drop_index(op.f("ix_access_pipeline_tokens_pipeline"), "access_pipeline_tokens")
    op.drop_table("access_pipeline_tokens")
    op.drop_table("access_pipelines")
