"""Add release policies: what a release has to have before it may be deployed."""

import sqlalchemy as sa
from alembic import op

revision = "1041"
down_revision = "1040"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "release_policy",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("require", sa.JSON(), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=80), nullable=False),
        sa.Column("change", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_release_policy")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("release_policy")
