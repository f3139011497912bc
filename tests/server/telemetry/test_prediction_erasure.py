"""Erasure of a subject from prediction logs: nowhere any more, the log still proved, and what a receipt says."""

import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlmodel import select

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.feedback_csv import Row
from edgefleet_protocol.ids import ModelName
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import (
    REASON,
    erase,
    pack_part,
    unpack_part,
)
from edgefleet_server.db.database import Database
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.errors import (
    DataSetUnknownError,
    ErasureUnfinishedError,
)
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.ground_truth.errors import NoLabelsError
from edgefleet_server.telemetry.ground_truth.tables import FeedbackPart, TruthLabel
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads
from edgefleet_server.telemetry.predictions import store
from edgefleet_server.telemetry.predictions.data_set_book import DataSetBook, NewDataSet
from edgefleet_server.telemetry.predictions.erasure import WAL, Erasures
from edgefleet_server.telemetry.predictions.tables import ErasedAnswer
from edgefleet_server.telemetry.predictions.tombstones import Tombstones
from edgefleet_server.telemetry.tables import TelemetryCapture
from tests.server.fleet.house import House
from tests.server.telemetry.prediction_site import MODEL, Site, files_of


def test_an_erased_subject_is_nowhere_and_the_log_is_still_proved(any_site: Site) -> None:
    site = any_site
    site.answer(3, "ann")
    site.answer(2, "bob")
    site.send()
    site.logs.pack(MODEL)
    site.answer(1, "ann")
    site.send(3)
    site.answer(2, "ann")  # still on the device
    site.capture("ann-1")
    (before,) = site.logs.files(MODEL)
    site.house.clock.turn(seconds=5)
    receipt = site.erasures.erase("ann", [], "ann")
    assert (receipt.rows, receipt.files, receipt.captures, receipt.devices) == (4, 1, 1, 1)
    assert site.erasures.receipt(receipt.id) == receipt
    assert (receipt.models, receipt.finished_at) == ([MODEL], site.house.clock.now())
    (after,) = site.logs.files(MODEL)
    assert after.id != before.id
    assert site.blobs.size(Sha256(before.id)) is None, "the old file is still there"
    site.send(4)  # what comes late is erased as it comes
    checked = site.logs.verify(MODEL)
    assert (checked.is_whole, checked.rows, checked.erased) == (True, 2, 6)
    held = site.everything()
    assert site.subject("ann") not in held
    assert site.subject("ann").hex().encode() not in held
    table = pq.read_table(io.BytesIO(site.logs.read_file(MODEL, after.id)))
    assert {text for text in table.column("trace_id").to_pylist() if text} == {"bob-0", "bob-1"}
    site.logs.pack(MODEL)
    assert site.logs.verify(MODEL).is_whole
    assert site.erasures.erase("ann", [MODEL], "ann").rows == 0
    site.house.clock.turn(seconds=60)
    site.answer(1, "ann")  # a new contract
    site.send(5)
    assert site.logs.verify(MODEL).rows == 3


def test_the_device_drops_what_it_still_has(site: Site) -> None:
    site.answer(2, "ann")
    site.answer(1, "bob")
    assert (
        site.send(1, change=lambda data: pack_part(erase(unpack_part(data), {site.subject("ann"): 2**53}, 0))) == 0
    ), "the device erases what nobody asked for"
    site.erasures.erase("ann", [], "ann")
    now = int(site.house.clock.now().timestamp() * 1_000)
    assert site.parts.erase({site.subject("ann"): now + 10}, now + 10) == {"ann-0", "ann-1"}
    assert site.subject("ann") not in b"".join(pack.read_bytes() for pack in site.folder.rglob("*.part"))
    site.send()
    checked = site.logs.verify(MODEL)
    assert (checked.is_whole, checked.rows, checked.erased) == (True, 1, 2)


def test_what_was_captured_goes_also_where_an_old_file_cannot_be_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answer(2, "ann")
    site.send()
    site.logs.pack(MODEL)
    site.capture("ann-1")
    (before,) = site.logs.files(MODEL)

    def fails(_: Sha256) -> None:
        raise BlobStoreError("it is away")

    write = site.logs.write_file

    def writes(*args: Any) -> str:
        with site.house.db.read() as session:
            assert session.exec(select(TelemetryCapture)).all() == [], "a crash after this finds them by no row"
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(site.blobs, "remove", fails)
        patch.setattr(site.logs, "write_file", writes)
        with pytest.raises(BlobStoreError):
            site.erasures.erase("ann", [], "ann")
    (receipt,) = site.erasures.receipts()
    assert (receipt.rows, receipt.captures, receipt.finished_at) == (2, 1, None)
    site.house.clock.turn(hours=2)
    site.logs.tick(site.house.clock.now())
    assert site.blobs.size(Sha256(before.id)) is None


