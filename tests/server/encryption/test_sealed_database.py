"""The start seals what is plain, keys are changed while the server runs, and a wrong or missing key ends the start."""

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.encryption import rules
from edgefleet_server.encryption.errors import (
    KeyChangeRefusedError,
    KeyMissingError,
    KeyUnreadableError,
    KeyWrongError,
)
from edgefleet_server.encryption.fleet_key import FleetKey
from edgefleet_server.encryption.key_sources import KeyFile, KeyText, source_of
from edgefleet_server.encryption.model import Kept, KeyRing, SecretEntry
from edgefleet_server.encryption.secret_list import secret_entries
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.process.init import AlreadyRunningError
from edgefleet_server.process.lifecycle.engine_work import build_webhook_sender
from edgefleet_server.process.secret_sealer import drop_lost, lost
from edgefleet_server.registry.tables import BlobRow, ModelRow, ReleaseRow, UnsignedBundleRow
from tests.server.webhook.independent import is_signed
from tests.server.webhook.test_sending import Ticker
from tests.support.receivers import LOOPBACK, receiving
from tests.support.servers import ApiHouse

PLAIN = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
URL = "mailtos://fleet:correct-horse-battery@mail.example.org?to=ops@example.org"


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[ApiHouse]:
    """All services on both databases; receivers on the loopback may be called."""
    made = ApiHouse(tmp_path / "server", database_url, webhook_networks=LOOPBACK)
    made.parts = replace(made.parts, poster=HttpPoster(parse_networks(LOOPBACK), SystemClock()))
    yield made
    made.close()


def put_plain(house: ApiHouse, secret: str = PLAIN, url: str = URL) -> None:
    """Write a webhook and a contact point as the version before did, and let a secret of before be deleted."""
    now = house.clock.now()
    webhook = text(
        "INSERT INTO webhook (id, name, url, types, is_enabled, disabled_reason, created_at, created_by, failures, lease_owner, fence)"
        " VALUES ('wh-old', 'old', 'https://hooks.example.org/x', '[]', :yes, '', :now, 'ann', 0, '', 0)"
    )
    with house.parts.db.session() as session:
        session.execute(webhook, {"now": now, "yes": True})
        for number, one in ((1001, secret), (1002, secret[::-1])):
            session.execute(
                text(
                    "INSERT INTO webhook_secret (id, webhook_id, secret, created_at) VALUES (:id, 'wh-old', :secret, :now)"
                ),
                {"id": number, "secret": one, "now": now},
            )
        session.execute(
            text("INSERT INTO alert_contact_secret (contact_id, url) VALUES ('cp-old', :url)"), {"url": url}
        )
    with house.parts.db.session() as session:
        session.execute(text("DELETE FROM webhook_secret WHERE id = 1002"))


def stored(house: ApiHouse) -> list[str]:
    """Return all stored texts."""
    with house.parts.db.read() as session:
        return [
            *session.execute(text("SELECT secret FROM webhook_secret ORDER BY id")).scalars(),
            *session.execute(text("SELECT url FROM alert_contact_secret")).scalars(),
        ]


def entries(house: ApiHouse) -> list[SecretEntry]:
    """Return the list of secrets."""
    parts = house.parts
    return secret_entries(house.settings, parts.db, source_of(house.settings), SEALED_COLUMNS, is_current=True)


def key_file(house: ApiHouse) -> Path:
    """Return the file of the sealing key."""
    return house.settings.keys_dir / "secrets.key"


def again(house: ApiHouse, **changes: Any) -> Sealer:
    """Return a sealer of a process that has just started."""
    settings = house.settings.model_copy(update=changes)
    return Sealer(house.parts.db, source_of(settings), house.clock)


