"""Backups that a timer writes without a secret that opens them: keys sealed to a recipient, opened by an identity kept elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import BackupPlace, opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice
from edgefleet_server.process.backup.errors import BackupKeyError, DamagedBackupError, KeysLockedError
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.backup_keys.key_opener import Opener
from edgefleet_server.process.backup_keys.recipient_key import Identity, Recipient, identity_of, new_pair, recipient_of
from edgefleet_server.settings import load_settings
from edgefleet_server.signing.errors import KeysExistError
from tests.server.backup import servers

pytestmark = pytest.mark.slow


def silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""


def pair(folder: Path, name: str) -> tuple[Identity, Recipient]:
    """Make a pair and read it from its files."""
    new_pair(folder / name, folder / f"{name}.recipient")
    return identity_of(folder / name), recipient_of(folder / f"{name}.recipient")


def found_by(place: BackupPlace, opener: Opener) -> tuple[list[str], bool, bool]:
    """Return problems, whether keys were opened and whether the origin was proved."""
    found = BackupChecker(place, SystemClock(), silent).check(None, opener, is_deep=False)
    return found["problems"], found["keys_opened"], found["origin_proved"]


def test_a_recipient_seals_and_proves_and_only_the_identity_opens(tmp_path: Path) -> None:
    house = servers.begin(tmp_path / "live")
    house.db.dispose()
    (identity, recipient), (other, other_recipient) = pair(tmp_path, "mine.pem"), pair(tmp_path, "other.pem")
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        writer = BackupWriter(load_settings(tmp_path / "live"), place, SystemClock(), silent)
        made = writer.make(KeysChoice(recipient=recipient))
        assert made.manifest.keys.recipient == recipient.key_id
        stored = b"".join(path.read_bytes() for path in (tmp_path / "bk").rglob("*") if path.is_file())
        assert b"PRIVATE KEY" not in stored
        assert found_by(place, None) == ([], False, False)
        assert found_by(place, recipient) == ([], False, True)
        assert found_by(place, identity) == ([], True, True)
        for wrong in (other, other_recipient, b"five words at random"):
            assert found_by(place, wrong)[0], wrong
        refused: list[Opener] = [None, recipient, other, b"five words at random"]
        for opener in refused:
            with pytest.raises(KeysLockedError):
                Restorer(place, Target(tmp_path / "no"), silent).restore(None, opener)
        Restorer(place, Target(tmp_path / "back"), silent).restore(None, identity)
        for path in (tmp_path / "live" / "keys").iterdir():
            assert (tmp_path / "back" / "keys" / path.name).read_bytes() == path.read_bytes()

        manifest = tmp_path / "bk" / "snapshots" / made.manifest.name / "backup.json"
        manifest.write_bytes(json.dumps(json.loads(manifest.read_bytes()) | {"version": "9.9.9"}).encode())
        assert found_by(place, None)[0] == []
        assert "not written with" in found_by(place, recipient)[0][0]
        with pytest.raises(DamagedBackupError):
            Restorer(place, Target(tmp_path / "no"), silent).restore(None, identity)


def test_unsealed_keys_do_not_pass_where_sealed_ones_are_expected(tmp_path: Path) -> None:
    house = servers.begin(tmp_path / "live")
    house.db.dispose()
    identity, recipient = pair(tmp_path, "mine.pem")
    with opened_place(str(tmp_path / "bk"), is_new=True) as place:
        BackupWriter(load_settings(tmp_path / "live"), place, SystemClock(), silent).make(KeysChoice())
        for opener in (identity, b"five words at random"):
            with pytest.raises(KeysLockedError, match="lie in plain"):
                Restorer(place, Target(tmp_path / "no"), silent).restore(None, opener)
        assert "lie in plain" in found_by(place, recipient)[0][0]
        assert found_by(place, None) == ([], True, False)


def test_files_of_keys_are_never_overwritten_and_wrong_ones_are_named(tmp_path: Path) -> None:
    pair(tmp_path, "mine.pem")
    for given in (tmp_path / "mine.pem", tmp_path / "new.pem"):
        with pytest.raises((KeysExistError, BackupKeyError)):
            new_pair(given, tmp_path / ("x" if given.exists() else "mine.pem.recipient"))
    with pytest.raises(BackupKeyError, match="is an identity, which opens backups"):
        recipient_of(tmp_path / "mine.pem")
    with pytest.raises(BackupKeyError, match="no identity"):
        identity_of(tmp_path / "mine.pem.recipient")
    with pytest.raises(BackupKeyError, match="cannot be read"):
        identity_of(tmp_path / "nothing")
    assert (tmp_path / "mine.pem").stat().st_mode & 0o777 == 0o600
