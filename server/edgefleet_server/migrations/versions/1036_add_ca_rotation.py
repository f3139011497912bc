"""Add rotation of the device CA: which CA issued a certificate, and how far a rotation is."""

import sqlalchemy as sa
from alembic import op

revision = "1036"
down_revision = "1035"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_ca_rotation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("old_ca", sa.String(length=64), nullable=False),
        sa.Column("new_ca", sa.String(length=64), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("started_by", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("renew_from_s", sa.BigInteger(), nullable=False),
        sa.Column("spread_s", sa.Integer(), nullable=False),
        sa.Column("left_behind", sa.Integer(), nullable=False),
        sa.Column("left_reason", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_ca_rotation")),
    )
    for table, name in (("signing_certificate", "issuer"), ("fleet_device", "cert_ca")):
        op.add_column(table, sa.Column(name, sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("fleet_device", "cert_ca")
    op.drop_column("signing_certificate", "issuer")
    op.drop_table("fleet_ca_rotation")
