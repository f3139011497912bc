"""What watched devices show, for some minutes."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "telemetry_watched",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("lines", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_watched")),
        sa.UniqueConstraint("device_id", "boot_id", "seq", name=op.f("uq_telemetry_watched_device_id_boot_id_seq")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("telemetry_watched", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_telemetry_watched_received_at"), ["received_at"], unique=False)


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("telemetry_watched", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_telemetry_watched_received_at"))

    op.drop_table("telemetry_watched")