def test_what_a_lost_key_sealed_is_named_deleted_and_written_down(house: ApiHouse) -> None:
    put_plain(house)
    house.parts.sealer.start(SEALED_COLUMNS)
    held = again(house).source.read()
    assert held is not None
    assert again(house).lost(SEALED_COLUMNS) == ([], [])
    with pytest.raises(KeyWrongError, match="is there"):
        again(house).drop_lost(SEALED_COLUMNS, [held.newest.id], lambda _count: None)
    key_file(house).unlink()
    found, keys = again(house).lost(SEALED_COLUMNS)
    assert keys == [held.newest.id]
    assert len(found) == 2

    def full(_count: int) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):  # a key is made already, and it can be run again
        again(house).drop_lost(SEALED_COLUMNS, [held.newest.id], full)
    assert len(stored(house)) == 2
    with pytest.raises(KeyWrongError):
        again(house).start(SEALED_COLUMNS)
    house.settings.run_dir.mkdir(exist_ok=True)
    with (house.settings.run_dir / "main.lock").open(
        "a+"
    ) as running:  # a server may have its key from a systemd credential
        fcntl.flock(running, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunningError, match="may hold the key"):
            drop_lost(house.settings, [held.newest.id])
    assert len(stored(house)) == 2
    assert drop_lost(house.settings, [held.newest.id]) == 2
    assert stored(house) == []
    assert again(house).start(SEALED_COLUMNS) == 0
    row = house.parts.access.audit(PageRequest()).items[0]
    assert (row.action, row.object) == ("drop_lost_secrets", f"2 secrets of lost keys: {held.newest.id}")


def test_with_the_fleet_key_the_bundles_that_nobody_opens_any_more_are_named(house: ApiHouse) -> None:
    house.parts.sealer.start(SEALED_COLUMNS)
    with house.parts.db.session() as session:
        key = FleetKey(house.parts.db, house.clock)
        key.open_with(house.parts.sealer)
        key.ensure_for({"seal": True})
        digest = "0" * 64
        at: dict[str, Any] = {"created_at": house.clock.now(), "created_by": "ann"}
        session.add(ModelRow(name="digits", **at))
        session.add(BlobRow(sha256=digest, length=1, created_at=house.clock.now()))
        session.flush()
        version: dict[str, Any] = {"model": "digits", "version": "1.0.0", "state": "ready", "profiles_reason": ""}
        version |= {"source_sha256": digest, "identity": digest, "source": {}, "data": {}, "options": {}}
        made = ReleaseRow(**version, **at)
        session.add(made)
        session.flush()
        bundle: dict[str, Any] = {"release_id": made.id, "profile": "pi5", "target": "t", "sha256": digest, "length": 1}
        bundle |= {"leaves": digest, "runtime": "ort", "precision": "fp32", "report": {}, "sealed_key": "ab"}
        session.add(UnsignedBundleRow(**bundle))
    assert lost(house.settings)["bundles"] == []
    key_file(house).unlink()
    assert lost(house.settings)["bundles"] == ["digits@1.0.0 for pi5"]


def test_a_webhook_without_a_secret_sends_nothing(house: ApiHouse) -> None:
    sender = Ticker(build_webhook_sender(house.parts, "main", draw=lambda: 0.0))
    try:
        with receiving() as receiver:
            made = house.parts.webhooks.create("test", receiver.url, (), "ann")
            with house.parts.db.session() as session:
                session.execute(text("DELETE FROM webhook_secret"))
            house.parts.webhooks.ping(made.webhook.id)
            sender.tick()
            assert receiver.got == []
    finally:
        sender.sender.stop()


def test_a_key_that_cannot_be_read_is_not_lost(house: ApiHouse) -> None:
    put_plain(house)
    house.parts.sealer.start(SEALED_COLUMNS)
    elsewhere = again(house, secrets_key_file=key_file(house).with_name("gone"))
    for act in (elsewhere.lost, lambda columns: elsewhere.drop_lost(columns, ["0" * 16], lambda _count: None)):
        with pytest.raises(KeyUnreadableError):
            act(SEALED_COLUMNS)
    assert len(stored(house)) == 2


def test_the_start_seals_what_is_plain_and_nothing_of_it_is_left_in_the_files(house: ApiHouse) -> None:
    put_plain(house)
    assert [one.kept for one in entries(house)[-2:]] == [Kept.PLAIN, Kept.PLAIN]
    assert house.parts.sealer.start(SEALED_COLUMNS) == 2
    assert all(one.startswith("efs1:") for one in stored(house))
    assert [(one.kept, one.problem) for one in entries(house)[-2:]] == [(Kept.SEALED, ""), (Kept.SEALED, "")]
    assert house.parts.sealer.start(SEALED_COLUMNS) == 0
    if not house.parts.db.is_sqlite:
        return
    database = Path(str(house.parts.db.engine.url.database))
    copy = database.with_name("backup.db")
    with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
    files = [database, copy, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))]
    for path in files:
        data = path.read_bytes() if path.exists() else b""
        for secret in (PLAIN, PLAIN[::-1], URL, "correct-horse-battery"):
            assert secret.encode() not in data, (path, secret)
    for path in files[:1] + files[2:]:
        assert not path.exists() or path.stat().st_mode & 0o077 == 0, path


