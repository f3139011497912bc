"""Write the next migration from the difference between the tables in the code and the newest schema.

    python -m edgefleet_server.migrations.make "what changed"

Works on a throwaway SQLite file; look at the result before committing. Triggers are in no table: a step that changes them is written
by hand.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from alembic import command

from edgefleet_server import migrations
from edgefleet_server.db.database import Database, metadata


def main(arguments: list[str] | None = None) -> int:
    """Write one migration file. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the next database migration.")
    parser.add_argument("message")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'empty.db'}")
        migrations.upgrade(db)
        metadata()  # the tables of every feature, to compare with
        number = int(migrations.newest()) + 1
        command.revision(migrations.config(db), given.message, autogenerate=True, rev_id=f"{number:04d}")
        db.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
