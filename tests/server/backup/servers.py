"""A server with a device, releases and rows of every table, to be backed up."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Boolean, DateTime, Float, Integer, LargeBinary, String, Table, insert, null
from sqlalchemy.types import TypeDecorator

from edgefleet_server.db.database import Database, metadata
from edgefleet_server.process.backup.database_reader import reading, sum_of
from edgefleet_server.process.backup.table_shapes import shapes_of
from tests.server.fleet.house import PROFILE, House, TurnedClock

WHEEL = "edgefleet_agent-0.1.0-py3-none-any.whl"
TEXTS = (
    "",
    "plain",
    "tab\tnew\nline\rback\\slash \\N \\.",
    "quote \" and ' and {a,b}",
    "ünï ☃ 𝄞",
    "\x01\x7f",
    "null",
    "x" * 20,
)
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31))
WIDE = (*NUMBERS, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 0.1, 1e-300, 1.7976931348623157e308, -2.5, 1 / 3, float("inf"), 5e-324)
TIMES = (
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
)
DOCUMENTS: tuple[Any, ...] = (
    {},
    [],
    None,
    {"a": [1, 2.5, "ü\u0000\ud83d\ude00", None, True]},
    "text",
    0,
    {"k\\": '"'},
    2**60,
)
BYTES = (b"", b"\0", bytes(range(256)), b"\\x41", b"\xff" * 100)


def begin(folder: Path, url: str | None = None) -> House:
    """Make a server's data folder with a release, a device and a file of settings."""
    house = House(url or f"sqlite:///{folder / 'edgefleet.db'}", folder, TurnedClock())
    (folder / "server.toml").write_text("# of a person\ntenant = 'default'\n", encoding="utf-8")
    house.device(labels={"site": "desk"})
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"some bytes of a bundle"})
    house.fleet.deployer.deploy(ref, selector="site=desk", by="ann")
    house.fleet.packages.add(WHEEL, b"some bytes of a wheel")
    return house


def fill(db: Database, seed: int, rows: int) -> None:
    """Write rows with awkward values into every table that refers to no other; triggers fill those of labels and of texts."""
    drawn = random.Random(seed)
    with db.session() as session:
        for table in metadata().sorted_tables:
            if table.foreign_keys or table.name in {
                "signing_tuf_metadata",
                "audit",
                "audit_tail",
                "signing_lock",
                "blobs",
                "prediction_file",
                "fleet_label",
                "fleet_search_text",
            }:
                continue
            for number in range(rows):
                row = _row(table, drawn, number)
                if table.name == "fleet_device":  # its triggers read the labels into tables of their own
                    row["labels"] = {"site": f"ü{number}", "line": drawn.choice(TEXTS)}
                session.execute(insert(table), row)


def _row(table: Table, drawn: random.Random, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in table.columns:
        is_key = (
            column.primary_key
            or column.unique
            or any(column.name in one.columns and one.unique for one in table.indexes)
        )
        if column.nullable and not is_key and drawn.random() < 0.3:
            row[column.name] = null() if isinstance(column.type, JSON) else None
            continue
        row[column.name] = _value(column, drawn, 7_000 + number if is_key else None)
    return row


def _value(column: Any, drawn: random.Random, key: int | None) -> Any:
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    if isinstance(kind, Boolean):
        return drawn.random() < 0.5
    if isinstance(kind, Integer):
        return key if key is not None else drawn.choice(NUMBERS if type(kind) is Integer else WIDE)
    if isinstance(kind, Float):
        return drawn.choice(FLOATS)
    if isinstance(kind, DateTime):
        return TIMES[1] + dt.timedelta(seconds=key) if key is not None else drawn.choice(TIMES)
    if isinstance(kind, JSON):
        return drawn.choice(DOCUMENTS)
    if isinstance(kind, LargeBinary):
        return drawn.choice(BYTES)
    assert isinstance(kind, String)
    text = hashlib.sha256(f"{key}".encode()).hexdigest() if key is not None else drawn.choice(TEXTS)
    return text[: kind.length] if kind.length else text


def sums(db: Database) -> dict[str, tuple[int, str]]:
    """Return the count and the sum of each table."""
    with reading(db) as reader:
        return {shape.name: (one.rows, one.text) for shape in shapes_of(metadata()) for one in [sum_of(reader, shape)]}