def test_webhooks_sign_with_what_was_sealed_through_every_change_of_the_key(house: ApiHouse) -> None:
    sender = Ticker(build_webhook_sender(house.parts, "main", draw=lambda: 0.0))
    other = again(house)
    try:
        with receiving() as receiver:
            made = house.parts.webhooks.create("test", receiver.url, (), "ann")
            for change in (other.seal_again, other.rotate, other.forget_old):
                before = key_file(house).read_text()
                done = change(SEALED_COLUMNS)
                assert done.is_clean
                assert all(rules.key_id_of(one) == done.key for one in stored(house))
                house.parts.webhooks.ping(made.webhook.id)
                sender.tick()
                got = receiver.got[-1]
                assert is_signed(made.secret, dict(got.headers), got.body, int(got.headers["webhook-timestamp"]))
            assert before.count("\n") == 3  # a comment and two keys
            assert key_file(house).read_text().count("\n") == 2
            assert len(receiver.got) == 3
        house.parts.webhooks.rotate(made.webhook.id, timedelta(hours=1))  # the running process seals with the new key
        assert {rules.key_id_of(one) for one in stored(house)} == {done.key}
        assert key_file(house).stat().st_mode & 0o777 == 0o600
    finally:
        sender.sender.stop()


def test_without_the_key_or_with_another_one_nothing_starts_and_no_key_is_made(house: ApiHouse) -> None:
    put_plain(house)
    house.parts.sealer.start(SEALED_COLUMNS)
    right, before = key_file(house).read_text(), stored(house)
    key_id = str(rules.key_id_of(before[0]))
    for content, kind in (
        (None, KeyMissingError),
        (rules.key_text(_ring(7)), KeyWrongError),
        ("x", KeyUnreadableError),
    ):
        key_file(house).unlink(missing_ok=True)
        if content is not None:
            key_file(house).write_text(content)
        with pytest.raises(kind) as refused:
            again(house).start(SEALED_COLUMNS)
        assert refused.value.next_step
        assert kind is KeyUnreadableError or key_id in refused.value.message
        assert next(one for one in entries(house) if one.what == "sealing key").problem
        assert [one.kept for one in entries(house)[-2:]] == [Kept.BROKEN, Kept.BROKEN]
        assert key_file(house).exists() is (content is not None)
    with house.parts.db.session() as session:
        session.execute(text("DELETE FROM sealing_state"))  # does not make it take another key
    key_file(house).unlink()
    with pytest.raises(KeyMissingError, match=key_id):
        again(house).start(SEALED_COLUMNS)
    assert stored(house) == before
    key_file(house).write_text(right)
    assert again(house).start(SEALED_COLUMNS) == 0


def test_a_secret_that_was_changed_in_the_database_fails_its_delivery_in_words(house: ApiHouse) -> None:
    sender = Ticker(build_webhook_sender(house.parts, "main", draw=lambda: 0.0))
    try:
        with receiving() as receiver:
            one, two = (house.parts.webhooks.create(name, receiver.url, (), "ann") for name in ("one", "two"))
            with house.parts.db.session() as session:
                session.execute(
                    text(
                        "UPDATE webhook_secret SET secret = (SELECT secret FROM webhook_secret WHERE webhook_id = :a) WHERE webhook_id = :b"
                    ),
                    {"a": one.webhook.id, "b": two.webhook.id},
                )
            house.parts.webhooks.ping(two.webhook.id)
            sender.tick()
            [delivery] = house.parts.webhooks.deliveries(two.webhook.id, state=None, before=None, limit=9)[0]
            assert "was changed, or moved" in delivery.error
            assert not receiver.got
        kept = {e.where.split()[1].split("/")[0]: e.kept for e in entries(house) if e.what.startswith("signing secret")}
        assert kept == {one.webhook.id: Kept.SEALED, two.webhook.id: Kept.BROKEN}
    finally:
        sender.sender.stop()


def test_two_processes_that_begin_at_once_with_keys_of_their_own_do_not_both_seal(
    house: ApiHouse, tmp_path: Path
) -> None:
    first = again(house)
    second = again(house, data_dir=tmp_path / "replica")
    first.start(SEALED_COLUMNS)
    with pytest.raises((KeyMissingError, KeyWrongError)):
        second.start(SEALED_COLUMNS)


