"""Add deployment protection rules, the devices under them, and who has set one aside."""

import sqlalchemy as sa
from alembic import op

revision = "1023"
down_revision = "1022"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_protection_rule",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("ends_at", _TIME, nullable=True),
        sa.Column("ending_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fleet_protection_rule")),
    )
    op.create_table(
        "fleet_protected_device",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("rule", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "rule", name=op.f("pk_fleet_protected_device")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_fleet_protected_device_rule", "fleet_protected_device", ["rule"])
    op.create_table(
        "fleet_break_glass",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("rule", sa.String(length=63), nullable=False),
        sa.Column("principal", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_break_glass")),
    )
    op.create_index("ix_fleet_break_glass_until", "fleet_break_glass", ["until"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index("ix_fleet_break_glass_until", "fleet_break_glass")
    op.drop_table("fleet_break_glass")
    op.drop_index("ix_fleet_protected_device_rule", "fleet_protected_device")
    op.drop_table("fleet_protected_device")
    op.drop_table("fleet_protection_rule")
