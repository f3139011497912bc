"""A server out of a copy is the same server to a device: copied by the databases' own means, as docs/operate/postgresql.md says.

By `edgectl server backup`: `tests/server/backup`.
With real processes, a broker and an agent that comes back by itself: the page itself, which `tests/house/test_docs.py` runs.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgefleet_protocol.desired import DESIRED_TYPE, Desired, decode_desired
from edgefleet_protocol.verify import verify_envelope
from tests.server.fleet.house import PROFILE, House, TurnedClock
from tests.support import databases
from tests.support.postgres import binaries


def copied(url: str, empty: str, folder: Path) -> None:
    """Copy a database that is in use into an empty one, by its own means."""
    if url.startswith("sqlite"):
        with (
            closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as live,
            closing(sqlite3.connect(empty.removeprefix("sqlite:///"))) as copy,
        ):
            live.backup(copy)
        return
    programs, dump = binaries(), folder / "edgefleet.dump"
    assert programs is not None
    for command in (
        ["pg_dump", "--format", "custom", "--file", str(dump), url],
        ["pg_restore", "--no-owner", "--dbname", empty, str(dump)],
    ):
        subprocess.run([str(programs / command[0]), *command[1:]], check=True, capture_output=True)


@pytest.fixture
def other_url(empty_database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the same kind, to restore into."""
    with databases.new(empty_database_url.partition(":")[0], tmp_path / "restored.db") as url:
        yield url


def document_of(house: House, device: str) -> Desired:
    """Return a device's document, after checking its signature."""
    signed = house.fleet.documents.of_device(device)  # type: ignore[arg-type]
    assert signed is not None
    return decode_desired(verify_envelope(signed.envelope, DESIRED_TYPE, [house.signing.director_key()]))


@pytest.mark.slow
def test_a_restored_server_has_the_document_that_was_signed_and_signs_the_next(
    empty_database_url: str, other_url: str, tmp_path: Path
) -> None:
    clock = TurnedClock()
    lost = House(empty_database_url, tmp_path / "lost", clock)
    device = lost.device(labels={"site": "desk"}).id
    old = lost.release("digits@1.0.0", bundles={PROFILE: b"old"})
    lost.release("digits@1.1.0", bundles={PROFILE: b"new"})
    lost.fleet.deployer.deploy(old, selector="site=desk", by="ann")
    signed, key = lost.fleet.documents.of_device(device), lost.signing.director_key()
    assert signed is not None

    copied(empty_database_url, other_url, tmp_path)
    for name in ("blobs", "keys"):
        shutil.copytree(tmp_path / "lost" / name, tmp_path / "restored" / name)
    lost.fleet.deployer.deploy(
        lost.release("digits@1.2.0", bundles={PROFILE: b"after"}), selector="site=desk", by="ann"
    )
    lost.db.dispose()
    shutil.rmtree(tmp_path / "lost")

    restored = House(other_url, tmp_path / "restored", clock)
    again = restored.fleet.documents.of_device(device)
    assert again is not None
    assert (again.envelope, again.gen) == (signed.envelope, signed.gen)
    assert restored.signing.director_key() == key
    before = document_of(restored, device)
    clock.turn(minutes=1)
    restored.fleet.deployer.deploy(
        restored.release("digits@1.2.0", bundles={PROFILE: b"after"}), selector="site=desk", by="ann"
    )
    after = document_of(restored, device)
    assert after.gen > before.gen
    assert after.models["digits"].active != before.models["digits"].active
    bundle = restored.registry.bundle_for(old, PROFILE)
    assert bundle is not None
    assert restored.registry.blob_size(bundle.sha256) == len(b"old")
    restored.db.dispose()
