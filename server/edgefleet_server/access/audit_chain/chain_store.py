"""The only place with SQL of the chain. Every function works inside the caller's session and never commits."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import func, insert, select, update
from sqlmodel import Session, col

from edgefleet_server.access.audit_chain.chain_model import NewEntry, OwnCheck, Tail
from edgefleet_server.access.tables import AuditCheckRow, AuditHeadRow, AuditNodeRow, AuditRow, AuditTailRow
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, walked
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import GENESIS, AuditRecord, ChainedEntry, chained, time_text, with_hash

_ROW: Final = 1
_ENTRY: Final = (
    col(AuditRow.n), col(AuditRow.hash), col(AuditRow.at), col(AuditRow.actor), col(AuditRow.action), col(AuditRow.object),
    col(AuditRow.status), col(AuditRow.request_id),
)  # fmt: skip


def tail(session: Session, *, for_update: bool = False) -> Tail:
    """Return the end of the chain. for_update: nobody else appends until this transaction ends."""
    wanted = select(col(AuditTailRow.n), col(AuditTailRow.hash)).where(col(AuditTailRow.id) == _ROW)
    found = session.execute(wanted.with_for_update() if for_update else wanted).first()
    return Tail(0, GENESIS) if found is None else Tail(int(found[0]), bytes.fromhex(found[1]))


def append(session: Session, entries: Sequence[NewEntry]) -> None:
    """Write entries at the end of the chain. Others wait from here on until this transaction ends."""
    end = tail(session, for_update=True)
    n, before, rows = end.n, end.hash, []
    for entry in entries:
        n += 1
        made = chained(before, entry.record(n))
        before = bytes.fromhex(made.hash)
        rows.append(
            {"n": n, "hash": made.hash, "at": entry.at, "actor": entry.actor, "action": entry.action,
             "object": entry.object, "status": entry.status, "request_id": entry.request_id}
        )  # fmt: skip
    session.execute(insert(AuditRow), rows)
    _move_tail(session, n, before)


def chain_strays(session: Session, most: int) -> int:
    """Give rows of a server of before the chain their places at its end, the oldest first; return how many there were."""
    ids = select(col(AuditRow.id)).where(col(AuditRow.n).is_(None)).limit(1)
    if session.scalar(ids) is None:
        return 0
    end = tail(session, for_update=True)
    row = AuditRow
    strays = session.execute(
        select(col(row.id), *_ENTRY[2:]).where(col(row.n).is_(None)).order_by(col(row.id)).limit(most)
    ).all()
    n, before = end.n, end.hash
    for row_id, at, actor, action, target, status, request_id in strays:
        n += 1
        made = chained(before, NewEntry(at, actor, action, target, status, request_id).record(n))
        before = bytes.fromhex(made.hash)
        session.execute(update(AuditRow).where(col(row.id) == row_id).values(n=n, hash=made.hash))
    _move_tail(session, n, before)
    return len(strays)


def _move_tail(session: Session, n: int, last: bytes) -> None:
    values = {"n": n, "hash": last.hex()}
    moved = session.execute(update(AuditTailRow).where(col(AuditTailRow.id) == _ROW).values(**values))
    if moved.rowcount == 0:  # type: ignore[attr-defined]  # CursorResult of an UPDATE
        session.execute(insert(AuditTailRow).values(id=_ROW, **values))


def entries(session: Session, after: int, limit: int) -> list[ChainedEntry]:
    """Return entries behind a place, in the order of the chain."""
    number = col(AuditRow.n)
    found = session.execute(select(*_ENTRY).where(number > after).order_by(number).limit(limit))
    return [
        with_hash(
            AuditRecord(
                action=action, actor=actor, at=time_text(at), n=int(n), object=target, request_id=request_id, status=status
            ),
            own or "",
        )
        for n, own, at, actor, action, target, status, request_id in found
    ]  # fmt: skip


def hashes(session: Session, after: int, until: int) -> list[bytes]:
    """Return the hashes of the entries behind one place up to another."""
    number = col(AuditRow.n)
    wanted = select(col(AuditRow.hash)).where(number > after, number <= until).order_by(number)
    return [bytes.fromhex(found or "") for found in session.scalars(wanted)]


def newest_head(session: Session) -> AuditHead | None:
    """Return the newest head."""
    found = session.scalars(select(AuditHeadRow).order_by(col(AuditHeadRow.size).desc()).limit(1)).first()
    return None if found is None else _head(found)


def head(session: Session, size: int) -> AuditHead | None:
    """Return the head over so many entries."""
    found = session.get(AuditHeadRow, size)
    return None if found is None else _head(found)


def heads(session: Session, page: PageRequest) -> Page[AuditHead]:
    """Return one page of heads, the newest first as usual."""
    size = col(AuditHeadRow.size)
    query = walked(select(AuditHeadRow), size, page.after_number(), page.limit + 1, is_down=not page.is_turned)
    total = session.scalar(select(func.count()).select_from(AuditHeadRow)) or 0
    found = cut_page(list(session.scalars(query)), page, total, lambda row: str(row.size))
    return found.of([_head(row) for row in found.items])


def add_head(session: Session, made: AuditHeadRow) -> None:
    """Keep a head."""
    session.add(made)
    session.flush()


def nodes(session: Session, level: int, first: int, count: int) -> list[bytes]:
    """Return kept subtrees of a level, from a place on."""
    row = AuditNodeRow
    wanted = select(col(row.hash)).where(
        col(row.level) == level, col(row.place) >= first, col(row.place) < first + count
    )
    return [bytes.fromhex(found) for found in session.scalars(wanted.order_by(col(row.place)))]


def count_nodes(session: Session, level: int) -> int:
    """Return how many subtrees of a level are kept: they are the first ones."""
    last = session.scalar(select(func.max(col(AuditNodeRow.place))).where(col(AuditNodeRow.level) == level))
    return 0 if last is None else int(last) + 1


def add_nodes(session: Session, level: int, first: int, found: Sequence[bytes]) -> None:
    """Keep subtrees of a level, from a place on."""
    rows = [{"level": level, "place": first + i, "hash": one.hex()} for i, one in enumerate(found)]
    session.execute(insert(AuditNodeRow), rows)


def own_check(session: Session) -> OwnCheck:
    """Return how far the server has read its own trail again."""
    found = session.get(AuditCheckRow, _ROW)
    if found is None:
        return OwnCheck(0, GENESIS, None, 0)
    return OwnCheck(found.n, bytes.fromhex(found.hash), found.whole_at, found.broken_n)


def put_check(session: Session, check: OwnCheck) -> None:
    """Remember how far the server has read its own trail again."""
    values: dict[str, Any] = {
        "n": check.n, "hash": check.hash.hex(), "whole_at": check.whole_at, "broken_n": check.broken_n,
    }  # fmt: skip
    moved = session.execute(update(AuditCheckRow).where(col(AuditCheckRow.id) == _ROW).values(**values))
    if moved.rowcount == 0:  # type: ignore[attr-defined]  # CursorResult of an UPDATE
        session.execute(insert(AuditCheckRow).values(id=_ROW, **values))


def pieces(session: Session, after: int, until: int, size: int) -> Iterator[list[ChainedEntry]]:
    """Yield the entries behind one place up to another in pieces, the last of which may be short or the trail's end."""
    while after < until:
        found = entries(session, after, min(size, until - after))
        if not found:
            return
        yield found
        after = found[-1].n


def _head(row: AuditHeadRow) -> AuditHead:
    return AuditHead(at=time_text(row.at), chain=row.chain, root=row.root, size=row.size)
