"""Write the next migration from the difference between the tables in the code and the newest schema.

    python -m edgefleet_server.migrations.make "what changed" [--initial]

`--initial` writes `0001` anew (only until the first release). Works on a throwaway SQLite file; look at the result before committing.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from alembic import command

from edgefleet_server import migrations
from edgefleet_server.db.database import Database, metadata

INDEXES = re.compile(r"    with op\.batch_alter_table\(.*\n(?:        .*\n)+\n?")
LONG = "# ruff: noqa: PLR0915  # every table of the server, one statement each"


def main(arguments: list[str] | None = None) -> int:
    """Write one migration file. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the next database migration.")
    parser.add_argument("message")
    parser.add_argument("--initial", action="store_true", help="write 0001 anew")
    given = parser.parse_args(arguments)
    versions = migrations.FOLDER / "versions"
    if given.initial:
        for old in versions.glob("0001_*.py"):
            old.unlink()
    number = len(list(versions.glob("[0-9]*.py"))) + 1
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'empty.db'}")
        migrations.upgrade(db)
        metadata()  # the tables of every feature, to compare with
        command.revision(migrations.config(db), given.message, autogenerate=True, rev_id=f"{number:04d}")
        db.dispose()
    if given.initial:
        made = next(versions.glob("0001_*.py"))
        made.write_text(_shortened(made.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def _shortened(text: str) -> str:
    """Return the first migration with a step back that only drops the tables: their indexes go with them."""
    up, down = text.split("def downgrade()")
    return f"{LONG}\n{up}def downgrade(){INDEXES.sub('', down)}"


if __name__ == "__main__":
    sys.exit(main())
