"""Add whether a person asked the search of a conversion job to end with the best found."""

import sqlalchemy as sa
from alembic import op

revision = "1009"
down_revision = "1008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("conversion_jobs", sa.Column("ends_search", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("conversion_jobs", "ends_search")
