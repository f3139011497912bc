"""What the database gives back as it was stored, on SQLite read without the slow ways."""

import math
from pathlib import Path

import pytest
from sqlalchemy import JSON, Column, Integer, MetaData, Table, insert, select, text

from edgefleet_server.db.database import Database
from edgefleet_server.db.engines import SQLITE_CACHE_KIB

TABLE = Table("told", MetaData(), Column("id", Integer, primary_key=True), Column("value", JSON))


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, True], "ü": "\N{GRINNING FACE}"}, 2**70, "x", [], "half \ud800"]
)
def test_json_is_read_as_it_was_written(tmp_path: Path, value: object) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    TABLE.create(database.engine)
    with database.session() as session:
        session.execute(insert(TABLE).values(id=1, value=value))
    with database.read() as session:
        assert session.execute(select(TABLE.c.value)).scalar_one() == value
        assert session.execute(text("PRAGMA cache_size")).scalar_one() == -SQLITE_CACHE_KIB
    database.dispose()


def test_what_is_no_number_in_other_languages_is_read_from_sqlite_all_the_same(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    TABLE.create(database.engine)
    with database.session() as session:
        session.execute(insert(TABLE).values(id=1, value=[math.nan, math.inf]))
    with database.read() as session:
        found = session.execute(select(TABLE.c.value)).scalar_one()
    assert math.isnan(found[0])
    assert found[1] == math.inf
    database.dispose()
