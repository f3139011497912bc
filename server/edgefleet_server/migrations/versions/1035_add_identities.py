"""Add identities of people at issuers, and sign-ins that are under way."""

import sqlalchemy as sa
from alembic import op

revision = "1035"
down_revision = "1034"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "access_identities",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("is_linked", sa.Boolean(), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("last_seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_identities")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_access_identities_issuer")),
    )
    op.create_index(op.f("ix_access_identities_person_id"), "access_identities", ["person_id"])
    op.create_table(
        "access_sign_ins",
        sa.Column("state_sha256", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("next_page", sa.String(length=800), nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("pk_access_sign_ins")),
    )
    op.create_index(op.f("ix_access_sign_ins_ends_at"), "access_sign_ins", ["ends_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(op.f("ix_access_sign_ins_ends_at"), "access_sign_ins")
    op.drop_table("access_sign_ins")
    op.drop_index(op.f("ix_access_identities_person_id"), "access_identities")
    op.drop_table("access_identities")
