"""Backups are whole or not there: in folders, tar files and buckets, with and without keys. After a kill: `tests/crash/backup_kills.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore, from_url

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.db.database import Database
from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup import backup_places
from edgefleet_server.process.backup.backup_catalog import names_of, prune
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import BackupPlace, BucketPlace, opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice, Made
from edgefleet_server.process.backup.errors import (
    BackupPlaceError,
    DamagedBackupError,
    KeysLockedError,
    NoBackupError,
    PlainKeysError,
    TargetNotEmptyError,
)
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.backup.settings_file import changed_text
from edgefleet_server.registry.errors import BlobDigestError
from edgefleet_server.settings import load_settings
from tests.server.backup import servers

pytestmark = pytest.mark.slow
PASSPHRASE = b"five words at random"
SEALED = KeysChoice(PASSPHRASE)


def silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""


def made(folder: Path, place: BackupPlace, keys: KeysChoice = SEALED) -> Made:
    """Make a backup."""
    return BackupWriter(load_settings(folder), place, SystemClock(), silent).make(keys)


def problems(place: BackupPlace, *, is_deep: bool = False) -> list[str]:
    """Return what is wrong with the newest backup."""
    found: list[str] = BackupChecker(place, SystemClock(), silent).check(None, PASSPHRASE, is_deep=is_deep)["problems"]
    return found


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """The data folder of a server."""
    house = servers.begin(tmp_path / "live")
    house.db.dispose()
    return tmp_path / "live"


def wheel_of(folder: Path) -> bytes:
    """Return the wheel of the agent that a server with this data folder hands out."""
    parts = build_parts(load_settings(folder), SystemClock())
    (wheel,) = parts.fleet.packages.all()
    data = parts.fleet.packages.read(wheel)
    parts.db.dispose()
    return data


def test_what_a_killed_backup_to_a_bucket_left_here_goes_with_the_next(tmp_path: Path) -> None:
    scratch = tmp_path / "run" / "backup"
    bucket = MemoryStore()
    killed = scratch / "killed"
    killed.mkdir(parents=True)
    (killed / "table").write_bytes(b"rows of people")
    reading = BucketPlace(bucket, scratch)
    assert reading.sizes("tables") == {}
    assert list(scratch.iterdir()) == [killed], "a reader writes nothing"
    # as two processes: a lock is of one opened file
    first, second = BucketPlace(bucket, scratch), BucketPlace(bucket, scratch)
    file, other = first.scratch(), second.scratch()
    file.write_bytes(b"1")
    other.write_bytes(b"2")
    assert sorted(scratch.iterdir()) == sorted([file.parent, other.parent]), "what is in use stays"
    first.put("a", file)
    second.put("b", other)
    first.close()
    assert list(scratch.iterdir()) == [other.parent]
    second.close()
    reading.close()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "tar", "bucket"])
def test_a_server_comes_back_from_each_kind_of_place(live: Path, tmp_path: Path, kind: str) -> None:
    where = tmp_path / ("bk.tar" if kind == "tar" else "bk")
    if kind == "bucket":
        where.mkdir()
        bucket: BackupPlace = BucketPlace(from_url(f"file://{where}"), live / "run" / "backup")
        first = made(live, bucket)
        assert made(live, bucket).copied == 0 < first.copied, "blobs are copied once"
        assert problems(bucket, is_deep=True) == []
        Restorer(bucket, Target(tmp_path / "back"), silent).restore(None, PASSPHRASE)
        bucket.close()
    else:
        with opened_place(str(where), is_new=True) as place:
            made(live, place)
        with opened_place(str(where), is_new=False) as place:
            assert problems(place, is_deep=True) == []
            Restorer(place, Target(tmp_path / "back"), silent).restore(None, PASSPHRASE)
    assert not any((live / "run" / "backup").glob("*"))
    one, two = (Database(load_settings(folder).database) for folder in (live, tmp_path / "back"))
    assert servers.sums(one) == servers.sums(two)
    assert wheel_of(tmp_path / "back") == b"some bytes of a wheel"
    for db in (one, two):
        db.dispose()
    names = [path.relative_to(live) for path in [*live.rglob("keys/*"), *live.rglob("blobs/*/*")] if path.is_file()]
    assert len(names) > 5
    assert all((tmp_path / "back" / name).read_bytes() == (live / name).read_bytes() for name in names)


def test_what_is_damaged_taken_away_or_exchanged_is_found(live: Path, tmp_path: Path) -> None:
    where = tmp_path / "bk"
    with opened_place(str(where), is_new=True) as place:
        first, second = made(live, place), made(live, place)
        assert problems(place) == []
        for pattern in (
            "blobs/*/*",
            f"snapshots/{second.manifest.name}/tables/models.rows",
            f"snapshots/{second.manifest.name}/keys",
        ):
            victim = next(where.glob(pattern))
            kept = victim.read_bytes()
            victim.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            assert problems(place), pattern
            with pytest.raises((DamagedBackupError, BlobDigestError)):
                Restorer(place, Target(tmp_path / f"from-{victim.name}"), silent).restore(None, PASSPHRASE)
            assert not (tmp_path / f"from-{victim.name}" / "server.toml").exists()
            victim.write_bytes(kept)
        manifest = where / "snapshots" / first.manifest.name / "backup.json"
        manifest.write_bytes(
            manifest.read_bytes().replace(b'"version"', b'"Version"', 1).replace(b'"Version"', b'"version"', 1) + b"\n"
        )
        assert any("does not follow" in one for one in problems(place))


def test_keys_are_sealed_left_out_or_refused(live: Path, tmp_path: Path) -> None:
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        made(live, place)
        with pytest.raises(KeysLockedError):
            Restorer(place, Target(tmp_path / "no"), silent).restore(None, None)
        with pytest.raises(KeysLockedError):
            Restorer(place, Target(tmp_path / "no"), silent).restore(None, b"five other words")
        stored = b"".join(path.read_bytes() for path in (tmp_path / "bk").rglob("*") if path.is_file())
        assert b"PRIVATE KEY" not in stored
        assert made(live, place, KeysChoice(leaves_out=True)).manifest.keys.form == "none"
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with opened_place(str(tmp_path / "open"), is_new=True) as place, pytest.raises(PlainKeysError):
        made(live, place, KeysChoice())


def test_only_the_newest_stay_and_no_blob_of_theirs_goes(live: Path, tmp_path: Path) -> None:
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        for _ in range(3):
            made(live, place)
        place_of_stray = tmp_path / "bk" / "blobs" / "ab" / ("ab" * 32)
        place_of_stray.parent.mkdir(exist_ok=True)
        place_of_stray.write_bytes(b"nobody names it")
        assert prune(place, 2) == (1, 1)
        assert len(names_of(place)[0]) == 2
        assert problems(place) == []
        with pytest.raises(BackupPlaceError, match="another backup is being written"):
            backup_places._open(str(tmp_path / "bk"), is_new=True)


def test_what_is_there_is_not_overwritten(live: Path, tmp_path: Path) -> None:
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        with pytest.raises(NoBackupError):
            problems(place)
        made(live, place)
        with pytest.raises(TargetNotEmptyError):
            Restorer(place, Target(live), silent).restore(None, PASSPHRASE)


def test_a_package_in_a_backup_of_an_earlier_version_is_where_the_server_takes_it_in(
    live: Path, tmp_path: Path
) -> None:
    data, target = b"a newer wheel", Target(tmp_path / "back")
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        file = place.scratch()
        file.write_bytes(data)
        place.put(naming.blob_name(sha256_hex(data)), file)
        restorer = Restorer(place, target, silent)
        entry = naming.BlobEntry(sha256_hex(data), len(data), f"agent-packages/{servers.WHEEL}")
        restorer._file(entry)
        for path in (f"keys/{servers.WHEEL}", f"agent-packages/../keys/{servers.WHEEL}"):
            with pytest.raises(DamagedBackupError):
                restorer._file(naming.BlobEntry(entry.sha256, entry.bytes, path))
    parts = build_parts(load_settings(live), SystemClock())
    parts.fleet.packages.take_over(target.settings.agent_packages_dir)
    parts.db.dispose()
    assert wheel_of(live) == data


def test_settings_keep_what_a_person_wrote() -> None:
    text = "# mine\ndatabase_url = 'sqlite:///x'\ntenant = 'a'\n[[identity_providers]]\nname = 'x'\n"
    found = changed_text(text, {"database_url": "postgresql+psycopg://u@/n", "database_url_file": None})
    assert (
        found
        == "# mine\ntenant = 'a'\ndatabase_url = \"postgresql+psycopg://u@/n\"\n[[identity_providers]]\nname = 'x'\n"
    )