def test_what_was_captured_of_rows_that_come_late_goes_with_them(site: Site) -> None:
    site.answer(2, "ann")
    site.answer(1, "bob")
    for trace_id in ("ann-1", "bob-0"):
        site.capture(trace_id)
    site.erasures.erase("ann", [], "ann")
    assert site.send() == 2
    with site.house.db.read() as session:
        assert [one.trace_id for one in session.exec(select(TelemetryCapture))] == ["bob-0"]


def test_a_record_that_comes_with_the_part_that_says_whose_it_is_is_dropped_too(site: Site) -> None:
    fleet = site.house.fleet
    fetch = CaptureService(site.house.db, site.house.clock, fleet.reader, fleet.sampling, fleet.desired)
    fleet.sampling.set("01" * 32, "ann")
    asked = fetch.ask(site.device, model=MODEL, reason="", limit=9, by="ann")
    site.answer(1, "ann")
    receipt = site.erasures.erase("ann", [], "ann")
    record = Sample(
        device=site.device, boot_id="b", seq=9, ts=0, task=asked.id, record="0a", model=MODEL, reason="flag", sealed=b"x",
        trace_id="ann-0", left=1,
    )  # fmt: skip
    part = Sample(
        device=site.device, boot_id="b", seq=1, ts=0, task="", record=f"{MODEL}/1", model=MODEL, reason=REASON,
        sealed=site.parts.read(1),
    )  # fmt: skip
    assert site.telemetry.ingest_samples([record, part]) == 1
    with site.house.db.read() as session:
        assert not session.exec(select(TelemetryCapture)).all()
    assert site.erasures.receipt(receipt.id).late == 2


def test_what_comes_late_of_erased_answers_is_dropped_and_counted(any_site: Site) -> None:
    """A label, a captured record of a device that was away, a data set that was begun before: none of them names the subject."""
    site = any_site
    house = site.house
    tombstones = Tombstones(house.fleet.logging)
    uploads = FeedbackUploads(
        house.db, house.clock, house.fleet.tasks, lambda ids: ids, lambda _: [site.device], str, tombstones
    )
    fetch = CaptureService(house.db, house.clock, house.fleet.reader, house.fleet.sampling, house.fleet.desired)
    house.fleet.sampling.set("01" * 32, "ann")
    asked = fetch.ask(site.device, model=MODEL, reason="", limit=9, by="ann")

    def label(*traces: str, device: str = site.device) -> int:
        rows = [Row(n + 2, {"device": device, "trace_id": trace, "label": "7"}, "") for n, trace in enumerate(traces)]
        return uploads.take(ModelName(MODEL), rows, "ann").bad

    def records(*traces: str) -> int:
        some = [
            Sample(
                device=site.device, boot_id="b", seq=n, ts=0, task=asked.id, record=f"{n}a", model=MODEL, reason="flag",
                sealed=b"x", trace_id=trace, left=1,
            )
            for n, trace in enumerate(traces)
        ]  # fmt: skip
        return site.telemetry.ingest_samples(some)

    site.answer(2, "ann")
    site.answer(1, "bob")
    site.answer(1, "ann2")  # still on the device
    assert label("ann2-0") == 0
    site.send(1, 2)
    receipt = site.erasures.erase("ann", [], "ann")
    assert receipt.late == 0
    assert label("ann-0", "bob-0", "ann-0") == 2
    assert label("ann-1", "other", device="") == 1
    assert records("ann-1", "bob-0", "ann-0", "ann-1") == 1
    with pytest.raises(NoLabelsError, match="erased"):
        label("ann-1")
    records_of = [(site.device, "r1", "ann-0"), (site.device, "r2", "bob-0")]
    written = NewDataSet(ModelName(MODEL), "a" * 64, "npz", "/data/fog", "", records_of)
    held = site.erasures.data_sets.add(written, "bob")
    receipt = site.erasures.receipt(receipt.id)
    assert (receipt.late, [(one.id, one.records) for one in receipt.data_sets]) == (7, [(held.id, 1)])
    with house.db.read() as session:
        assert {one.trace_id for one in session.exec(select(TelemetryCapture))} == {"bob-0"}
        kept = session.exec(select(TruthLabel)).all()
        waiting = [one["trace_id"] for part in session.exec(select(FeedbackPart)) for one in part.items]
        rest = repr(session.exec(select(ErasedAnswer)).all())
    assert {one.trace_id for one in kept} == {"ann2-0", "bob-0", "other"}
    assert "ann-" not in rest, "a tombstone is no trace id"
    second = site.erasures.erase("ann2", [], "ann")
    assert "ann2-0" in {one.trace_id for one in kept}, "nothing says of whom it is"
    assert site.send(3) == 1
    assert site.erasures.receipt(second.id).late == 1
    assert not [one for one in waiting if one.startswith("ann-")]
    with house.db.read() as session:
        assert {one.trace_id for one in session.exec(select(TruthLabel))} == {"bob-0", "other"}
    site.erasures.tick(house.clock.now() + timedelta(days=367))
    assert records("ann-0") == 1, "tombstones go after a year"


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_erased(site: Site) -> None:
    for number, who in enumerate(("ann", "bob", "ann"), 1):
        site.answer(1, who)
        site.send(number)
        site.logs.pack(MODEL)
        site.house.clock.turn(seconds=1)
    first, second, third = site.logs.files(MODEL)
    site.logs.set("faces", "ann", ratio=1.0, inputs=False, keep_days=30)
    site.blobs.remove(Sha256(first.id))
    (site.house.settings.blobs_dir / second.id[:2] / second.id).write_bytes(b"x" * second.bytes)
    with pytest.raises(ErasureUnfinishedError, match="cannot be read: 2"):
        site.erasures.erase("ann", [], "ann")
    (receipt,) = site.erasures.receipts()
    assert (receipt.models, receipt.rows, receipt.files, receipt.finished_at) == ([MODEL, "faces"], 1, 1, None)
    assert site.blobs.size(Sha256(third.id)) is None


