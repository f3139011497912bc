"""Add requests for signatures to the teams of models, and the bundles that wait for them."""

import sqlalchemy as sa
from alembic import op

revision = "1032"
down_revision = "1031"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: no model has a team before, so a server of the step before goes on working."""
    op.create_table(
        "signing_team_request",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("options", sa.String(length=16), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_team_request")),
    )
    op.create_index(op.f("ix_signing_team_request_model"), "signing_team_request", ["model"])
    op.create_index(op.f("ix_signing_team_request_state"), "signing_team_request", ["state"])
    op.create_table(
        "unsigned_bundles",
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("leaves", sa.String(length=64), nullable=False),
        sa.Column("runtime", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=32), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("sealed_key", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name=op.f("fk_unsigned_bundles_release_id")),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_unsigned_bundles_sha256")),
        sa.ForeignKeyConstraint(["leaves"], ["blobs.sha256"], name=op.f("fk_unsigned_bundles_leaves")),
        sa.PrimaryKeyConstraint("release_id", "profile", name=op.f("pk_unsigned_bundles")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("unsigned_bundles")
    op.drop_index(op.f("ix_signing_team_request_state"), "signing_team_request")
    op.drop_index(op.f("ix_signing_team_request_model"), "signing_team_request")
    op.drop_table("signing_team_request")
