"""The audit trail as a chain on both databases: order, heads, what TUF has of them, proofs, and what the server finds by itself."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from edgefleet_server import migrations
from edgefleet_server.access.audit_chain.chain_book import AuditChain, lines
from edgefleet_server.access.audit_chain.kept_tree import KeptTree
from edgefleet_server.access.errors import BrokenTrailError, UnknownEntryError
from edgefleet_server.access.model import Role
from edgefleet_server.db.database import Database
from edgefleet_server.process.lifecycle.engine_work import publish_audit_head
from edgefleet_server.signing.errors import KeysMissingError, KeysUnreadableError
from edgefleet_terms.audit_chain.audit_head import HEAD_TARGET, head_bytes
from edgefleet_terms.audit_chain.chain_check import Damage, check
from edgefleet_terms.audit_chain.hash_chain import entry_of
from edgefleet_terms.audit_chain.merkle_tree import Frontier, is_consistent, is_included, leaf_hash
from tests.house.soak import in_ci
from tests.server.access import audit_mutations
from tests.support.servers import ApiHouse

API = "/api/v1"


def write(house: ApiHouse, count: int, who: str = "ann") -> AuditChain:
    """Write entries, all in one transaction."""
    access = house.parts.access
    with house.parts.db.session():
        for number in range(count):
            access.record(who, "create_rollout", f"/api/v1/rollouts/{number}", 201, f"r{number}")
    return access.chain


def roots(chain: AuditChain) -> dict[int, bytes]:
    """Return the root over the first entries for each size, computed from the first on."""
    tree, found = Frontier(), dict[int, bytes]()
    for entry in lines(chain, 0, 100_000):
        tree.add(bytes.fromhex(entry.hash))
        found[tree.size] = tree.root()
    return found


def whole(chain: AuditChain) -> Damage | None:
    entries = list(lines(chain, 0, 100_000))
    finding = check(iter(entries), {}, (), lambda place: iter(entries[place:])).finding
    return None if finding is None else finding.kind


def test_entries_are_numbered_and_chained_in_the_order_of_their_transactions(any_house: ApiHouse) -> None:
    chain, access, db = any_house.parts.access.chain, any_house.parts.access, any_house.parts.db
    access.record("ann", "create_rollout", "/a", 201, "r1")
    with pytest.raises(RuntimeError, match="back"):
        _taken_back(any_house)
    with db.session():
        access.record("bo", "create_rollout", "/b", 201, "r3")
        access.record("bo", "create_rollout", "/c", 201, "r4")
    found = chain.entries(0, 10)
    assert [(one.n, one.record().object) for one in found] == [(1, "/a"), (2, "/b"), (3, "/c")]
    assert whole(chain) is None
    rows = any_house.client(Role.AUDITOR).get(f"{API}/audit").json()["items"]
    assert [(row["n"], row["hash"]) for row in rows] == [(one.n, one.hash) for one in reversed(found)]
    assert datetime.fromisoformat(found[0].record().at) == datetime.fromisoformat(rows[-1]["at"])


def test_an_entry_waits_for_no_transaction_that_is_still_open(any_house: ApiHouse) -> None:
    access, db = any_house.parts.access, any_house.parts.db
    if db.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    is_open, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with db.session():
            access.record("slow", "create_rollout", "/slow", 201, "r")
            is_open.set()
            assert may_end.wait(60)

    other = threading.Thread(target=slow)
    other.start()
    assert is_open.wait(60)
    access.record("quick", "create_rollout", "/quick", 201, "r")
    assert [one.record().actor for one in access.chain.entries(0, 10)] == ["quick"]
    may_end.set()
    other.join(60)
    assert [one.record().actor for one in access.chain.entries(0, 10)] == ["quick", "slow"]


def test_many_writers_make_one_chain(any_house: ApiHouse) -> None:
    access = any_house.parts.access

    def some() -> None:
        for number in range(10):
            access.record("ann", "create_rollout", f"/{number}", 201, "r")

    writers = [threading.Thread(target=some) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert [one.n for one in access.chain.entries(0, 100)] == list(range(1, 41))
    assert whole(access.chain) is None


def test_heads_and_proofs_are_those_of_the_whole_tree(any_house: ApiHouse) -> None:
    chain = write(any_house, 300)
    assert chain.make_head() == chain.make_head(), "nothing new: no new head"
    write(any_house, 250)
    newest = chain.make_head()
    expected = roots(chain)
    assert newest is not None
    assert (newest.size, newest.root) == (550, expected[550].hex())
    assert chain.head(300).root == expected[300].hex()
    assert newest.chain == chain.entries(549, 1)[0].hash
    client = any_house.client(Role.AUDITOR)
    assert [one["size"] for one in client.get(f"{API}/audit/heads").json()["items"]] == [550, 300]
    for n in (1, 2, 255, 256, 257, 299, 300, 513, 550):
        for size in (300, 550):
            if n > size:
                continue
            proof = chain.prove(n, size, 300)
            leaf = leaf_hash(bytes.fromhex(proof.entry.hash))
            assert is_included(leaf, n - 1, size, proof.path, expected[size])
            assert is_consistent(300, expected[300], size, expected[size], proof.since)
    for n, of in ((0, None), (551, None), (301, 300), (1, 299)):
        with pytest.raises(UnknownEntryError):
            chain.prove(n, of, None)
    answer = client.get(f"{API}/audit/entries/257/proof", params={"since": 300}).json()
    assert answer["head"] == {"at": newest.at, "chain": newest.chain, "root": newest.root, "size": 550}
    assert answer["path"] == [one.hex() for one in chain.prove(257, None, None).path]
    missing = client.get(f"{API}/audit/entries/551/proof")
    assert (missing.status_code, missing.json()["code"]) == (404, "access.audit_unknown")


def test_subtrees_are_kept_and_are_those_of_the_leaves(house: ApiHouse) -> None:
    chain = write(house, 1_100)
    write(house, 1)
    chain.make_head()
    with house.parts.db.session() as session:
        kept = session.execute(text("SELECT level, place, hash FROM audit_node ORDER BY level, place")).all()
        tree = KeptTree(session)
        assert not tree.grow(1_101, 10_000), "nothing is left to keep"
        assert [(level, place) for level, place, _ in kept] == [(8, 0), (8, 1), (8, 2), (8, 3)]
        assert tree.root((0, 1_101)) == roots(chain)[1_101]


def test_entries_are_given_out_as_they_are_hashed(house: ApiHouse) -> None:
    chain = write(house, 30)
    client = house.client(Role.AUDITOR)
    answer = client.get(f"{API}/audit/entries", params={"after": 10, "limit": 15})
    assert answer.headers["content-type"].startswith("application/octet-stream")
    found = [entry_of(line) for line in answer.content.splitlines(keepends=True)]
    assert found == chain.entries(10, 15)
    assert client.get(f"{API}/audit/entries", params={"after": 30}).content == b""
    state = client.get(f"{API}/audit/chain").json()
    assert (state["entries"], state["head"], state["holds"]) == (30, None, True)


def test_tuf_names_the_newest_head_by_a_role_of_its_own(any_house: ApiHouse) -> None:
    parts, signing = any_house.parts, any_house.parts.signing
    publish_audit_head(parts)
    assert "audit" not in [one.name for one in signing.roles()], "no entry, no head"
    write(any_house, 3)
    publish_audit_head(parts)
    first = parts.access.chain.head(3)
    target = signing.find_as_client(HEAD_TARGET).target
    assert target is not None
    target.verify_length_and_hashes(head_bytes(first))
    role = signing.role("audit")
    assert role.keys == [signing.role("audit").keys[0]]
    assert {*role.keys}.isdisjoint({key for one in signing.roles() if one.name != "audit" for key in one.keys})
    assert (any_house.settings.keys_dir / "audit.pem").stat().st_mode & 0o777 == 0o600
    write(any_house, 1)
    publish_audit_head(parts)
    assert signing.role("audit").version == role.version, "not before an hour is over"
    any_house.clock.turn(seconds=3_600)
    publish_audit_head(parts)
    target = signing.find_as_client(HEAD_TARGET).target
    assert target is not None
    assert target.custom == {"size": 4}
    version = signing.role("audit").version
    AuditChain(parts.db, any_house.clock)
    assert not signing.publish_audit_head(head_bytes(parts.access.chain.head(4)), 4)
    assert signing.role("audit").version == version
    assert signing.find_as_client("director/x").target is None, "the rest of the repository is sound"


def test_a_replica_with_another_key_signs_no_head(house: ApiHouse) -> None:
    write(house, 3)
    publish_audit_head(house.parts)
    key = house.settings.keys_dir / "audit.pem"
    key.write_bytes((house.settings.keys_dir / "targets.pem").read_bytes())
    from edgefleet_server.signing.service import SigningService

    other = SigningService(house.parts.db, house.settings.keys_dir, house.clock)
    with pytest.raises(KeysUnreadableError, match=r"audit\.pem holds another key"):
        other.publish_audit_head(b"another head", 4)
    key.unlink()
    again = SigningService(house.parts.db, house.settings.keys_dir, house.clock)
    with pytest.raises(KeysMissingError):
        again.publish_audit_head(b"another head", 4)


def test_a_trail_that_was_computed_anew_is_not_what_was_published(house: ApiHouse) -> None:
    chain = write(house, 40)
    publish_audit_head(house.parts)
    published = chain.head(40)
    with house.parts.db.session() as session:
        session.execute(text("UPDATE audit SET actor = 'mallory' WHERE n = 7"))
        audit_mutations._chain_again(session, 7, 40)
        audit_mutations._heads_again(session)
    assert whole(chain) is None, "by itself it follows"
    assert audit_mutations.damage(chain, published) is Damage.REWRITTEN


def test_random_mutations_are_found() -> None:
    result = audit_mutations.main(in_ci("audit-mutations"), 20_261_201)
    assert result["ok"], result


def test_the_server_finds_what_was_changed_and_makes_no_head_over_it(any_house: ApiHouse) -> None:
    parts, chain = any_house.parts, write(any_house, 20)
    chain.make_head()
    chain.read_again()
    state = chain.state()
    assert (state.holds, state.check.whole_at) == (True, any_house.clock.now())
    with parts.db.session() as session:
        session.execute(text("UPDATE audit SET actor = 'mallory' WHERE n = 12"))
    with pytest.raises(BrokenTrailError, match="entry 12"):
        chain.read_again()
    assert not chain.state().holds
    body = any_house.client(Role.AUDITOR).get(f"{API}/audit/chain").json()
    assert (body["holds"], body["broken_n"]) == (False, 12)
    with parts.db.session() as session:
        session.execute(text("UPDATE audit SET actor = 'ann' WHERE n = 12"))
    chain.read_again()
    assert chain.state().holds
    write(any_house, 5)
    with parts.db.session() as session:
        session.execute(text("DELETE FROM audit WHERE n = 23"))
    with pytest.raises(BrokenTrailError, match="entry 23"):
        chain.make_head()
    assert chain.state().head == chain.head(20)


def test_the_server_misses_entries_that_a_head_covers(house: ApiHouse) -> None:
    chain = write(house, 20)
    chain.make_head()
    with house.parts.db.session() as session:
        last = chain.entries(14, 1)[0].hash
        session.execute(text("DELETE FROM audit WHERE n > 15"))
        session.execute(text("UPDATE audit_tail SET n = 15, hash = :hash"), {"hash": last})
    with pytest.raises(BrokenTrailError, match="entry 16"):
        chain.read_again()


def test_rows_of_a_server_of_before_the_chain_are_chained_with_the_next_head(any_house: ApiHouse) -> None:
    chain, db = write(any_house, 2), any_house.parts.db
    old = (
        "INSERT INTO audit (at, actor, action, object, status, request_id)"
        " VALUES ('2026-11-25 12:00:00', 'old', 'create_rollout', '/x', 201, 'r')"
    )
    with db.session() as session:
        session.execute(text(old))
    assert len(any_house.client(Role.AUDITOR).get(f"{API}/audit").json()["items"]) == 3
    head = chain.make_head()
    assert head is not None
    assert [one.record().actor for one in chain.entries(0, 10)] == ["ann", "ann", "old"]
    assert (head.size, whole(chain)) == (3, None)


def test_the_step_chains_what_is_there(empty_database_url: str) -> None:
    db = Database(empty_database_url)
    try:
        steps = migrations.config(db)
        command.upgrade(steps, "1018")
        row = "INSERT INTO audit (at, actor, action, object, status, request_id) VALUES (:at, :actor, 'a', '/ü', 200, 'r')"
        with db.session() as session:
            for number in range(7):
                at = datetime(2026, 1, 1, 0, 0, number, 17, tzinfo=UTC)
                shown = f"{at:%Y-%m-%d %H:%M:%S.%f}" + ("" if db.is_sqlite else "+00:00")
                session.execute(text(row), {"at": shown, "actor": f"ann {number}"})
        migrations.upgrade(db)
        chain = AuditChain(db, _NoClock())
        found = chain.entries(0, 10)
        assert [(one.n, one.record().actor) for one in found] == [(n, f"ann {n - 1}") for n in range(1, 8)]
        assert found[3].record().at == "2026-01-01T00:00:03.000017Z"
        assert whole(chain) is None
        assert chain.state().entries == 7
    finally:
        db.dispose()


def test_who_is_no_auditor_reads_no_trail(house: ApiHouse) -> None:
    for path in ("/audit", "/audit/chain", "/audit/entries", "/audit/heads", "/audit/entries/1/proof"):
        for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER, Role.APPROVER):
            assert house.client(role).get(API + path).status_code == 403
    for role in (Role.AUDITOR, Role.ADMIN):
        assert house.client(role).get(f"{API}/audit").status_code == 200


def test_signed_files_are_given_out_as_they_are(house: ApiHouse) -> None:
    client = house.client(Role.VIEWER)
    root = client.get(f"{API}/trust/metadata/1.root.json")
    assert root.content == house.parts.signing.root_chain()[0]
    assert json.loads(root.content)["signed"]["_type"] == "root"
    for name in ("9.root.json", "root.json", "..%2f..%2fkeys%2froot.pem", "audit.pem"):
        assert client.get(f"{API}/trust/metadata/{name}").status_code == 404


def _taken_back(house: ApiHouse) -> None:
    """Write an entry in a transaction that fails."""
    with house.parts.db.session():
        house.parts.access.record("ann", "create_rollout", "/lost", 201, "r2")
        raise RuntimeError("goes back")


class _NoClock:
    """A clock that nobody asks."""

    def now(self) -> Any:
        raise AssertionError

    def monotonic_s(self) -> float:
        raise AssertionError
