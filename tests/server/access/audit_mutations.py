"""Random mutations of an audit trail in its database, by somebody who may write every row: each must be found.

`./dev soak audit-mutations`. Half of the mutations are clumsy: rows change, hashes stay. The others know how the chain is made and
compute hashes anew, of the row or of all that follows, with the tail and the table of heads. What such a person does not have is the
published head, which is outside of the database.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlmodel import Session

from edgefleet_server.access.audit_chain.chain_book import AuditChain, lines
from edgefleet_server.db.keyset import PageRequest
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.chain_check import Damage, check
from edgefleet_terms.audit_chain.hash_chain import GENESIS, ChainedEntry, chained
from edgefleet_terms.audit_chain.merkle_tree import Frontier
from tests.support.servers import ApiHouse

ENTRIES: Final = 320
HEADS: Final = 4
MOVED: Final = 10_000_000
_FIELDS: Final = ("actor", "action", "object", "status", "request_id", "at", "hash")
Mutation = Callable[[Session, random.Random, int], set[Damage]]
"""Changes rows of a trail with a published head over so many entries; returns what may be said of it."""


class _UndoError(Exception):
    """Ends a transaction without a trace."""


def main(n: int, seed: int) -> dict[str, Any]:
    """Make `n` mutations, one at a time; ok when each was found and rightly named, and nothing is found without one."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    missed, misnamed = list[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="ef-audit-") as folder:
        house = ApiHouse(Path(folder) / "server")
        try:
            chain, published = filled(house, draw)
            seen = damage(chain, published)
            for number in range(n):
                kind, mutation = draw.choice(MUTATIONS)
                counts[kind] += 1
                expected, found = mutated(house, mutation, draw, published)
                if found is None:
                    missed.append(f"{number}: {kind}")
                elif found not in expected:
                    misnamed.append(f"{number}: {kind} was called {found}")
        finally:
            house.close()
    return {
        "entries": ENTRIES,
        "found": n - len(missed),
        "named": n - len(missed) - len(misnamed),
        "false_alarms": int(seen is not None),
        "kinds": dict(sorted(counts.items())),
        "missed": missed[:10],
        "misnamed": misnamed[:10],
        "ok": not missed and not misnamed and seen is None,
    }


