"""Prediction logs on the server: taken in once, packed, proved whole, let go."""

import io
from datetime import timedelta
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from sqlmodel import select

from edgefleet_protocol.desired import decode_desired
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import (
    FULL,
    LOST,
    REASON,
    Erased,
    Gap,
    Head,
    Part,
    encode_head,
    hash_of,
    left_open,
    pack_part,
    sampled,
    unpack_part,
)
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.telemetry.errors import (
    BadPredictionLogError,
    PredictionLogUnknownError,
)
from edgefleet_server.telemetry.predictions import service, store
from edgefleet_server.telemetry.predictions.model import MissingNumbers
from edgefleet_server.telemetry.predictions.rules import HeldPart, check_log
from edgefleet_server.telemetry.predictions.tables import PredictionFile
from tests.server.fleet.test_offering import ref
from tests.server.telemetry.prediction_site import MODEL, Site, forged, problems


def test_the_document_of_a_device_with_the_model_says_what_to_keep(site: Site) -> None:
    desired = decode_desired(parse_envelope(site.house.fleet.desired.ensure(DeviceId(site.device)).envelope).payload)
    assert desired.prediction_logs is msgspec.UNSET, "the device does not run the model"
    fleet = site.house.fleet

    def told() -> Any:
        (signed,) = fleet.desired.set_models([ModelChange(DeviceId(site.device), ModelName(MODEL), ref())])
        return decode_desired(parse_envelope(signed.envelope).payload).prediction_logs

    (asked,) = told().items()
    assert (asked[0], asked[1].ratio, asked[1].inputs, asked[1].erased) == (MODEL, 1.0, False, {})
    site.erasures.erase("ann", [], "ann")
    assert set(told()[MODEL].erased) == {site.subject("ann").hex()}
    site.house.clock.turn(days=31)
    assert told()[MODEL].erased == {}, "documents do not name a subject for good"
    with pytest.raises(BadPredictionLogError):
        site.logs.set(MODEL, "ann", ratio=1.0, inputs=True, keep_days=30)
    with pytest.raises(PredictionLogUnknownError):
        site.logs.verify("other")


def test_parts_count_once_and_a_whole_log_is_proved_before_and_after_packing(site: Site) -> None:
    site.answer(3)
    site.answer(2, "ann", lost=4)
    assert site.send() == 2
    assert site.send(1, 1, 2) == 0
    waiting = site.logs.verify(MODEL)
    assert (waiting.is_whole, waiting.rows, waiting.lost) == (True, 5, 4)
    assert site.logs.pack(MODEL) == 2
    (file,) = site.logs.files(MODEL)
    table = pq.read_table(io.BytesIO(site.logs.read_file(MODEL, file.id)))
    assert table.column("seq").to_pylist() == [1, 2, 3, 8, 9]
    assert set(table.column("label").to_pylist()) == {"seven"}
    packed = site.logs.verify(MODEL)
    assert (packed.is_whole, packed.rows, packed.lost) == (True, 5, 4)
    (log,) = packed.logs
    assert [(one.reason, one.n, one.ranges) for one in log.missing] == [("lost", 4, ["4-7"])]
    assert log.head == site.parts.status()["head"], "the device says the same"
    view = site.logs.view(MODEL)
    assert (view.state, view.rows, view.lost, view.waiting, view.devices) == ("complete", 5, 4, 0, 1)
    (event,) = site.house.fleet.feed.page(kinds=["prediction_gap"], limit=10)[0]
    assert event.detail["lost"] == {"lost": 4}


def test_a_changed_or_missing_part_is_found(site: Site) -> None:
    for _ in range(4):
        site.answer(2)
    site.send(1, 2, 4)
    assert problems(site) == ["parts 3 to 3 are missing, numbers 5 to 6"]
    site.send(3)
    assert problems(site) == []
    with site.house.db.session() as session:
        row = store.part(session, MODEL, site.device, site.parts.status()["log"], 2)  # type: ignore[arg-type]
        assert row is not None
        assert row.body is not None
        part = unpack_part(row.body)
        other = msgspec.structs.replace(part.rows[0], latency_us=1)
        row.body = pack_part(msgspec.structs.replace(part, rows=[other, part.rows[1]]))
    assert problems(site) == ["part 2 was changed: its hash is not the one that the device sent"]