def test_an_erasure_that_fails_half_way_says_so_and_goes_on_when_asked_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answer(2, "ann")
    site.send()
    site.logs.pack(MODEL)
    site.answer(1, "ann")
    site.send(2)
    with monkeypatch.context() as patch:
        patch.setattr(site.logs, "write_file", lambda *_: "")
        with pytest.raises(ErasureUnfinishedError):
            site.erasures.erase("ann", [], "ann")
    (half,) = site.erasures.receipts()
    assert (half.rows, half.finished_at) == (1, None)
    assert site.erasures.erase("ann", [], "ann").rows == 2
    site.logs.set("faces", "ann", ratio=1.0, inputs=False, keep_days=30)
    (file,) = site.logs.files(MODEL)
    read = site.logs.read_file

    def lets_go(model: str, sha256: str) -> bytes:
        monkeypatch.setattr(site.logs, "read_file", read)
        site.logs.prune(site.house.clock.now() + timedelta(days=60))
        return read(model, sha256)

    monkeypatch.setattr(site.logs, "read_file", lets_go)
    assert site.erasures.erase("bob", [], "ann").finished_at is not None, f"{file.id} went meanwhile"


def test_a_receipt_names_the_data_sets_that_hold_the_subject_until_they_are_purged(any_site: Site) -> None:
    site = any_site
    book = DataSetBook(site.house.db, site.house.clock)
    site.answer(2, "ann")
    site.answer(1, "bob")
    site.send()
    records = [
        (site.device, "r1", "ann-0"),
        (site.device, "r2", "bob-0"),
        (site.device, "r3", "ann-1"),
        ("other", "r1", "ann-0"),
    ]
    held = book.add(NewDataSet(ModelName(MODEL), "a" * 64, "npz", "/data/fog", "", records), "bob")
    book.add(NewDataSet(ModelName(MODEL), "b" * 64, "npz", "/data/rest", "", [(site.device, "r2", "bob-0")]), "bob")
    assert book.add(NewDataSet(ModelName(MODEL), "a" * 64, "npz", "/data/fog", "", records), "bob") == held
    receipt = site.erasures.erase("ann", [], "ann")
    (named,) = receipt.data_sets
    assert (named.id, named.place, named.records, named.purged_at) == (held.id, "/data/fog", 2, None)
    assert [(one.device, one.record) for one in book.records(held.id, receipt.id)] == [
        (site.device, "r1"),
        (site.device, "r3"),
    ]
    done = book.purge(held.id, receipt.id, "c" * 64, "bob")
    assert (done.digest, done.records) == ("c" * 64, 2)
    assert book.purge(held.id, receipt.id, "d" * 64, "bob") == done, "again: nothing happens"
    (named,) = site.erasures.receipt(receipt.id).data_sets
    assert named.purged_at == site.house.clock.now()
    assert site.erasures.receipts() == [site.erasures.receipt(receipt.id)]
    assert book.records(held.id, receipt.id) == []
    with pytest.raises(DataSetUnknownError):
        book.purge(held.id, "e-none", "c" * 64, "bob")
    with pytest.raises(DataSetUnknownError):
        book.records("ds-none", receipt.id)


