"""Add moves of the server, and how far each device has followed the newest one."""

import sqlalchemy as sa
from alembic import op

revision = "1030"
down_revision = "1029"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_FOLLOWING = ("place_told", "place_used")


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_move",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.Column("planned_at", _TIME, nullable=False),
        sa.Column("planned_by", sa.String(length=120), nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("left_behind", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_move")),
    )
    for name in _FOLLOWING:
        op.add_column("fleet_device", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take the step back."""
    for name in _FOLLOWING:
        op.drop_column("fleet_device", name)
    op.drop_table("fleet_move")
