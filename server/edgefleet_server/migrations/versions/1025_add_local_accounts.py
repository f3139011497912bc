"""Add local accounts of people, their one-time codes, and the counts of tried passwords."""

import sqlalchemy as sa
from alembic import op

revision = "1025"
down_revision = "1024"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working, and takes no passwords."""
    op.create_table(
        "access_accounts",
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("password_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_access_accounts")),
    )
    op.create_table(
        "access_invitations",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_invitations")),
        sa.UniqueConstraint("person_id", name=op.f("uq_access_invitations_person_id")),
    )
    op.create_table(
        "access_guesses",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("level", sa.Float(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_access_guesses")),
    )
    op.create_index(op.f("ix_access_guesses_at"), "access_guesses", ["at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(op.f("ix_access_guesses_at"), "access_guesses")
    op.drop_table("access_guesses")
    op.drop_table("access_invitations")
    op.drop_table("access_accounts")
