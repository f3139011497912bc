"""`edgectl audit` against a served house: export, verify, prove; and what it says when rows were changed behind the server's back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_cli.audit.audit_state import state_of
from edgefleet_cli.core.files import write_private
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.process.lifecycle.engine_work import publish_audit_head
from edgefleet_terms.audit_chain.audit_head import head_bytes
from tests.cli.conftest import Edgectl
from tests.server.dashboard.serving import served
from tests.support.servers import ApiHouse

ENTRIES = 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiHouse, str]]:
    """A house with a published head over 30 entries and five more, served."""
    house = ApiHouse(tmp_path_factory.mktemp("audit") / "server", clock=SystemClock())
    record(house, ENTRIES)
    publish_audit_head(house.parts)
    record(house, 5)
    with served(house.own_app()) as url:
        yield house, url
    house.close()


def record(house: ApiHouse, count: int) -> None:
    with house.parts.db.session():
        for number in range(count):
            house.parts.access.record("ann", "create_rollout", f"/api/v1/rollouts/{number}", 201, f"r{number}")


@pytest.fixture
def house(site: tuple[ApiHouse, str], monkeypatch: pytest.MonkeyPatch) -> ApiHouse:
    """The house, signed in as an auditor."""
    monkeypatch.setenv("EDGECTL_SERVER", site[1])
    monkeypatch.setenv("EDGECTL_TOKEN", site[0].token(Role.AUDITOR))
    monkeypatch.setenv("COLUMNS", "80")
    return site[0]


@pytest.fixture
def spoiled(house: ApiHouse) -> Iterator[ApiHouse]:
    """The same house, whose trail is put back in order behind the test."""
    with house.parts.db.read() as session:
        rows = session.execute(text("SELECT * FROM audit")).mappings().all()
        tail = session.execute(text("SELECT * FROM audit_tail")).mappings().one()
        root = session.scalar(text("SELECT root FROM audit_head"))
    yield house
    with house.parts.db.session() as session:
        session.execute(text("DELETE FROM audit"))
        names = ", ".join(rows[0].keys())
        values = ", ".join(f":{name}" for name in rows[0])
        session.execute(text(f"INSERT INTO audit ({names}) VALUES ({values})"), [dict(row) for row in rows])
        session.execute(text("UPDATE audit_head SET root = :root"), {"root": root})
        session.execute(text("UPDATE audit_tail SET n = :n, hash = :hash"), {"n": tail["n"], "hash": tail["hash"]})


def change(house: ApiHouse, *statements: str) -> None:
    with house.parts.db.session() as session:
        for one in statements:
            session.execute(text(one))


def test_a_whole_trail_is_verified_and_its_head_remembered(
    edgectl: Edgectl, house: ApiHouse, site: tuple[ApiHouse, str]
) -> None:
    first = edgectl("audit", "verify")
    assert first.code == 0, first.err
    assert "The audit trail is whole: 35 entries." in first.out
    assert "this machine goes by the root of trust" in first.err
    head = state_of(site[1]).head()
    assert head is not None
    assert head.size == ENTRIES
    second = edgectl("audit", "verify", "-o", "json")
    assert (second.code, second.json["is_whole"], second.json["seen"]["size"]) == (0, True, ENTRIES)
    assert second.json["published"]["root"] == head.root
    assert edgectl("audit", "heads", "-o", "name").out == "30\n"


def test_an_export_goes_on_where_it_was_cut(edgectl: Edgectl, house: ApiHouse, tmp_path: Path) -> None:
    out = tmp_path / "audit.jsonl"
    assert "35 entries in" in edgectl("audit", "export", "--out", out).out
    whole = out.read_bytes()
    assert [json.loads(line)["n"] for line in whole.splitlines()] == list(range(1, 36))
    for cut in (len(whole) // 2, 20, 0):
        out.write_bytes(whole[:cut])
        done = edgectl("audit", "export", "--out", out, "-o", "json")
        assert done.json["entries"] == 35
        assert out.read_bytes() == whole
    assert edgectl("audit", "verify", out).code == 0
    other = tmp_path / "letter.txt"
    other.write_text("dear ann")
    refused = edgectl("audit", "export", "--out", other)
    assert (refused.code, other.read_text()) == (2, "dear ann")
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(whole.splitlines(keepends=True)[:20]))
    checked = edgectl("audit", "verify", short)
    assert checked.code == 1
    assert "entries 21 to 30 were cut off the end" in checked.out
    out.write_bytes(whole.replace(b'"actor":"ann"', b'"actor":"bob"', 1))
    assert "entry 1 was changed" in edgectl("audit", "verify", out).out
    out.write_bytes(b"no entry\n")
    assert edgectl("audit", "verify", out).code == 1


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit SET actor = 'bo' WHERE n = 7", "entry 7 was changed"),
        ("DELETE FROM audit WHERE n = 7", "entry 7 was removed, before the head over 30 entries"),
        ("DELETE FROM audit WHERE n > 20", "entries 21 to 30 were cut off the end"),
    ],
)
def test_what_was_done_is_said(edgectl: Edgectl, spoiled: ApiHouse, statement: str, words: str) -> None:
    change(spoiled, statement)
    ran = edgectl("audit", "verify")
    assert ran.code == 1
    assert f"The audit trail is not whole: {words}" in ran.out
    machine = edgectl("audit", "verify", "-o", "json")
    assert (machine.code, machine.json["is_whole"]) == (1, False)


def test_a_head_that_this_machine_saw_is_held_against_a_new_history(
    edgectl: Edgectl, house: ApiHouse, site: tuple[ApiHouse, str]
) -> None:
    assert edgectl("audit", "verify").code == 0
    state = state_of(site[1])
    head = state.head()
    assert head is not None
    forged = replace(head, size=20, root="0" * 64)
    write_private(state.folder / "head.json", head_bytes(forged))
    ran = edgectl("audit", "verify")
    assert ran.code == 1
    assert "entries 1 to 20 were rewritten together with their hashes" in ran.out
    proof = edgectl("audit", "prove", "3", "--out", state.folder / "p.json")
    assert (proof.code, proof.error_code) == (1, "cli.audit_not_proven")
    assert "is not a beginning of it" in proof.err
    write_private(state.folder / "head.json", head_bytes(replace(head, root="0" * 64)))
    two = edgectl("audit", "verify")
    assert (two.code, two.error_code) == (1, "cli.audit_not_proven")
    assert "there are two heads over 30 entries" in two.err
    write_private(state.folder / "head.json", head_bytes(replace(head, size=99)))
    assert "cut off the end" in edgectl("audit", "verify").out


def test_a_head_that_nobody_signed_is_refused(edgectl: Edgectl, spoiled: ApiHouse) -> None:
    change(spoiled, f"UPDATE audit_head SET root = '{'0' * 64}'")
    ran = edgectl("audit", "verify")
    assert (ran.code, ran.error_code) == (1, "cli.audit_not_proven")
    assert "is not the one that was signed" in ran.err


def test_an_entry_is_proven_without_a_server(
    edgectl: Edgectl, house: ApiHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "entry.json"
    made = edgectl("audit", "prove", "17", "--out", out)
    assert made.code == 0, made.err
    assert "proves entry 17 under the head over 30 entries" in " ".join(made.out.split())
    late = edgectl("audit", "prove", "33", "--out", out)
    assert late.code == 5
    assert "the head covers entries 1 to 30" in late.err
    monkeypatch.setenv("EDGECTL_SERVER", "http://127.0.0.1:1")
    good = edgectl("audit", "verify", "--proof", out)
    assert good.code == 0, good.err
    assert "Proven: entry 17 was in the audit trail" in good.out
    root = edgectl("audit", "verify", "--proof", out, "-o", "json").json["root_sha256"]
    monkeypatch.setenv("EDGECTL_CONFIG", str(tmp_path / "elsewhere" / "edgectl.json"))
    unknown = edgectl("audit", "verify", "--proof", out)
    assert (unknown.code, unknown.error_code) == (1, "cli.audit_not_proven")
    assert root in unknown.err
    assert edgectl("audit", "verify", "--proof", out, "--root-sha256", root).code == 0
    assert edgectl("audit", "verify", "--proof", out, "--root-sha256", "1" * 64).code == 1
    assert edgectl("audit", "verify", "--proof", out, "--root-sha256", "1").code == 2
    proof = json.loads(out.read_bytes())
    for path, value in (
        (("entry", "actor"), "bo"),
        (("entry", "n"), 18),
        (("before",), "0" * 64),
        (("path", 0), "0" * 64),
        (("head", "size"), 31),
        (("head", "root"), "0" * 64),
        (("head", "at"), "2020-01-01T00:00:00.000000Z"),
        (("signed", "audit"), proof["signed"]["targets"]),
        (("signed", "targets"), proof["signed"]["audit"]),
    ):
        forged = json.loads(out.read_bytes())
        place = forged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        file = tmp_path / "forged.json"
        file.write_text(json.dumps(forged))
        refused = edgectl("audit", "verify", "--proof", file, "--root-sha256", root)
        assert (refused.code, refused.error_code) == (1, "cli.audit_not_proven"), path
    (tmp_path / "no.json").write_text("{}")
    assert edgectl("audit", "verify", "--proof", tmp_path / "no.json").code == 2
