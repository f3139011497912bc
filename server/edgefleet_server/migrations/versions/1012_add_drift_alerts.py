"""Keep what devices say of drift where alerts read it, what was judged of models, and when an alert is sent again."""

import sqlalchemy as sa
from alembic import op

revision = "1012"
down_revision = "1011"
branch_labels = None
depends_on = None

_INDEX = "ix_fleet_device_drift"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("fleet_device", sa.Column("drift", sa.JSON(), nullable=True))
    condition = sa.text("drift IS NOT NULL")
    op.create_index(_INDEX, "fleet_device", ["id"], sqlite_where=condition, postgresql_where=condition)
    op.add_column("alert_group", sa.Column("reminded", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("alert_contact", sa.Column("repeat_s", sa.Integer(), server_default="14400", nullable=False))
    op.create_table(
        "alert_drift_verdict",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("judged_at", _TIME, nullable=False),
        sa.Column("signals", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_alert_drift_verdict")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("alert_drift_verdict")
    op.drop_column("alert_contact", "repeat_s")
    op.drop_column("alert_group", "reminded")
    op.drop_index(_INDEX, "fleet_device")
    op.drop_column("fleet_device", "drift")
