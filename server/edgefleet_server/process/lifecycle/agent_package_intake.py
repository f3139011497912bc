"""`edgectl server agent-packages add`: puts packages of the agent into database and blob store, for all hosts (ADR 0168).

    python -m edgefleet_server.process.lifecycle.agent_package_intake --data DIR FILE...

A server may run meanwhile. Prints one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server import migrations
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.process.init import reported
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings

ACTOR: Final = "edgectl server agent-packages"


def add_packages(settings: ServerSettings, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Hand out these packages from now on, each with a row in the audit trail; return name, bytes and digest of each.

    Raises SettingsError, DatabaseUnavailableError, BadAgentPackageError, BlobStoreError, OSError.
    """
    parts = build_parts(settings, SystemClock())
    try:
        parts.db.ping()
        if not migrations.is_current(parts.db):
            raise SettingsError(
                "the database has the tables of another version",
                next_step="bring it up to date: `edgectl server upgrade-schema`",
            )
        added = []
        for file in files:
            data = file.read_bytes()
            with parts.db.session():
                package = parts.fleet.packages.add(file.name, data)
                what = f"{package.name} sha256:{package.sha256}"
                parts.access.record(ACTOR, "add_agent_package", what, 200, "")
            added.append({"name": package.name, "bytes": package.length, "sha256": package.sha256})
        return added
    finally:
        parts.db.dispose()


def main(arguments: list[str] | None = None) -> int:
    """Run `server agent-packages add`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server agent-packages add", description="Add packages of the agent.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    given = parser.parse_args(arguments)
    try:
        added = add_packages(load_settings(given.data.absolute()), given.files)
    except OSError as error:
        return reported(SettingsError(f"a package cannot be read: {error}", next_step="look at its path and rights"))
    except (EdgefleetError, SQLAlchemyError) as error:
        return reported(error)
    sys.stdout.write(json.dumps({"items": added}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
