"""Brings the database to the newest schema, as the start of a server does; needs its address and no keys."""

import os
import sys
from pathlib import Path

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from edgefleet_server.process.init import report_error
from edgefleet_server.settings import load_settings

try:
    database = Database(load_settings(Path(os.environ["EDGEFLEET_SERVER_DATA"])).database)
    migrations.upgrade(database)
    sys.stdout.write(f"the schema of the database is {migrations.newest()}\n")
except EdgefleetError as error:
    report_error(error)
    sys.exit(1)
