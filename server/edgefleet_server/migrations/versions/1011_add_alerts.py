"""Add alerts, their rules, what suppresses them, contact points, and how long devices were away."""

import sqlalchemy as sa
from alembic import op

revision = "1011"
down_revision = "1010"
branch_labels = None
depends_on = None

_OPEN = sa.text("state <> 'resolved'")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.add_column("fleet_device", sa.Column("offline_since", _TIME, nullable=True))
    op.add_column("fleet_device", sa.Column("absences", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("webhook", sa.Column("transport", sa.String(length=16), server_default="", nullable=False))
    _add_alerts()
    _add_rules()
    _add_groups()
    _add_contacts()


def _add_alerts() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rule", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("shown", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("group", sa.String(length=200), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("fired_at", _TIME, nullable=True),
        sa.Column("clear_since", _TIME, nullable=True),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.Column("suppressed_by", sa.String(length=250), nullable=False),
        sa.Column("acked_at", _TIME, nullable=True),
        sa.Column("acked_by", sa.String(length=80), nullable=False),
        sa.Column("ack_comment", sa.Text(), nullable=False),
        sa.Column("link", sa.String(length=250), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
    )
    op.create_index("ix_alert_resolved_at", "alert", ["resolved_at"])
    op.create_index("ix_alert_state", "alert", ["state", "id"])
    op.create_index(
        "ux_alert_open", "alert", ["rule", "subject"], unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
    )


def _add_rules() -> None:
    op.create_table(
        "alert_rule",
        sa.Column("rule", sa.String(length=40), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=True),
        sa.Column("for_s", sa.Integer(), nullable=True),
        sa.Column("severity", sa.String(length=16), nullable=True),
        sa.Column("selector", sa.Text(), nullable=True),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.Column("changed_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("rule", name=op.f("pk_alert_rule")),
    )
    op.create_table(
        "alert_silence",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("matchers", sa.JSON(), nullable=False),
        sa.Column("selector", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_silence")),
    )
    op.create_index("ix_alert_silence_until", "alert_silence", ["until"])
    op.create_table(
        "alert_window",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("cron", sa.String(length=120), nullable=False),
        sa.Column("duration_s", sa.Integer(), nullable=False),
        sa.Column("tz", sa.String(length=64), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_window")),
    )


def _add_groups() -> None:
    op.create_table(
        "alert_group",
        sa.Column("rule", sa.String(length=40), nullable=False),
        sa.Column("group", sa.String(length=200), nullable=False),
        sa.Column("due_at", _TIME, nullable=True),
        sa.Column("sent_at", _TIME, nullable=True),
        sa.Column("sent", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("rule", "group", name=op.f("pk_alert_group")),
    )
    op.create_table(
        "alert_evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_evaluation")),
    )
    op.create_table(
        "alert_model_record",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("newest_at", _TIME, nullable=False),
        sa.Column("looks", sa.JSON(), nullable=False),
        sa.Column("usual_p95_ms", sa.Float(), nullable=True),
        sa.Column("usual_windows", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_alert_model_record")),
    )
    op.create_index("ix_alert_model_record_newest_at", "alert_model_record", ["newest_at"])


def _add_contacts() -> None:
    op.create_table(
        "alert_contact",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("service", sa.String(length=60), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("sends_resolved", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_contact")),
    )
    op.create_table(
        "alert_contact_secret",
        sa.Column("contact_id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("contact_id", name=op.f("pk_alert_contact_secret")),
    )


def downgrade() -> None:
    """Take the step back."""
    for name in ("contact_secret", "contact", "model_record", "evaluation", "group", "window", "silence", "rule"):
        op.drop_table(f"alert_{name}")
    op.drop_table("alert")
    # channels are no webhooks: a server of the step before would list them, and send signed HTTP to them
    webhook = sa.table("webhook", sa.column("id"), sa.column("transport"))
    delivery = sa.table("webhook_delivery", sa.column("id"), sa.column("webhook_id"))
    attempt = sa.table("webhook_attempt", sa.column("delivery_id"))
    channels = sa.select(webhook.c.id).where(webhook.c.transport != "")
    deliveries = sa.select(delivery.c.id).where(delivery.c.webhook_id.in_(channels))
    op.execute(sa.delete(attempt).where(attempt.c.delivery_id.in_(deliveries)))
    op.execute(sa.delete(delivery).where(delivery.c.webhook_id.in_(channels)))
    op.execute(sa.delete(webhook).where(webhook.c.transport != ""))
    op.drop_column("webhook", "transport")
    op.drop_column("fleet_device", "absences")
    op.drop_column("fleet_device", "offline_since")
