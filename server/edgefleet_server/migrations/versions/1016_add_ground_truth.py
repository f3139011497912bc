"""Add ground truth: counts of labels by device and time, and labels that were sent in bulk."""

import sqlalchemy as sa
from alembic import op

revision = "1016"
down_revision = "1015"
branch_labels = None
depends_on = None

SUMS = ("labelled", "correct", "n", "total", "sizes", "squares")
ODD = ("unmatched", "late", "repeated")
OUTCOMES = ("matched", "unmatched", "late", "repeated", "misfit", "refused")


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "truth_bucket",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("segment", sa.String(length=48), nullable=False),
        sa.Column("scale_s", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.Column("unit", sa.Float(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ODD),
        sa.Column("detail", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "device_id", "sha256", "lane", "segment", "scale_s", "at", name=op.f("pk_truth_bucket")
        ),
    )
    op.create_index("ix_truth_bucket_model_scale", "truth_bucket", ["model", "scale_s", "at"])
    op.create_index("ix_truth_bucket_scale_at", "truth_bucket", ["scale_s", "at"])
    op.create_table(
        "feedback_upload",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("bad", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback_upload")),
    )
    op.create_index(op.f("ix_feedback_upload_created_at"), "feedback_upload", ["created_at"])
    op.create_table(
        "feedback_part",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("broadcast", sa.Boolean(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in OUTCOMES),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback_part")),
    )
    op.create_index("ix_feedback_part_upload", "feedback_part", ["upload_id"])
    op.create_index("ix_feedback_part_state_device", "feedback_part", ["state", "device_id"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("feedback_part")
    op.drop_table("feedback_upload")
    op.drop_table("truth_bucket")
