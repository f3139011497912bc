"""Keep attempts that signed nothing, withdrawals of releases, and the versions of removed releases."""

import sqlalchemy as sa
from alembic import op

revision = "1002"
down_revision = "1001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("releases", sa.Column("attempt", sa.Integer(), server_default="1", nullable=False))
    op.add_column("releases", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("releases", sa.Column("withdrawn_by", sa.String(length=80), server_default="", nullable=False))
    op.add_column("releases", sa.Column("withdrawn_reason", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "release_attempts",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("lineage", sa.JSON(), nullable=False),
        sa.Column("jobs", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "number", name=op.f("pk_release_attempts")),
    )
    op.create_table(
        "removed_versions",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_by", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_removed_versions")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("removed_versions")
    op.drop_table("release_attempts")
    for name in ("withdrawn_reason", "withdrawn_by", "withdrawn_at", "attempt"):
        op.drop_column("releases", name)