def test_a_log_that_ends_early_is_seen_by_what_the_device_says(site: Site) -> None:
    site.answer(2)
    site.answer(2)
    site.send(1)
    status = site.parts.status()
    site.facts = {"prediction_log": {MODEL: [status["log"], status["parts"], status["head"]]}}
    (log,) = site.logs.verify(MODEL).logs
    assert (log.newest, log.written, log.problems) == (1, 2, []), "the second may be on its way"
    site.send(2)
    assert problems(site) == []
    site.facts["prediction_log"][MODEL][2] = "0" * 64
    assert problems(site) == ["the device says that part 2 is another one"]
    odd: list[Any] = [[], {MODEL: 5}, {MODEL: ["x", 1, "y"]}, {MODEL: [status["log"], "1", 2]}, None]
    for strange in odd:
        site.facts = {"prediction_log": strange}
        assert problems(site) == []


def test_a_changed_or_missing_file_is_found(site: Site) -> None:
    site.answer(2)
    site.send()
    site.logs.pack(MODEL)
    (file,) = site.logs.files(MODEL)
    path = site.house.settings.blobs_dir / file.id[:2] / file.id
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(good[:-9] + b"x" + good[-8:])
    assert len(problems(site)) == 1
    path.unlink()
    assert problems(site) == [f"part 1: its file {file.id[:16]} is missing"]
    assert not site.logs.verify(MODEL).is_whole


def test_what_no_device_makes_is_left_out(site: Site) -> None:
    site.answer(2)
    stranger = site.house.device().id
    sample = Sample(
        device=stranger, boot_id="b", seq=1, ts=0, task="", model=MODEL, reason=REASON, sealed=site.parts.read(1)
    )
    assert site.telemetry.ingest_samples([sample]) == 0, "the log of another device"
    assert site.send(change=lambda data: data[:-4]) == 0
    assert site.send(change=lambda _: b"") == 0
    assert site.send() == 1
    forged = unpack_part(site.parts.read(1))
    rows = [msgspec.structs.replace(row, latency_us=7) for row in forged.rows]
    assert site.send(1, change=lambda _: pack_part(msgspec.structs.replace(forged, rows=rows))) == 0
    assert len(site.house.fleet.feed.page(kinds=["prediction_conflict"], limit=10)[0]) == 1
    assert problems(site) == []


def test_files_go_after_their_days_and_the_rest_is_still_proved(any_site: Site) -> None:
    site = any_site
    for _ in range(3):
        site.answer(2)
        site.send()
        site.logs.pack(MODEL)
        site.house.clock.turn(days=10)
    site.house.clock.turn(days=15)
    assert site.logs.prune(site.house.clock.now()) == 2
    assert len(site.logs.files(MODEL)) == 1
    checked = site.logs.verify(MODEL)
    assert (checked.is_whole, checked.rows, checked.lost) == (True, 2, 0)
    assert [(one.reason, one.n) for one in checked.logs[0].missing] == [("expired", 4)]
    assert len(list(site.house.settings.blobs_dir.glob("??/*"))) == 1
    with site.house.db.read() as session:
        assert [row.part for row in store.parts(session, MODEL, site.device)] == [2, 3]


def test_a_part_that_went_after_its_days_and_comes_again_is_not_kept(any_site: Site) -> None:
    site = any_site
    for number in (1, 2, 3):
        site.answer(1)
        site.send(number)
    site.logs.pack(MODEL)
    site.house.clock.turn(days=31)
    assert site.logs.prune(site.house.clock.now()) == 1
    assert site.send(1, 2, 3) == 0
    site.answer(1)
    assert site.send(4) == 1
    assert problems(site) == []


def test_parts_that_go_before_an_older_one_stay_until_it_goes(any_site: Site) -> None:
    site = any_site
    for _ in range(5):
        site.answer(1)
    site.send(2, 3, 4)
    site.logs.pack(MODEL)
    site.house.clock.turn(minutes=5)
    site.send(1, 5)
    site.logs.pack(MODEL)
    site.house.clock.turn(days=30, minutes=-2)
    assert site.logs.prune(site.house.clock.now()) == 1
    assert problems(site) == []
    site.house.clock.turn(minutes=5)
    assert site.logs.prune(site.house.clock.now()) == 1
    with site.house.db.read() as session:
        assert [row.part for row in store.parts(session, MODEL, site.device)] == [5]


