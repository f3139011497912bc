"""Add grants of trusted pipelines: roles in a part of the fleet. Those that are there keep their roles over the whole fleet."""

import sqlalchemy as sa
from alembic import op

revision = "1033"
down_revision = "1032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before gives the jobs of a limited pipeline no token."""
    op.add_column("access_pipelines", sa.Column("grants", sa.JSON(), server_default=sa.text("'[]'"), nullable=False))


def downgrade() -> None:
    """Take the step back: pipelines that were limited have no roles then."""
    op.drop_column("access_pipelines", "grants")
