"""Many rows in one statement. Every function works in the caller's session and never commits.

On PostgreSQL a column goes as one parameter or few (`pg_arrays`): a parameter for each of a thousand times twenty values
costs more time in this process than all else that a tick does. On SQLite the driver's own batch is quick. Rows are mappings
of the same keys, which are columns of the table; text must be free of NUL, as everywhere on PostgreSQL.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Dialect, Table, Text, TypeDecorator, bindparam, func, literal, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import TextClause
from sqlmodel import Session, SQLModel

from edgefleet_server.db.pg_arrays import Packed, array_of, pack, pack_tuples

FEW: Final = 8
"""PostgreSQL takes so few values as parameters each: what is good for many costs more to plan (ADR 0065)."""

MOST_NAMED: Final = 500
"""SQLite takes so many values as parameters each; a statement may have 32,766."""

Row = Mapping[str, Any]


def is_postgresql(session: Session) -> bool:
    """Return whether the session's database is PostgreSQL."""
    return bool(session.get_bind().dialect.name == "postgresql")


def among(session: Session, column: Any, values: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a text column has one of many values: one parameter, where the database can take it so."""
    given = list(values)
    is_sqlite = not is_postgresql(session)
    if len(given) <= (MOST_NAMED if is_sqlite else FEW):
        named: ColumnElement[bool] = column.in_(given)
        return named
    if is_sqlite:
        many = select(func.json_each(msgspec.json.encode(given).decode()).table_valued("value").c.value)
        listed: ColumnElement[bool] = column.in_(many)
        return listed
    one = func.unnest(bindparam(None, given, type_=_Texts())).column_valued("given")
    # always true, and taken for seldom true: without it PostgreSQL reads all of a table of 100,000 rows to find a thousand
    found: ColumnElement[bool] = column.in_(select(one).where(one == one.op("||")("")))
    return found


class _Texts(TypeDecorator[Sequence[str]]):
    """An array of texts that goes to PostgreSQL as it writes arrays itself: the driver looks at each of a thousand ids on its own."""

    impl = ARRAY(Text)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Sequence[str]], str]:  # type: ignore[override]  # never None
        """Return what writes a value."""
        del dialect
        return array_of


def insert_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows."""
    if rows and is_postgresql(session):
        packed = pack(table, rows)
        session.execute(_insert(table, packed), packed.parameters)
    elif rows:
        session.execute(table.insert(), list(rows))


def upsert_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; of those whose primary key is taken the other columns are set."""
    if not rows:
        return
    keys = ", ".join(_quoted([column.name for column in table.primary_key.columns]))
    others = [name for name in rows[0] if not table.c[name].primary_key]
    change = f"ON CONFLICT ({keys}) DO UPDATE SET " + ", ".join(f'"{name}" = excluded."{name}"' for name in others)
    if is_postgresql(session):
        packed = pack(table, rows)
        session.execute(text(f"{_insert(table, packed).text} {change}"), packed.parameters)
    else:
        names, values = ", ".join(_quoted(rows[0])), ", ".join(f":{name}" for name in rows[0])
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({values}) {change}"  # noqa: S608  # names of columns
        session.connection().exec_driver_sql(statement, [dict(row) for row in rows])


def merge_rows(session: Session, table: Table, rows: Sequence[Row], changes: Mapping[str, str]) -> None:
    """Insert rows; in those whose primary key is taken the columns of `changes` are set. Keys differ.

    changes: SQL by column; `excluded` has the values of the new row.
    """
    if not rows:
        return
    keys = [column.name for column in table.primary_key.columns]
    if is_postgresql(session):
        packed = pack(table, rows)
        change = ", ".join(f'"{name}" = {expression}' for name, expression in changes.items())
        conflict = f"ON CONFLICT ({', '.join(_quoted(keys))}) DO UPDATE SET {change}"
        session.execute(text(f"{_insert(table, packed).text} {conflict}"), packed.parameters)
        return
    made = sqlite.insert(table).values({name: bindparam(name) for name in rows[0]})
    new = {name: text(expression) for name, expression in changes.items()}
    session.execute(made.on_conflict_do_update(index_elements=keys, set_=new), list(rows))


def delete_rows(session: Session, table: Table, keys: Collection[Sequence[str]]) -> None:
    """Remove rows by their primary keys, which are texts in the order of the table's."""
    names = [column.name for column in table.primary_key.columns]
    if keys:
        where = [table.c[name] == bindparam(f"key_{name}") for name in names]
        named = [{f"key_{name}": part for name, part in zip(names, key, strict=True)} for key in keys]
        session.connection().execute(table.delete().where(*where), named)


def insert_tuples(session: Session, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows of values that the driver takes as they are, in the order of `columns`: COPY on PostgreSQL."""
    if not rows:
        return
    names = ", ".join(_quoted(columns))
    if is_postgresql(session):
        driver: Any = session.connection().connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608  # names of columns
    _sqlite_cursor(session).executemany(statement, rows)


def insert_unless_there(
    session: Session, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[bool]:
    """Insert those rows whose primary key is not taken; say of each whether it was inserted. Values as in `insert_tuples`, keys differ."""
    names = ", ".join(_quoted(columns))
    if is_postgresql(session):
        packed = pack_tuples(table, columns, rows)
        keys = [column.name for column in table.primary_key.columns]
        statement = f"{_insert(table, packed).text} ON CONFLICT DO NOTHING RETURNING {', '.join(_quoted(keys))}"
        new = {tuple(key) for key in session.execute(text(statement), packed.parameters)}
        places = [columns.index(key) for key in keys]
        return [tuple(row[place] for place in places) in new for row in rows]
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(columns))}) ON CONFLICT DO NOTHING"  # noqa: S608  # as above
    execute = _sqlite_cursor(session).execute
    return [execute(statement, row).rowcount == 1 for row in rows]


def _sqlite_cursor(session: Session) -> Any:
    return session.connection().connection.cursor()


def insert_counted(session: Session, table: Table, rows: Sequence[Row]) -> list[int]:
    """Insert rows of a table with a counting `id`; return the ids in the order of `rows`."""
    if not rows:
        return []
    if is_postgresql(session):
        packed = pack(table, rows)
        statement = text(f"{_insert(table, packed).text} RETURNING id")
        found = session.execute(statement, packed.parameters).scalars()
        return sorted(int(one) for one in found)  # ids are drawn in the order in which the rows are scanned
    ids = session.execute(table.insert().returning(table.c.id, sort_by_parameter_order=True), list(rows)).scalars()
    return [int(one) for one in ids]


def update_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Set the rows' columns, each in the row that has its primary key."""
    keys = [column.name for column in table.primary_key.columns]
    if rows and is_postgresql(session):
        packed = pack(table, rows)
        session.execute(_update(table, keys, packed), packed.parameters)
    elif rows:
        where = [table.c[key] == bindparam(f"key_{key}") for key in keys]
        values: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name not in keys}
        renamed = [{(f"key_{name}" if name in keys else name): value for name, value in row.items()} for row in rows]
        session.connection().execute(table.update().where(*where).values(values), renamed)


def _insert(table: Table, packed: Packed) -> TextClause:
    names = ", ".join(_quoted(packed.columns))
    values = ", ".join(packed.columns.values())
    return text(f"INSERT INTO {table.name} ({names}) SELECT {values} FROM {packed.source}")  # noqa: S608  # names of columns


def _update(table: Table, keys: Sequence[str], packed: Packed) -> TextClause:
    changed = [name for name in packed.columns if name not in keys]
    values = ", ".join(f'"{name}" = {packed.columns[name]}' for name in changed)
    same = [f'kept."{key}" = {packed.columns[key]}' for key in keys]
    given = packed.text_among(keys)
    if given is not None:
        # as in `among`; PostgreSQL may have no figures of the table yet, or it may not be much larger
        same.append(f"{given} = {given} || ''")
    return text(f"UPDATE {table.name} kept SET {values} FROM {packed.source} WHERE {' AND '.join(same)}")  # noqa: S608  # as above


def _quoted(names: Collection[str]) -> Iterator[str]:
    return (f'"{name}"' for name in names)


def insert_new(session: Session, table: type[SQLModel], values: Row) -> bool:
    """Insert a row unless its key is taken; return whether this call did. Of two transactions at once one waits for the other."""
    statement = insert_into(session, table).values(**values).on_conflict_do_nothing().returning(literal(1))
    return session.scalar(statement) is not None


def insert_into(session: Session, table: type[SQLModel]) -> Any:
    """Return the INSERT that knows ON CONFLICT on this kind of database."""
    return (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert(table)
