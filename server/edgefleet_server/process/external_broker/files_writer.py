"""`edgectl server broker-files`: writes the folder of a broker that the server does not run.

    python -m edgefleet_server.process.external_broker.files_writer --data DIR --kind KIND --out DIR --host NAME [...]

The server may run meanwhile. Prints one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.worker_container import build_signing
from edgefleet_server.db.database import Database
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import CHECK_ACCOUNTS, DEFAULT_MQTTS_PORT, parse_broker_url
from edgefleet_server.gateway.broker_files.broker_folder import write_folder
from edgefleet_server.gateway.broker_files.model import Bridge, BrokerSite, OutsideBroker
from edgefleet_server.process.init import report_error
from edgefleet_server.settings import ServerSettings, load_settings

BRIDGE_PREFIX: Final = "srv-site-"


def write(settings: ServerSettings, given: argparse.Namespace) -> dict[str, Any]:
    """Write the folder; return what was written. Raises EdgefleetError, OSError."""
    kind, out = OutsideBroker(given.kind), Path(given.out).absolute()
    clock = SystemClock()
    db = Database(settings.database)
    try:
        db.ping()
        own = f"srv-{settings.instance}"
        site = BrokerSite(
            tenant=settings.tenant,
            servers=tuple(dict.fromkeys([own, *given.account, *CHECK_ACCOUNTS])),
            folder=given.folder or str(out),
            port=given.port,
            bridge=_bridge(given.bridge_to, given.site),
        )
        done = write_folder(kind, site, out, given.host, build_signing(settings, db, clock), clock.now())
    finally:
        db.dispose()
    return {
        "kind": kind.value,
        "folder": str(out),
        "files": list(done.files),
        "certificate_ends": done.certificate_ends.isoformat(),
        "accounts": list(site.servers),
        "next": list(done.next_steps),
    }


def _bridge(url: str | None, site: str | None) -> Bridge | None:
    if url is None:
        return None
    if not site:
        raise BrokerSettingError("a bridge needs the name of its site", next_step="give --site NAME as well")
    host, port = parse_broker_url(url)
    return Bridge(f"{BRIDGE_PREFIX}{site}", host, port)


def main(arguments: list[str] | None = None) -> int:
    """Run `server broker-files`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server broker-files", description="Write the files of a broker.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kind", choices=[one.value for one in OutsideBroker], required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--host", action="append", required=True)
    parser.add_argument("--port", type=int, default=DEFAULT_MQTTS_PORT)
    parser.add_argument("--folder")
    parser.add_argument("--account", action="append", default=[])
    parser.add_argument("--bridge-to")
    parser.add_argument("--site")
    given = parser.parse_args(arguments)
    try:
        document = write(load_settings(given.data.absolute()), given)
    except EdgefleetError as error:
        report_error(error)
        return 1
    except OSError as error:
        report_error(BrokerSettingError(f"the folder cannot be written: {error}", next_step="check --out"))
        return 1
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
