"""Add the fleet key, and to each bundle the key of its model where that is sealed."""

import sqlalchemy as sa
from alembic import op

revision = "1027"
down_revision = "1026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working, and seals nothing."""
    op.add_column("bundles", sa.Column("sealed_key", sa.String(length=255), nullable=True))
    op.create_table(
        "fleet_key",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("public", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Take the step back. Sealed bundles can then be given to no further device."""
    op.drop_table("fleet_key")
    op.drop_column("bundles", "sealed_key")