def filled(house: ApiHouse, draw: random.Random) -> tuple[AuditChain, AuditHead]:
    """Write a trail with some heads; return it and the last one, which counts as published."""
    access = house.parts.access
    head = None
    for _ in range(HEADS):
        for _ in range(ENTRIES // HEADS):
            who, where = draw.choice(("ann", "bo", "cy")), draw.randrange(1000)
            access.record(who, draw.choice(("create_rollout", "revoke_device")), f"/api/v1/{where}", 201, f"r{where}")
            house.clock.turn(seconds=1)
        head = access.chain.make_head()
    assert head is not None
    return access.chain, head


def damage(chain: AuditChain, published: AuditHead) -> Damage | None:
    """Return what a check from outside says."""
    entries = list(lines(chain, 0, 10 * ENTRIES))
    heads = {head.size: head for head in chain.heads(PageRequest(500)).items if head.size <= published.size}

    def again(place: int) -> Iterator[ChainedEntry]:
        return iter(entries[place:])

    finding = check(iter(entries), heads | {published.size: published}, {published.size}, again).finding
    return None if finding is None else finding.kind


def mutated(
    house: ApiHouse, mutation: Mutation, draw: random.Random, published: AuditHead
) -> tuple[set[Damage], Damage | None]:
    """Return what may be said of a mutation and what is said, and take it back."""
    found: tuple[set[Damage], Damage | None] | None = None
    try:
        with house.parts.db.session() as session:
            expected = mutation(session, draw, published.size)
            found = expected, damage(house.parts.access.chain, published)
            raise _UndoError
    except _UndoError:
        assert found is not None
        return found


def _change(session: Session, draw: random.Random, size: int) -> set[Damage]:
    field, n = draw.choice(_FIELDS), draw.randint(1, size)
    value: object = {"status": 418, "at": "2020-01-01 00:00:00.000000", "hash": "0" * 64}.get(field, "mallory")
    session.execute(text(f"UPDATE audit SET {field} = :value WHERE n = :n"), {"value": value, "n": n})
    return {Damage.CHANGED}


def _change_with_its_hash(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size)
    session.execute(text("UPDATE audit SET actor = 'mallory' WHERE n = :n"), {"n": n})
    _chain_again(session, n, n)
    return {Damage.CHANGED, Damage.REWRITTEN}


def _change_and_chain_again(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size)
    session.execute(text("UPDATE audit SET actor = 'mallory' WHERE n = :n"), {"n": n})
    _chain_again(session, n, size)
    if draw.random() < 0.5:
        _heads_again(session)
    return {Damage.REWRITTEN}


def _remove(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n, count = draw.randint(1, size - 1), draw.choice((1, 1, 3))
    session.execute(text("DELETE FROM audit WHERE n >= :n AND n < :end"), {"n": n, "end": min(n + count, size)})
    return {Damage.REMOVED}


def _remove_and_renumber(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size - 1)
    session.execute(text("DELETE FROM audit WHERE n = :n"), {"n": n})
    _shift(session, n, -1)
    return {Damage.REMOVED, Damage.CHANGED}


def _remove_and_chain_again(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size - 1)
    session.execute(text("DELETE FROM audit WHERE n = :n"), {"n": n})
    _shift(session, n, -1)
    _chain_again(session, n, size - 1)
    return {Damage.REWRITTEN, Damage.CUT_OFF}


def _swap(session: Session, draw: random.Random, size: int) -> set[Damage]:
    one, two = draw.sample(range(1, size + 1), 2)
    for old, new in ((one, -1), (two, one), (-1, two)):
        session.execute(text("UPDATE audit SET n = :new WHERE n = :old"), {"new": new, "old": old})
    return {Damage.SWAPPED}


def _add(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size)
    _shift(session, n - 1, 1)
    session.execute(
        text(
            "INSERT INTO audit (at, actor, action, object, status, request_id, n, hash) SELECT at, 'mallory', action,"
            " object, status, request_id, :n, hash FROM audit WHERE n = :other"
        ),
        {"n": n, "other": n + 1},
    )
    return {Damage.ADDED}


def _cut_off(session: Session, draw: random.Random, size: int) -> set[Damage]:
    n = draw.randint(1, size)
    session.execute(text("DELETE FROM audit WHERE n >= :n"), {"n": n})
    last = session.scalar(text("SELECT hash FROM audit WHERE n = :n"), {"n": n - 1}) or GENESIS.hex()
    session.execute(text("UPDATE audit_tail SET n = :n, hash = :hash"), {"n": n - 1, "hash": last})
    session.execute(text("DELETE FROM audit_head WHERE size >= :n"), {"n": n})
    return {Damage.CUT_OFF}


def _change_a_head(session: Session, draw: random.Random, size: int) -> set[Damage]:
    sizes: Sequence[int] = session.scalars(text("SELECT size FROM audit_head WHERE size < :n"), {"n": size}).all()
    session.execute(
        text("UPDATE audit_head SET root = :root WHERE size = :size"), {"root": "0" * 64, "size": draw.choice(sizes)}
    )
    return {Damage.HEAD_CHANGED}


MUTATIONS: Final[Sequence[tuple[str, Mutation]]] = (
    ("change", _change),
    ("change, its hash too", _change_with_its_hash),
    ("change, all hashes too", _change_and_chain_again),
    ("remove", _remove),
    ("remove, numbers too", _remove_and_renumber),
    ("remove, all hashes too", _remove_and_chain_again),
    ("swap", _swap),
    ("add", _add),
    ("cut off the end", _cut_off),
    ("change a head", _change_a_head),
)


def _shift(session: Session, after: int, by: int) -> None:
    """Renumber what stands behind a place; by way of numbers that nobody has, for they are unique."""
    session.execute(text("UPDATE audit SET n = n + :far WHERE n > :after"), {"far": MOVED, "after": after})
    session.execute(text("UPDATE audit SET n = n - :far + :by WHERE n > :far"), {"far": MOVED, "by": by})


def _chain_again(session: Session, first: int, last: int) -> None:
    """Compute the hashes of entries anew, and the tail's."""
    from edgefleet_server.access.audit_chain import chain_store

    before = GENESIS if first == 1 else chain_store.hashes(session, first - 2, first - 1)[0]
    for entry in chain_store.entries(session, first - 1, last - first + 1):
        made = chained(before, entry.record())
        before = bytes.fromhex(made.hash)
        session.execute(text("UPDATE audit SET hash = :hash WHERE n = :n"), {"hash": made.hash, "n": entry.n})
    session.execute(text("UPDATE audit_tail SET n = :n, hash = :hash WHERE n <= :n"), {"n": last, "hash": before.hex()})


def _heads_again(session: Session) -> None:
    """Make all heads anew that the database has."""
    from edgefleet_server.access.audit_chain import chain_store

    sizes = set(session.scalars(text("SELECT size FROM audit_head")))
    tree = Frontier()
    for entry in chain_store.entries(session, 0, 10 * ENTRIES):
        tree.add(bytes.fromhex(entry.hash))
        if tree.size in sizes:
            values = {"chain": entry.hash, "root": tree.root().hex(), "size": tree.size}
            session.execute(text("UPDATE audit_head SET chain = :chain, root = :root WHERE size = :size"), values)