def test_a_key_from_outside_is_changed_there(house: ApiHouse) -> None:
    old, new = rules.key_text(_ring(1)).splitlines()[1], rules.key_text(_ring(2)).splitlines()[1]
    first = Sealer(house.parts.db, KeyText(old), house.clock)
    put_plain(house)
    first.start(SEALED_COLUMNS)
    with pytest.raises(KeyChangeRefusedError) as refused:
        first.rotate(SEALED_COLUMNS)
    assert "before the old one" in refused.value.next_step
    both = Sealer(house.parts.db, KeyText(f"{new}\n{old}"), house.clock)
    both.start(SEALED_COLUMNS)
    assert {rules.key_id_of(one) for one in stored(house)} == {_ring(1).newest.id}  # a start changes no key
    assert both.seal_again(SEALED_COLUMNS).values == 2
    Sealer(house.parts.db, KeyText(new), house.clock).start(SEALED_COLUMNS)


def test_many_rows_are_sealed_again_at_once(house: ApiHouse) -> None:
    house.parts.sealer.start(SEALED_COLUMNS)
    with house.parts.db.session() as session:
        rows = [
            {
                "id": n,
                "secret": house.parts.sealer.seal(SEALED_COLUMNS[0].place("wh-x", n), PLAIN),
                "now": house.clock.now(),
            }
            for n in range(200)
        ]
        session.execute(
            text("INSERT INTO webhook_secret (id, webhook_id, secret, created_at) VALUES (:id, 'wh-x', :secret, :now)"),
            rows,
        )
    assert house.parts.sealer.start(SEALED_COLUMNS) == 0
    assert house.parts.sealer.rotate(SEALED_COLUMNS).values == 200


def _ring(number: int) -> Any:
    return KeyRing((rules.key_of(bytes([number]) * 32),))


class _SlowFile:
    """A key file that is written late: whatever another process does meanwhile is done."""

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self.where, self.kept, self.read = file.where, file.kept, file.read

    def write(self, ring: KeyRing) -> None:
        time.sleep(0.3)
        self._file.write(ring)


def _at_once(house: ApiHouse, *changes: str) -> None:
    """Call methods of sealers, each as a process of its own."""
    path = key_file(house)
    with ThreadPoolExecutor(len(changes)) as pool:
        sealers = [Sealer(house.parts.db, _SlowFile(KeyFile(path, is_own=True)), house.clock) for _ in changes]
        calls = [
            pool.submit(getattr(sealer, name), SEALED_COLUMNS) for sealer, name in zip(sealers, changes, strict=True)
        ]
        for call in calls:
            call.result()


@pytest.mark.parametrize("changes", [("start", "start"), ("rotate", "rotate"), ("rotate", "forget_old", "rotate")])
def test_processes_that_change_the_key_at_once_lose_no_secret(house: ApiHouse, changes: tuple[str, ...]) -> None:
    if changes[0] == "start":  # the first one of this version: there is no key yet
        key_file(house).unlink(missing_ok=True)
        with house.parts.db.session() as session:
            session.execute(text("DELETE FROM sealing_state"))
    put_plain(house)
    _at_once(house, *changes)
    assert again(house).start(SEALED_COLUMNS) == 0
    assert [(one.kept, one.problem) for one in entries(house)[-2:]] == [(Kept.SEALED, ""), (Kept.SEALED, "")]


def test_a_process_that_dies_between_the_file_and_the_database_leaves_secrets_that_open(
    house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_plain(house)
    house.parts.sealer.start(SEALED_COLUMNS)
    for name in ("rotate", "forget_old", "rotate"):
        with monkeypatch.context() as patch:
            patch.setattr(KeyFile, "write", _write_and_die)
            with pytest.raises(KeyboardInterrupt):
                getattr(again(house), name)(SEALED_COLUMNS)
        assert again(house).start(SEALED_COLUMNS) == 0
        assert [one.problem for one in entries(house)[-2:]] == ["", ""]
    assert again(house).forget_old(SEALED_COLUMNS).is_clean
    assert key_file(house).read_text().count("\n") == 2


_WRITE = KeyFile.write


def _write_and_die(file: KeyFile, ring: KeyRing) -> None:
    _WRITE(file, ring)
    raise KeyboardInterrupt
