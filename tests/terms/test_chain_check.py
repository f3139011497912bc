"""A changed audit trail is found and named: each kind of damage, where it is and between which heads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_terms.audit_chain.audit_head import AuditHead, BadHeadError, head_bytes, head_of
from edgefleet_terms.audit_chain.chain_check import Check, Damage, Finding, check
from edgefleet_terms.audit_chain.hash_chain import (
    GENESIS,
    AuditRecord,
    BadLineError,
    ChainedEntry,
    chained,
    entry_of,
    hash_of,
    time_text,
    with_hash,
)
from edgefleet_terms.audit_chain.merkle_tree import Frontier

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
COUNT = 40
HEADS_AT = (10, 25, 40)


def record(n: int, **changes: Any) -> AuditRecord:
    plain = AuditRecord(
        action="create_rollout",
        actor=f"ann ({n})",
        at=time_text(NOON + timedelta(seconds=n)),
        n=n,
        object=f"/api/v1/rollouts/{n}",
        request_id=f"r{n}",
        status=201,
    )
    return replace(plain, **changes)


def trail(records: Sequence[AuditRecord]) -> list[ChainedEntry]:
    found, before = list[ChainedEntry](), GENESIS
    for one in records:
        found.append(chained(before, one))
        before = bytes.fromhex(found[-1].hash)
    return found


WHOLE = trail([record(n) for n in range(1, COUNT + 1)])


def heads_of(entries: Sequence[ChainedEntry], sizes: Sequence[int] = HEADS_AT) -> dict[int, AuditHead]:
    tree, found = Frontier(), dict[int, AuditHead]()
    for entry in entries:
        tree.add(bytes.fromhex(entry.hash))
        if tree.size in sizes:
            found[tree.size] = AuditHead(at=entry.record().at, chain=entry.hash, root=tree.root().hex(), size=tree.size)
    return found


def checked(
    entries: Sequence[ChainedEntry], heads: dict[int, AuditHead] | None = None, sworn: Sequence[int] = (40,)
) -> Check:
    def again(place: int) -> Iterator[ChainedEntry]:
        return iter(entries[place:])

    return check(iter(entries), heads_of(WHOLE) if heads is None else heads, sworn, again)


def found(entries: Sequence[ChainedEntry], heads: dict[int, AuditHead] | None = None) -> Finding:
    finding = checked(entries, heads).finding
    assert finding is not None
    return finding


def renumbered(entries: Sequence[ChainedEntry]) -> list[ChainedEntry]:
    return [one._replace(n=n) for n, one in enumerate(entries, 1)]


def test_a_whole_trail_holds_and_its_root_is_that_of_its_head() -> None:
    whole = checked(WHOLE)
    assert whole.finding is None
    assert (whole.size, whole.root.hex()) == (COUNT, heads_of(WHOLE)[COUNT].root)
    assert checked([], {}).finding is None


def test_the_hash_is_that_of_canonical_json() -> None:
    strange = record(1, actor='"ü\n\x01\u2028', object="/a\\b\x7f")
    text = json.dumps(asdict(strange), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    entry = chained(GENESIS, strange)
    assert entry.body(1) == text.encode()
    assert entry_of(entry.line()) == entry
    assert entry.record() == strange
    assert chained(GENESIS, strange).hash == sha256(b"\0" + bytes(32) + text.encode()).hexdigest()


def test_each_mutation_is_found() -> None:
    k = 17
    at = k - 1
    other = chained(bytes.fromhex(WHOLE[at - 1].hash), record(k, actor="bo"))
    swapped = [*WHOLE]
    swapped[at], swapped[k + 5] = WHOLE[k + 5], WHOLE[at]
    neighbours = [*WHOLE]
    neighbours[at], neighbours[k] = WHOLE[k], WHOLE[at]
    cases: list[tuple[list[ChainedEntry], Finding]] = [
        (
            [*WHOLE[:at], with_hash(replace(WHOLE[at].record(), actor="bo"), WHOLE[at].hash), *WHOLE[k:]],
            Finding(Damage.CHANGED, k, 0, 10, 25),
        ),
        ([*WHOLE[:at], WHOLE[at]._replace(hash="0" * 64), *WHOLE[k:]], Finding(Damage.CHANGED, k, 0, 10, 25)),
        ([*WHOLE[:at], *WHOLE[k:]], Finding(Damage.REMOVED, k, k, 10, 25)),
        ([*WHOLE[:at], *WHOLE[k + 2 :]], Finding(Damage.REMOVED, k, k + 2, 10, 25)),
        (renumbered([*WHOLE[:at], *WHOLE[k:]]), Finding(Damage.REMOVED, k, 0, 10, 25)),
        (renumbered(swapped), Finding(Damage.SWAPPED, k, k + 6, 10, 25)),
        (renumbered(neighbours), Finding(Damage.SWAPPED, k, k + 1, 10, 25)),
        (renumbered([*WHOLE[:at], other, *WHOLE[at:]]), Finding(Damage.ADDED, k, 0, 10, 25)),
        ([*WHOLE[:at], other, *WHOLE[at:]], Finding(Damage.ADDED, k, 0, 10, 25)),
        ([*WHOLE[:k], other, *WHOLE[k:]], Finding(Damage.ADDED, k, 0, 10, 25)),
        (WHOLE[:30], Finding(Damage.CUT_OFF, 31, 40, 25, 40)),
        (WHOLE[:39], Finding(Damage.CUT_OFF, 40, 40, 25, 40)),
        ([], Finding(Damage.CUT_OFF, 1, 40, 0, 10)),
        (trail([record(n, actor="bo" if n == k else f"ann ({n})") for n in range(1, 41)]), Finding(Damage.REWRITTEN, 11, 40, 10, 40)),
    ]  # fmt: skip
    for entries, expected in cases:
        assert found(entries) == expected, expected.words
        assert str(expected.n) in expected.words


def test_a_change_with_its_own_hash_is_found_at_the_next_entry() -> None:
    again = chained(bytes.fromhex(WHOLE[15].hash), record(17, actor="bo"))
    assert found([*WHOLE[:16], again, *WHOLE[17:]]).n in {17, 18}


def test_heads_of_the_database_vouch_for_nothing() -> None:
    rewritten = trail([record(n, actor="bo" if n == 5 else f"ann ({n})") for n in range(1, 41)])
    heads = heads_of(rewritten) | {40: heads_of(WHOLE)[40]}
    assert found(rewritten, heads) == Finding(Damage.REWRITTEN, 1, 40, 0, 40)
    forged = heads_of(WHOLE)
    forged[25] = replace(forged[25], root="0" * 64)
    assert found(WHOLE, forged) == Finding(Damage.HEAD_CHANGED, 25)
    without = {size: head for size, head in forged.items() if size < 40}
    finding = checked(WHOLE, without, ()).finding
    assert finding == Finding(Damage.REWRITTEN, 11, 25, 10, 25)


def test_what_was_found_is_said_in_words() -> None:
    said = found([*WHOLE[:16], *WHOLE[17:]]).words
    assert said == "entry 17 was removed, after the head over 10 entries, before that over 25"
    assert found(WHOLE[:5]).words == "entries 6 to 40 were cut off the end, before the head over 10 entries"
    assert Finding(Damage.CHANGED, 3).words == "entry 3 was changed"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_random_change_of_a_line_passes(data: st.DataObject) -> None:
    lines = [bytearray(entry.line()) for entry in WHOLE]
    at = data.draw(st.integers(0, COUNT - 1))
    place = data.draw(st.integers(0, len(lines[at]) - 2))
    old = lines[at][place]
    lines[at][place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != old))
    try:
        entries = [entry_of(bytes(line)) for line in lines]
    except BadLineError:
        return
    assert checked(entries).finding is not None


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b'{"n":1}', b"\xff", json.dumps(asdict(WHOLE[0].record()) | {"hash": WHOLE[0].hash}, sort_keys=True).encode(),
     WHOLE[0].line().replace(b"}", b',"more":1}')],
)  # fmt: skip
def test_what_no_export_writes_is_no_entry(line: bytes) -> None:
    with pytest.raises(BadLineError):
        entry_of(line)


def test_heads_are_read_as_they_are_written() -> None:
    head = heads_of(WHOLE)[25]
    assert head_of(head_bytes(head)) == head
    assert head_bytes(head).startswith(b'{"at":"2026-11-25T12:00:25.000000Z","chain":"')
    for data in (
        b"",
        b"{}",
        head_bytes(head).replace(b'"size":25', b'"size":0'),
        head_bytes(head).replace(b'root":"', b'root":"A'),
    ):
        with pytest.raises(BadHeadError):
            head_of(data)
    assert hash_of("0" * 63) is None
    assert hash_of("G" * 64) is None
    assert hash_of("A" * 64) is None
