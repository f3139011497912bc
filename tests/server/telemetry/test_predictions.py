"""Prediction logs on the server: taken in once, packed, proved whole, erased, let go. The parts are made by the device's own code."""

import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from sqlmodel import select

from edgefleet_agent.captures.log_parts import LogParts
from edgefleet_agent.worker.control.protocol import Entry
from edgefleet_protocol.desired import decode_desired
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.feedback_csv import Row
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import (
    FULL,
    LOST,
    REASON,
    Answer,
    Erased,
    Gap,
    Head,
    Part,
    Release,
    decode_head,
    encode_head,
    erase,
    hash_of,
    left_open,
    pack_part,
    pseudonym,
    sampled,
    unpack_part,
)
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.registry.blobs import open_blob_store
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.errors import (
    BadPredictionLogError,
    DataSetUnknownError,
    ErasureUnfinishedError,
    PredictionLogUnknownError,
)
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.ground_truth.errors import NoLabelsError
from edgefleet_server.telemetry.ground_truth.tables import FeedbackPart, TruthLabel
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads
from edgefleet_server.telemetry.predictions import service, store
from edgefleet_server.telemetry.predictions.data_set_book import DataSetBook, NewDataSet
from edgefleet_server.telemetry.predictions.erasure import WAL, Erasures
from edgefleet_server.telemetry.predictions.model import MissingNumbers
from edgefleet_server.telemetry.predictions.part_intake import PartIntake
from edgefleet_server.telemetry.predictions.rules import HeldPart, check_log
from edgefleet_server.telemetry.predictions.service import FleetSide, PredictionLogs
from edgefleet_server.telemetry.predictions.tables import ErasedAnswer, PredictionFile, PredictionPart
from edgefleet_server.telemetry.predictions.tombstones import Tombstones
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.tables import TelemetryCapture
from tests.server.fleet.house import House
from tests.server.fleet.test_offering import ref

MODEL = "digits"


class Site:
    """A server that keeps the answers of a model, and a device with its log."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        fleet = house.fleet
        self.access = AccessService(house.db, house.clock)
        self.blobs = open_blob_store(house.settings)
        self.facts: dict[str, Any] = {}
        known = FleetSide(fleet.logging, fleet.sampling, lambda _device: self.facts)
        self.logs = PredictionLogs(house.db, house.clock, known, self.blobs, self.access, timedelta(minutes=15))
        self.erasures = Erasures(house.db, house.clock, fleet.logging, self.logs, fleet.feed)
        self.telemetry = TelemetryService(house.db, house.clock, logs=PartIntake(fleet.logging, fleet.feed))
        self.folder = folder
        self.device: str = house.device().id
        self.logs.set(MODEL, "ann", ratio=1.0, inputs=False, keep_days=30)
        self.parts = LogParts(folder / "parts", self.device, MODEL)

    def subject(self, name: str) -> bytes:
        """Return what stands for a subject."""
        rule = self.house.fleet.logging.rule(MODEL)
        assert rule is not None
        return pseudonym(bytes.fromhex(rule.subject_key), name)

    def answer(self, n: int, subject: str = "", *, lost: int = 0, room: int = 1 << 20) -> None:
        """Have the device keep n answers."""
        at = int(self.house.clock.now().timestamp() * 1_000)
        said = msgspec.msgpack.encode(Answer(labels=["seven"], scores=[0.9]))
        who = self.subject(subject) if subject else b""
        entries = [Entry(at + i, f"{subject}-{i}", "ok", 250, who, i + 1, said) for i in range(n)]
        self.parts.add(entries, Release("1.0.0", "a" * 64, "active"), b"", "", lost=lost, free_bytes=room)
        self.parts.close()

    def send(self, *numbers: int, change: Any = None) -> int:
        """Send parts, all of them without numbers; return how many were new."""
        samples = []
        for number in numbers or self.parts.waiting():
            data = self.parts.read(number)
            samples.append(
                Sample(
                    device=self.device, boot_id="b", seq=number, ts=0, task="", record=f"{MODEL}/{number}", model=MODEL,
                    reason=REASON, sealed=change(data) if change else data,
                )
            )  # fmt: skip
        return self.telemetry.ingest_samples(samples)

    def capture(self, trace_id: str) -> None:
        """Have the server hold what was captured of an answer."""
        now = self.house.clock.now()
        with self.house.db.session() as session:
            session.add(
                TelemetryCapture(
                    device_id=self.device, record=f"r-{trace_id}", fetch_id="c", model=MODEL, sha256="a" * 64, reason="flag",
                    label=1, trace_id=trace_id, taken_at=now, received_at=now, seen=1, key_id="k", size_bytes=1, sealed=b"x",
                )
            )  # fmt: skip

    def everything(self) -> bytes:
        """Return what the server has of answers: all blobs, and the parts in the database."""
        files = [path for path in self.house.settings.blobs_dir.rglob("*") if path.is_file()]
        with self.house.db.read() as session:
            rows = session.exec(select(PredictionPart)).all()
        return b"".join([path.read_bytes() for path in files] + [b"".join([row.body or b"", row.head]) for row in rows])


@pytest.fixture
def site(house: House, tmp_path: Path) -> Site:
    """A site."""
    return Site(house, tmp_path)


@pytest.fixture
def any_site(any_house: House, tmp_path: Path) -> Site:
    """A site on each database."""
    return Site(any_house, tmp_path)


def problems(site: Site) -> list[str]:
    """Return what verifying finds."""
    return [text for log in site.logs.verify(MODEL).logs for text in log.problems]


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


def forged(data: bytes, **head: Any) -> bytes:
    """Return a part whose head says something else."""
    part = unpack_part(data)
    return pack_part(Part(encode_head(msgspec.structs.replace(decode_head(part.head), **head)), part.rows, part.erased))


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


def folder_of(db: Database) -> Path:
    """Return the folder with the files of a database, as they are on the disk."""
    if db.is_sqlite:
        return Path(str(db._engine.url.database)).parent
    with db._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        query = text(
            "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()"
        )
        folder, oid = connection.execute(query).one()
    return Path(folder) / "base" / str(oid)


def files_of(site: Site) -> dict[str, bytes]:
    """Return all files of a server by name, Parquet as it is read."""
    found: dict[str, bytes] = {}
    folders = {site.house.settings.blobs_dir, folder_of(site.house.db)}
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found[str(path)] = data + (repr(pq.read_table(path).to_pylist()).encode() if data.startswith(b"PAR1") else b"")
    return found
