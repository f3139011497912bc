"""Chain the audit trail: a place and a hash for each row, the end of the chain, heads, kept subtrees, and how far it was read again."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from edgefleet_terms.audit_chain.hash_chain import GENESIS, AuditRecord, chained, time_text

revision = "1019"
down_revision = "1018"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_PIECE = 5_000
_ROWS = sa.table(
    "audit",
    sa.column("id", sa.BigInteger()),
    sa.column("at", _TIME),
    *(sa.column(name, sa.String()) for name in ("actor", "action", "object", "request_id", "hash")),
    sa.column("status", sa.Integer()),
    sa.column("n", sa.BigInteger()),
)
_TAIL = sa.table(
    "audit_tail", sa.column("id", sa.Integer()), sa.column("n", sa.BigInteger()), sa.column("hash", sa.String())
)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working, and its rows are chained later."""
    op.add_column("audit", sa.Column("n", sa.BigInteger(), nullable=True))
    op.add_column("audit", sa.Column("hash", sa.String(length=64), nullable=True))
    op.create_table(
        "audit_tail",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_tail")),
    )
    op.create_table(
        "audit_head",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("chain", sa.String(length=64), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "audit_node",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("level", "place", name=op.f("pk_audit_node")),
    )
    op.create_table(
        "audit_check",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("whole_at", _TIME, nullable=True),
        sa.Column("broken_n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_check")),
    )
    n, last = _chain_rows(op.get_bind())
    op.create_index("ix_audit_n", "audit", ["n"], unique=True)
    op.bulk_insert(_TAIL, [{"id": 1, "n": n, "hash": last.hex()}])


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("audit_check")
    op.drop_table("audit_node")
    op.drop_table("audit_head")
    op.drop_table("audit_tail")
    op.drop_index("ix_audit_n", "audit")
    op.drop_column("audit", "hash")
    op.drop_column("audit", "n")


def _chain_rows(connection: sa.Connection) -> tuple[int, bytes]:
    """Chain the rows that are there, in the order of their ids; return the last place and hash."""
    n, last, after = 0, GENESIS, -1
    row = _ROWS.c
    chain = (
        sa.update(_ROWS).where(row.id == sa.bindparam("row")).values(n=sa.bindparam("place"), hash=sa.bindparam("own"))
    )
    while True:
        wanted = sa.select(_ROWS).where(row.id > after).order_by(row.id).limit(_PIECE)
        found = connection.execute(wanted).mappings().all()
        if not found:
            return n, last
        changes = []
        for one in found:
            n += 1
            made = chained(last, _record(one, n))
            last = bytes.fromhex(made.hash)
            changes.append({"row": one["id"], "place": n, "own": made.hash})
        connection.execute(chain, changes)
        after = found[-1]["id"]


def _record(row: Any, n: int) -> AuditRecord:
    at: datetime = row["at"]
    return AuditRecord(
        action=row["action"],
        actor=row["actor"],
        at=time_text(at if at.tzinfo else at.replace(tzinfo=UTC)),
        n=n,
        object=row["object"],
        request_id=row["request_id"],
        status=row["status"],
    )
