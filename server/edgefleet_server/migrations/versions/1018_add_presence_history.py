"""Add the history of presence: samples of the fleet, absences of devices, and when no server listened."""

import sqlalchemy as sa
from alembic import op

revision = "1018"
down_revision = "1017"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("fleet_device", sa.Column("absence_day", sa.Integer(), server_default="0", nullable=False))
    op.add_column("fleet_device", sa.Column("absence_count", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "fleet_absence",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("is_heard", sa.Boolean(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "day", "place", name=op.f("pk_fleet_absence")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_fleet_absence_day", "fleet_absence", ["day"])
    op.create_table(
        "fleet_unwatched",
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("since", "until", name=op.f("pk_fleet_unwatched")),
    )
    op.create_index("ix_fleet_unwatched_until", "fleet_unwatched", ["until"])
    op.create_table(
        "fleet_sample",
        sa.Column("scale_s", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("online", sa.BigInteger(), nullable=False),
        sa.Column("devices", sa.BigInteger(), nullable=False),
        sa.Column("drifting", sa.BigInteger(), nullable=False),
        sa.Column("drift_devices", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scale_s", "at", name=op.f("pk_fleet_sample")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("fleet_sample")
    op.drop_index("ix_fleet_unwatched_until", "fleet_unwatched")
    op.drop_table("fleet_unwatched")
    op.drop_index("ix_fleet_absence_day", "fleet_absence")
    op.drop_table("fleet_absence")
    op.drop_column("fleet_device", "absence_count")
    op.drop_column("fleet_device", "absence_day")
