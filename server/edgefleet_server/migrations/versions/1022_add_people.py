"""Add people, the owners of tokens, and who made a rollout or moved it on, by person.

Each name of a token becomes a person: tokens of the same name belong to the same one. So whoever made a rollout by a token of that name
is one of its makers.
"""

import base64
import secrets

import sqlalchemy as sa
from alembic import op

revision = "1022"
down_revision = "1021"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_PEOPLE = sa.table(
    "access_people",
    *(sa.column(name, sa.String()) for name in ("id", "name", "kind", "created_by")),
    sa.column("created_at", _TIME),
)
_TOKENS = sa.table(
    "access_tokens", sa.column("name", sa.String()), sa.column("person_id", sa.String()), sa.column("created_at", _TIME)
)
_ROLLOUTS = sa.table("rollout", sa.column("created_by", sa.String()), sa.column("makers", sa.JSON()))


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working, and its tokens belong to nobody."""
    op.create_table(
        "access_people",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("disabled_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_people")),
        sa.UniqueConstraint("name", name=op.f("uq_access_people_name")),
    )
    op.add_column("access_tokens", sa.Column("person_id", sa.String(length=16), nullable=True))
    op.create_index(op.f("ix_access_tokens_person_id"), "access_tokens", ["person_id"])
    op.add_column("rollout", sa.Column("makers", sa.JSON(), server_default=sa.text("'[]'"), nullable=False))
    connection = op.get_bind()
    token, rollout = _TOKENS.c, _ROLLOUTS.c
    named = sa.select(token.name, sa.func.min(token.created_at)).group_by(token.name).order_by(token.name)
    for name, since in connection.execute(named).all():
        own = "p-" + base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
        person = {"id": own, "name": name, "kind": "person", "created_by": "upgrade", "created_at": since}
        connection.execute(sa.insert(_PEOPLE).values(**person))
        connection.execute(sa.update(_TOKENS).where(token.name == name).values(person_id=own))
        connection.execute(sa.update(_ROLLOUTS).where(rollout.created_by == name).values(makers=[own]))


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("rollout", "makers")
    op.drop_index(op.f("ix_access_tokens_person_id"), "access_tokens")
    op.drop_column("access_tokens", "person_id")
    op.drop_table("access_people")