def test_packing_waits_and_a_half_made_file_is_removed(site: Site) -> None:
    site.answer(2)
    site.send()
    site.logs.tick(site.house.clock.now())
    assert site.logs.files(MODEL) == []
    site.house.clock.turn(minutes=16)
    site.logs.tick(site.house.clock.now())
    (file,) = site.logs.files(MODEL)
    with site.house.db.session() as session:
        row = store.file(session, file.id)
        assert row is not None
        row.is_whole = False
        (part,) = store.parts(session, MODEL, site.device)
        part.file, part.body = "", site.parts.read(1)
    site.house.clock.turn(hours=2)
    site.logs.tick(site.house.clock.now())
    assert len(site.logs.files(MODEL)) == 1
    assert problems(site) == []


def test_stopping_keeps_what_is_there(site: Site) -> None:
    site.answer(2)
    site.send()
    site.logs.stop(MODEL, "ann")
    assert (site.logs.view(MODEL).state, site.logs.verify(MODEL).rows) == ("off", 2)
    site.answer(1)
    assert site.send(2) == 1, "what was answered before the device heard of it"


@pytest.mark.parametrize(
    "head",
    [
        {"last": 9, "gaps": [Gap(3, 9, "sampled")]},
        {"last": 9, "gaps": [Gap(3, 9, "expired")]},
        {"last": 9, "gaps": [Gap(3, 9, LOST), Gap(3, 9, LOST)]},
        {"last": 9, "gaps": [Gap(6, 9, LOST), Gap(3, 5, FULL)]},
        {"model": "digits\0"},
    ],
)
def test_a_head_that_no_device_writes_is_left_out(site: Site, head: dict[str, Any]) -> None:
    site.answer(2)
    assert site.send(change=lambda data: forged(data, **head)) == 0
    short = unpack_part(site.parts.read(1))
    rows = [msgspec.structs.replace(row, salt=b"") for row in short.rows]
    assert site.send(change=lambda _: pack_part(Part(short.head, rows, []))) == 0
    assert site.send(change=lambda data: forged(data, last=9, gaps=[Gap(3, 5, FULL), Gap(6, 9, LOST)])) == 1


def test_two_servers_that_pack_the_same_parts_lose_none(site: Site) -> None:
    site.answer(2)
    site.send()
    with site.house.db.read() as session:
        rows = store.unpacked(session, MODEL, None)
    parts = [unpack_part(row.body or b"") for row in rows]
    first = site.logs.write_file(MODEL, parts, rows)
    assert site.logs.write_file(MODEL, parts, rows) == "", "the other was first"
    assert [file.id for file in site.logs.files(MODEL)] == [first]
    site.logs.drop_file(first)
    assert problems(site) == [], "a file with parts stays"


def test_an_odd_answer_has_no_columns_and_one_model_does_not_stop_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = msgspec.msgpack.encode({"fields": {"x": msgspec.msgpack.Ext(5, b"")}})
    deep = msgspec.msgpack.encode({"labels": ["a"]})[:1] + b"\xa6fields\x81\xa1x" + b"\x91" * 5_000 + b"\xc0"
    site.answer(2)
    part = unpack_part(site.parts.read(1))
    rows = [msgspec.structs.replace(row, body=body) for row, body in zip(part.rows, (odd, deep), strict=True)]
    assert site.send(change=lambda _: pack_part(Part(part.head, rows, []))) == 1
    site.house.clock.turn(minutes=16)
    packed: list[str] = []
    pack = site.logs.pack

    def fails_first(model: str) -> int:
        packed.append(model)
        if len(packed) == 1:
            raise RuntimeError("a bug")
        return pack(model)

    monkeypatch.setattr(site.logs, "pack", fails_first)
    waiting = {"another": (1, site.house.clock.now() - timedelta(days=1)), MODEL: (2, site.house.clock.now())}
    monkeypatch.setattr(store, "waiting", lambda _session: waiting)
    site.house.clock.turn(minutes=16)
    site.logs.tick(site.house.clock.now())
    assert packed == ["another", MODEL]
    (file,) = site.logs.files(MODEL)
    table = pq.read_table(io.BytesIO(site.logs.read_file(MODEL, file.id)))
    assert table.column("answer").to_pylist() == [None, None]
    assert problems(site) == []


