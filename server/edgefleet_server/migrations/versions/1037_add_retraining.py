"""Add retraining: triggers, the secrets of their launchers, and the retrainings that they started."""

import sqlalchemy as sa
from alembic import op

revision = "1037"
down_revision = "1036"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "retraining_trigger",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("maker", sa.String(length=16), nullable=False),
        sa.Column("makers", sa.JSON(), nullable=False),
        sa.Column("held", sa.Text(), nullable=False),
        sa.Column("after", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retraining_trigger")),
    )
    op.create_index(op.f("ix_retraining_trigger_model"), "retraining_trigger", ["model"])
    op.create_table(
        "retraining_secret",
        sa.Column("trigger", sa.String(length=63), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("set_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("trigger", name=op.f("pk_retraining_secret")),
    )
    op.create_table(
        "retraining_run",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("trigger", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("says", sa.Text(), nullable=False),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.JSON(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("parent", sa.String(length=127), nullable=False),
        sa.Column("fetches", sa.JSON(), nullable=False),
        sa.Column("collected", sa.JSON(), nullable=False),
        sa.Column("data_set", sa.JSON(), nullable=True),
        sa.Column("launcher", sa.String(length=16), nullable=False),
        sa.Column("lease_sha256", sa.String(length=64), nullable=False),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("holder", sa.String(length=120), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("release", sa.String(length=127), nullable=False),
        sa.Column("rollout", sa.String(length=32), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("drift_state", sa.String(length=16), nullable=False),
        sa.Column("drift_words", sa.Text(), nullable=False),
        sa.Column("drift_at", _TIME, nullable=True),
        sa.Column("maker", sa.String(length=16), nullable=False),
        sa.Column("maker_name", sa.String(length=80), nullable=False),
        sa.Column("makers", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("answered_by", sa.String(length=80), nullable=False),
        sa.Column("answered_at", _TIME, nullable=True),
        sa.Column("state_since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=True),
        sa.Column("next_at", _TIME, nullable=True),
        sa.Column("began_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retraining_run")),
    )
    op.create_index("ix_retraining_run_trigger", "retraining_run", ["trigger", "created_at"])
    op.create_index("ix_retraining_run_model", "retraining_run", ["model", "state"])
    op.create_index("ix_retraining_run_state", "retraining_run", ["state"])
    op.create_index("ix_retraining_run_drift", "retraining_run", ["drift_state"])


def downgrade() -> None:
    """Take the step back."""
    for name in ("drift", "state", "model", "trigger"):
        op.drop_index(f"ix_retraining_run_{name}", "retraining_run")
    op.drop_table("retraining_run")
    op.drop_table("retraining_secret")
    op.drop_index(op.f("ix_retraining_trigger_model"), "retraining_trigger")
    op.drop_table("retraining_trigger")