def test_rows_that_come_after_the_erasure_ask_data_sets_too(site: Site) -> None:
    book = DataSetBook(site.house.db, site.house.clock)
    site.answer(1, "ann")  # still on the device
    held = book.add(
        NewDataSet(ModelName(MODEL), "a" * 64, "npz", "s3://b/p", "", [(site.device, "r1", "ann-0")]), "bob"
    )
    receipt = site.erasures.erase("ann", [], "ann")
    assert receipt.data_sets == []
    site.send()
    assert [(one.id, one.records) for one in site.erasures.receipt(receipt.id).data_sets] == [(held.id, 1)]


def test_a_receipt_says_how_long_backups_hold_it(house: House, tmp_path: Path) -> None:
    site = Site(house, tmp_path)
    assert site.erasures.erase("ann", [], "ann").backups_until is None, "nobody said how long backups are kept"
    kept = Erasures(house.db, house.clock, house.fleet.logging, site.logs, house.fleet.feed, backup_keep_days=35)
    assert kept.erase("ann", [], "ann").backups_until == house.clock.now() + timedelta(days=35)


def test_no_byte_of_an_erased_subject_is_left_in_the_files_of_the_server(any_site: Site) -> None:
    """All files are searched: the blobs, SQLite's database with its write-ahead log, PostgreSQL's tables, whose log holds it for a time."""
    site = any_site
    site.capture("bob-0")
    for _ in range(3):
        site.answer(40, "PLANTED-ann")
        site.answer(40, "bob")
        site.send()
        site.logs.pack(MODEL)  # frees pages of what waited
    site.answer(5, "PLANTED-ann")
    site.send()
    for n in range(40):
        site.capture(f"PLANTED-ann-{n}")
    with site.house.db.session() as session:
        labels = [f"PLANTED-ann-{n}" for n in range(40)]
        row = {
            "model": MODEL,
            "device_id": site.device,
            "label": "PLANTED-label",
            "received_at": site.house.clock.now(),
        }
        truth_store.set_labels(session, [{**row, "trace_id": one} for one in labels])
    marks = (b"PLANTED", site.subject("PLANTED-ann"))
    assert any(mark in data for mark in marks for data in files_of(site).values()), "it was there"
    receipt = site.erasures.erase("PLANTED-ann", [], "ann")
    assert (receipt.rows, receipt.captures, receipt.overwritten) == (125, 40, True)
    assert receipt.remains == ([] if site.house.db.is_sqlite else [WAL])
    left = {name: [mark for mark in marks if mark in data] for name, data in files_of(site).items()}
    assert {name: found for name, found in left.items() if found} == {}
    assert any(b"bob-0" in data for data in files_of(site).values()), "the others are still there"


def test_what_could_not_be_overwritten_is_later_and_the_receipt_says_so_until_then(
    any_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = any_site
    db = site.house.db
    overwrite = Database.overwrite_freed

    def is_in_use(self: Database, tables: Sequence[str]) -> list[str]:
        return [name for name in tables if name == "truth_label"]

    site.answer(1, "ann")
    site.answer(1, "bob")
    site.send(1)
    monkeypatch.setattr(Database, "overwrite_freed", is_in_use)
    receipt = site.erasures.erase("ann", [], "ann")
    assert (receipt.finished_at is None, receipt.overwritten) == (False, False)
    assert receipt.remains[0].startswith("not yet overwritten: ")
    assert db.is_sqlite or 'VACUUM (FULL) "truth_label"' in receipt.remains[0]
    site.erasures.tick(site.house.clock.now())
    assert not site.erasures.receipt(receipt.id).overwritten
    if not db.is_sqlite:
        db.scrub(["truth_label"])  # by hand: the tick sees it
    else:
        monkeypatch.setattr(Database, "overwrite_freed", overwrite)
    site.erasures.tick(site.house.clock.now())
    assert site.erasures.receipt(receipt.id).overwritten
    monkeypatch.setattr(Database, "overwrite_freed", overwrite)
    second = site.erasures.erase("bob", [], "ann")
    assert second.overwritten
    site.send(2)  # labels and captured records of it may have gone
    assert not site.erasures.receipt(second.id).overwritten
    site.erasures.tick(site.house.clock.now())
    assert site.erasures.receipt(second.id).overwritten


def test_what_is_freed_while_the_tick_looks_is_not_said_to_be_overwritten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answer(1, "ann")
    site.answer(1, "ann")
    site.send(1)
    monkeypatch.setattr(Database, "overwrite_freed", lambda _self, _tables: ["truth_label"])
    receipt = site.erasures.erase("ann", [], "ann")
    monkeypatch.setattr(Database, "table_files", lambda *_: {"truth_label": site.send(2) and "written again"})
    with site.house.db.session() as session:
        store.set_unwritten(session, receipt.id, {"truth_label": "the file of then"})
    site.erasures.tick(site.house.clock.now())
    assert not site.erasures.receipt(receipt.id).overwritten
