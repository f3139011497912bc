"""Add the packages of the agent, whose bytes are blobs (ADR 0168)."""

import sqlalchemy as sa
from alembic import op

revision = "1048"
down_revision = "1047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_agent_package",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_fleet_agent_package")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("fleet_agent_package")
