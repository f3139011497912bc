"""Add the histograms of signals by device and time, and what people chose as normal."""

import sqlalchemy as sa
from alembic import op

revision = "1010"
down_revision = "1009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "drift_bucket",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("basis", sa.String(length=16), nullable=False),
        sa.Column("scale_s", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("covered_s", sa.BigInteger(), nullable=False),
        sa.Column("signals", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "sha256", "basis", "scale_s", "at", name=op.f("pk_drift_bucket")),
    )
    op.create_index("ix_drift_bucket_sha256_scale", "drift_bucket", ["sha256", "scale_s", "at"])
    op.create_index("ix_drift_bucket_scale_at", "drift_bucket", ["scale_s", "at"])
    op.create_table(
        "drift_baseline",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("basis", sa.String(length=16), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("signals", sa.LargeBinary(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "basis", name=op.f("pk_drift_baseline")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("drift_baseline")
    op.drop_table("drift_bucket")
