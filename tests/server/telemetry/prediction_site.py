"""A server that keeps the answers of devices, for the tests of prediction logs. The parts are made by the device's own code."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
from sqlalchemy import text
from sqlmodel import select

from edgefleet_agent.captures.log_parts import LogParts
from edgefleet_agent.worker.control.protocol import Entry
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import (
    REASON,
    Answer,
    Part,
    Release,
    decode_head,
    encode_head,
    pack_part,
    pseudonym,
    unpack_part,
)
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.registry.blobs import open_blob_store
from edgefleet_server.telemetry.predictions.erasure import Erasures
from edgefleet_server.telemetry.predictions.part_intake import PartIntake
from edgefleet_server.telemetry.predictions.service import FleetSide, PredictionLogs
from edgefleet_server.telemetry.predictions.tables import PredictionPart
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.tables import TelemetryCapture
from tests.server.fleet.house import House

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


def problems(site: Site) -> list[str]:
    """Return what verifying finds."""
    return [text for log in site.logs.verify(MODEL).logs for text in log.problems]


def forged(data: bytes, **head: Any) -> bytes:
    """Return a part whose head says something else."""
    part = unpack_part(data)
    return pack_part(Part(encode_head(msgspec.structs.replace(decode_head(part.head), **head)), part.rows, part.erased))


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