def test_a_blob_store_that_fails_is_not_asked_in_each_tick(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answer(2)
    site.send()
    site.house.clock.turn(minutes=16)

    def fails(**_: Any) -> Any:
        raise BlobStoreError("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(site.blobs, "writer", fails)
        for _ in range(4):
            site.logs.tick(site.house.clock.now())
            site.house.clock.turn(seconds=2)
    with site.house.db.read() as session:
        assert len(session.exec(select(PredictionFile)).all()) == 1
    site.house.clock.turn(minutes=1)
    site.logs.tick(site.house.clock.now())
    assert (len(site.logs.files(MODEL)), problems(site)) == (1, [])


@pytest.mark.parametrize("what", ["erased", "expired"])
def test_what_goes_while_a_log_is_checked_is_no_problem(site: Site, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    for number in (1, 2):
        site.answer(1, "ann")
        site.send(number)
    site.logs.pack(MODEL)
    size = site.blobs.size

    def goes_meanwhile(sha256: Sha256) -> int | None:
        monkeypatch.setattr(site.blobs, "size", size)
        if what == "erased":
            site.erasures.erase("ann", [], "ann")
        else:
            site.logs.prune(site.house.clock.now() + timedelta(days=60))
        return size(sha256)

    monkeypatch.setattr(site.blobs, "size", goes_meanwhile)
    checked = site.logs.verify(MODEL)
    assert (checked.is_whole, checked.logs[0].missing[0].reason) == (True, what)


def test_a_file_has_a_bound_whatever_parts_hold(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        site.answer(3)
    site.send()
    monkeypatch.setattr(service, "PACK_ROWS", 5)
    assert site.logs.pack(MODEL) == 2
    monkeypatch.setattr(service, "PACK_BYTES", 1)
    assert [site.logs.pack(MODEL) for _ in range(3)] == [1, 1, 0]
    assert site.logs.verify(MODEL).rows == 12


def test_wide_gaps_and_shares_are_checked_without_counting_each_number() -> None:
    head = Head(1, "d", MODEL, "a", 1, b"", 1, 10**12, 1.0, [], [], "", [Gap(2, 10**12 - 1, LOST)])
    assert [*left_open(head, [1])] == [range(10**12, 10**12 + 1)]
    part = Part(encode_head(head), [], [])
    log = check_log("d", "a", [HeldPart(1, part.head, hash_of(part).hex(), hash_of(part).hex(), [])])
    assert log.problems == ["part 1 has no row and no reason for 2 numbers, the first is 1"]
    share = Part(encode_head(msgspec.structs.replace(head, last=100, ratio=0.25, gaps=[])), [], [])
    kept = [*sampled("a", 1, 100, 0.25)]
    log = check_log("d", "a", [HeldPart(1, share.head, hash_of(share).hex(), hash_of(share).hex(), [])])
    assert log.problems == [f"part 1 has no row and no reason for {len(kept)} numbers, the first is {kept[0]}"]
    assert (log.ratio, log.missing) == (0.25, [MissingNumbers("sampled", 100 - len(kept))])
    wide = Part(encode_head(msgspec.structs.replace(head, last=10**12, ratio=0.01, gaps=[])), [], [])
    log = check_log("d", "a", [HeldPart(1, wide.head, hash_of(wide).hex(), hash_of(wide).hex(), [])])
    assert "no reason for at least 1000 numbers" in log.problems[0]


def test_a_part_that_goes_before_an_older_one_is_listed_as_expired() -> None:
    held: list[HeldPart] = []
    before = b""
    for number in (1, 2, 3):
        head = Head(1, "d", MODEL, "a", number, before, 2 * number - 1, 2 * number, 1.0, [], [], "", [])
        part = Part(encode_head(head), [], [Erased(seq, b"l" * 32) for seq in (head.first, head.last)])
        before = hash_of(part)
        held.append(HeldPart(number, part.head, before.hex(), before.hex(), [head.first, head.last]))
    held[1] = HeldPart(2, held[1].head, held[1].hash)
    log = check_log("d", "a", held)
    assert (log.problems, log.missing) == ([], [MissingNumbers("expired", 2, ["3-4"])])
