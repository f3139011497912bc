"""The command line that the TUF project's conformance suite asks for, over the device's own `Repository` and `FloorFile`.

    python -m tests.hostile.device.tuf_client --metadata-dir DIR init ROOT
    python -m tests.hostile.device.tuf_client --metadata-dir DIR --metadata-url URL refresh | download

- Metadata goes the way of a device: pinned root, trusted time, python-tuf's client, floor. Only the transport is HTTP here.
- A payload does not: devices fetch bundles leaf by leaf and know their digest from the desired document. Here python-tuf downloads it.
- Exit code 1 and one line on stderr for whatever is refused.
"""

import argparse
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tuf.api.exceptions import RepositoryError

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.verifier.errors import TransportError
from edgefleet_agent.verifier.floor import FloorFile, trusted_now, with_time, with_versions
from edgefleet_agent.verifier.repository import Repository
from edgefleet_protocol.errors import EdgefleetError

PINNED = "pinned-root"
"""The root of the enrolment. Without `.json`: the suite takes each such file of the folder for trusted metadata."""
TIMEOUT_S = 10.0


class Http:
    """`MetaSource` over HTTP."""

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")

    def __call__(self, name: str, max_bytes: int) -> bytes | None:
        """Return the file, None when the server has none. At most one byte more than allowed is read. Raises TransportError."""
        url = name if name.startswith("http") else f"{self._base}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                data: bytes = answer.read(max_bytes + 1)
                return data
        except urllib.error.HTTPError as error:
            if error.code in (403, 404):
                return None
            raise TransportError(f"HTTP {error.code} for {name}") from error
        except OSError as error:
            raise TransportError(str(error)) from error


class Client:
    """One command on one folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self._file = FloorFile(folder)
        system = SystemClock().now()
        root = (folder / PINNED).read_bytes()
        self.repository = Repository(folder, root, Http(url), None, trusted_now(self._file.floor, system))
        self._system = system

    def refresh(self) -> None:
        """Bring the metadata up to date and raise the floor. Raises EdgefleetError."""
        self.repository.refresh()
        self.keep()

    def keep(self) -> None:
        """Raise the floor to all that is loaded. Raises FloorError."""
        floor = with_versions(self._file.floor, self.repository.versions(), self.repository.top_keys())
        self._file.save(with_time(floor, self._system))

    def download(self, names: list[str], folder: Path, url: str) -> None:
        """Find each target as a device does, then let python-tuf download it. Raises EdgefleetError, RepositoryError, LookupError."""
        updater = self.repository._updater
        for name in names:
            with self.repository._errors():
                target = updater.get_targetinfo(name)
            self.keep()
            if target is None:
                raise LookupError(f"{name} is not in the repository")
            path = str(folder / name.replace("/", "%2F"))
            if updater.find_cached_target(target, path) is None:
                updater.download_target(target, path, url)


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the suite and return its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path, default=Path())
    parser.add_argument("--target-base-url", default="")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    for name in ("refresh", "download"):
        commands.add_parser(name)
    args = parser.parse_args(arguments)
    if args.command == "init":
        for name in (PINNED, "root.json"):
            shutil.copyfile(args.root, args.metadata_dir / name)
        return os.EX_OK
    try:
        client = Client(args.metadata_dir, args.metadata_url)
        client.refresh()
        if args.command == "download":
            client.download(args.target_name, args.target_dir, args.target_base_url)
    except (EdgefleetError, RepositoryError, LookupError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
