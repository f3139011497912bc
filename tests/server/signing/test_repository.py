"""The TUF repository against the real client of python-tuf."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.messages import RepoHead, decode
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.signing.errors import KeysExistError, KeysMissingError, TargetExistsError
from edgefleet_server.signing.service import SigningService
from edgefleet_terms.audit_chain.audit_head import HEAD_TARGET
from tests.server.fleet.house import House, TurnedClock

SHA = Sha256("a" * 64)


class ServiceFetcher(FetcherInterface):
    """Fetches metadata straight from the service."""

    def __init__(self, signing: SigningService) -> None:
        self.signing = signing
        self.sent = 0
        self.timestamp: bytes | None = None
        """Given out instead of the newest, as a device does with the one that it was sent."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[1]
        data = (self.timestamp if name == "timestamp.json" else None) or self.signing.metadata_file(name)
        if data is None:
            raise DownloadHTTPError("no such file", 404)
        self.sent += len(data)
        yield data


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A server that begins now, since the TUF client asks the machine for the time."""
    return House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(SystemClock().now()))


def client(house: House, folder: Path, *, root: bytes | None = None) -> Updater:
    """Return a client that pins the first root."""
    folder.mkdir(exist_ok=True)
    pinned = root or house.signing.root_chain()[0]
    return Updater(str(folder), "https://tuf.test/", fetcher=ServiceFetcher(house.signing), bootstrap=pinned)


def test_client_finds_a_signed_bundle_with_its_custom_fields(house: House, tmp_path: Path) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {"leaves": "b" * 64, "leaf_bytes": 32768})
    updater = client(house, tmp_path / "client")
    updater.refresh()
    found = updater.get_targetinfo("digits/1.0.0/p.bundle")
    assert found is not None
    assert (found.length, found.hashes) == (100, {"sha256": SHA})
    signed_s = int(house.clock.now().timestamp())
    assert found.custom == {"leaves": "b" * 64, "leaf_bytes": 32768, "sec_version": signed_s}
    assert updater.get_targetinfo("digits/1.0.0/q.bundle") is None
    assert updater.get_targetinfo("other/1.0.0/p.bundle") is None


def test_director_key_is_delegated_and_each_role_has_its_own_key(house: House) -> None:
    from tuf.api.metadata import Metadata

    with house.db.read() as session:
        from edgefleet_server.signing import store

        newest = store.latest(session, "targets")
    assert newest is not None
    targets = Metadata[Any].from_bytes(newest[1]).signed
    roles = targets.delegations.roles
    assert list(roles) == ["director", "releases"]
    assert roles["director"].paths == ["director/*"]
    assert roles["releases"].paths == ["*/*/*"]
    assert roles["director"].keyids == [house.signing.director_key().keyid]
    assert roles["director"].keyids != roles["releases"].keyids


def test_signing_the_same_bundle_again_changes_nothing(house: House) -> None:
    assert house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    before = house.signing.metadata_file("timestamp.json")
    assert not house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    assert house.signing.metadata_file("timestamp.json") == before


def test_a_signed_bundle_is_never_replaced(house: House) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    with pytest.raises(TargetExistsError):
        house.signing.add_target("digits/1.0.0/p.bundle", 100, Sha256("c" * 64), {})


def test_client_refuses_an_older_repository(house: House, tmp_path: Path) -> None:
    old = house.signing.metadata_file("timestamp.json")
    assert old is not None
    house.clock.turn(seconds=5)
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    updater = client(house, tmp_path / "client")
    updater.refresh()

    class Replay(ServiceFetcher):
        def _fetch(self, url: str) -> Iterator[bytes]:
            if url.endswith("timestamp.json"):
                assert old is not None
                yield old
            else:
                yield from super()._fetch(url)

    again = Updater(
        str(tmp_path / "client"),
        "https://tuf.test/",
        fetcher=Replay(house.signing),
        bootstrap=house.signing.root_chain()[0],
    )
    with pytest.raises(RepositoryError):
        again.refresh()


def test_client_refuses_metadata_of_another_server(house: House, tmp_path: Path) -> None:
    other = House(f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "b", house.clock)
    updater = client(house, tmp_path / "client", root=other.signing.root_chain()[0])
    with pytest.raises(RepositoryError):
        updater.refresh()


def test_a_flipped_byte_of_any_metadata_file_is_refused(house: House, tmp_path: Path) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    for role in ("timestamp", "snapshot", "targets", "releases", "m.digits"):
        bad_role = f"{role}.json"

        class Flip(ServiceFetcher):
            def _fetch(self, url: str, bad: str = bad_role) -> Iterator[bytes]:
                for data in super()._fetch(url):
                    name = url.rsplit("/", 1)[1]
                    hit = name == bad or name.split(".", 1)[-1] == bad
                    yield data.replace(b'"version":1', b'"version":2', 1) if hit else data

        updater = Updater(
            str(tmp_path / "c" / role),
            "https://tuf.test/",
            fetcher=Flip(house.signing),
            bootstrap=house.signing.root_chain()[0],
        )
        with pytest.raises(RepositoryError):  # get_targetinfo refreshes first
            updater.get_targetinfo("digits/1.0.0/p.bundle")


def test_restored_database_still_moves_forward(house: House, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    (backup / "a.db").write_bytes(_copy(house))
    house.clock.turn(hours=1)
    house.signing.add_target("digits/1.1.0/p.bundle", 100, Sha256("d" * 64), {})
    folder = tmp_path / "client"
    client(house, folder).refresh()

    house.clock.turn(seconds=30)
    restored = SigningService(_open(backup / "a.db"), tmp_path / "a" / "keys", house.clock)
    restored.start()
    restored.add_target("digits/1.2.0/p.bundle", 100, Sha256("e" * 64), {})
    updater = Updater(
        str(folder), "https://tuf.test/", fetcher=ServiceFetcher(restored), bootstrap=restored.root_chain()[0]
    )
    updater.refresh()
    assert updater.get_targetinfo("digits/1.2.0/p.bundle") is not None


def test_timestamp_is_signed_again_at_half_life(any_house: House) -> None:
    first = any_house.signing.metadata_file("timestamp.json")
    any_house.clock.turn(hours=11)
    assert not any_house.signing.resign_due()
    any_house.clock.turn(hours=2)
    assert any_house.signing.resign_due()
    assert any_house.signing.metadata_file("timestamp.json") != first
    assert not any_house.signing.resign_due()


def test_all_roles_are_signed_again_in_time(house: House, tmp_path: Path) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    for _ in range(200):  # beyond the 180 days of `targets`, the longest life
        house.clock.turn(days=1)
        assert house.signing.resign_due()
    folder = tmp_path / "client"
    folder.mkdir()
    updater = client(house, folder)
    updater._trusted_set.reference_time = house.clock.now()  # the client asks the machine's clock otherwise
    updater.refresh()
    assert updater.get_targetinfo("digits/1.0.0/p.bundle") is not None


def test_repo_head_holds_the_newest_timestamp(house: House) -> None:
    head = decode(RepoHead, house.signing.repo_head())
    assert head.root_version == 1
    assert head.timestamp == house.signing.metadata_file("timestamp.json")


def test_a_head_of_the_audit_trail_alone_is_not_announced(any_house: House, tmp_path: Path) -> None:
    house, signing = any_house, any_house.signing
    signing.publish_audit_head(b"head 0", 1)  # delegates the role, which changes more than the role
    announced, size = signing.repo_head(), 1
    assert decode(RepoHead, announced).timestamp == signing.metadata_file("timestamp.json")
    replica = SigningService(_open_url(house), tmp_path / "a" / "keys", house.clock)
    for size in range(2, 6):
        house.clock.turn(hours=1)
        assert (replica if size % 2 else signing).publish_audit_head(b"head %d" % size, size)
        assert not signing.resign_due()
        assert signing.repo_head() == replica.repo_head() == announced
        newest = signing.find_as_client(HEAD_TARGET).target
        assert newest is not None
        assert newest.custom == {"size": size}
    assert signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    assert signing.repo_head() == replica.repo_head() != announced
    assert decode(RepoHead, signing.repo_head()).timestamp == replica.metadata_file("timestamp.json")
    assert signing.publish_audit_head(b"head 9", size + 1)
    announced = signing.repo_head()
    house.clock.turn(hours=1)
    signing.publish_audit_head(b"head 10", size + 2)
    assert replica.repo_head() == announced
    replica.start()
    assert signing.repo_head() != announced, "a start signs the timestamp for devices"
    replica._db.dispose()


def test_what_was_announced_is_renewed_in_time_and_can_be_followed(house: House, tmp_path: Path) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    house.signing.publish_audit_head(b"head 0", 1)
    house.clock.turn(days=3)  # the snapshot is old, but not yet due
    house.signing.resign_due()
    heads: list[bytes] = []
    for hour in range(1, 49):
        house.clock.turn(hours=1)
        house.signing.resign_due()
        house.signing.publish_audit_head(b"head %d" % hour, hour + 1)
        heads.append(house.signing.repo_head())
        hinted = ServiceFetcher(house.signing)
        hinted.timestamp = decode(RepoHead, heads[-1]).timestamp
        (tmp_path / str(hour)).mkdir()
        root = house.signing.root_chain()[0]
        updater = Updater(str(tmp_path / str(hour)), "https://tuf.test/", fetcher=hinted, bootstrap=root)
        updater._trusted_set.reference_time = house.clock.now() + dt.timedelta(hours=11)
        assert updater.get_targetinfo("digits/1.0.0/p.bundle") is not None, hour
    assert len(dict.fromkeys(heads)) == 5, "two a day, and the one before them"
    with house.db.read() as session:
        kept = session.connection().exec_driver_sql("SELECT name, COUNT(*) FROM signing_tuf_metadata GROUP BY name")
        assert max(count for _, count in kept) <= 40, "old ones go, though no commit is announced"


@pytest.mark.parametrize(
    "name",
    [
        "root.json",
        "0.root.json",
        "x.root.json",
        "../timestamp.json",
        "1.root.json/",
        "timestamp",
        "9" * 30 + ".root.json",
        "",
    ],
)
def test_odd_file_names_have_no_file(house: House, name: str) -> None:
    assert house.signing.metadata_file(name) is None


def test_keys_are_made_once_and_readable_by_their_owner_only(house: House, tmp_path: Path) -> None:
    keys = tmp_path / "a" / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    for file in keys.iterdir():
        assert file.stat().st_mode & 0o077 == (0o044 if file.suffix == ".crt" else 0), file
    assert b"ENCRYPTED" in (keys / "root.pem").read_bytes()
    assert "ONE key with threshold 1" in (keys / "README.txt").read_text()
    with pytest.raises(KeysExistError):
        house.signing.init()


def test_server_works_without_the_root_key(house: House, tmp_path: Path) -> None:
    keys = tmp_path / "a" / "keys"
    (keys / "root.pem").unlink()
    (keys / "root.passphrase").unlink()
    again = SigningService(house.db, keys, house.clock)
    again.start()
    assert again.add_target("digits/1.0.0/p.bundle", 100, SHA, {})


def test_a_missing_key_is_named(house: House, tmp_path: Path) -> None:
    (tmp_path / "a" / "keys" / "releases.pem").unlink()
    with pytest.raises(KeysMissingError, match=r"releases\.pem"):
        SigningService(house.db, tmp_path / "a" / "keys", house.clock).add_target("digits/1.0.0/p.bundle", 1, SHA, {})


def test_many_writers_come_one_after_another(house: House, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def sign(i: int) -> bool:
        return house.signing.add_target(f"m{i % 3}/1.0.{i}/p.bundle", 100, SHA, {})

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sign, range(24)))
    updater = client(house, tmp_path / "client")
    updater.refresh()
    assert all(updater.get_targetinfo(f"m{i % 3}/1.0.{i}/p.bundle") is not None for i in range(24))


def test_a_failed_transaction_leaves_the_repository_as_it_was(house: House) -> None:
    before = house.signing.metadata_file("timestamp.json")

    def sign_and_fail() -> None:
        with house.db.session():
            house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        sign_and_fail()
    assert house.signing.metadata_file("timestamp.json") == before


def test_root_expires_in_a_year(house: House) -> None:
    assert house.signing.root_expires() - house.clock.now() > dt.timedelta(days=364)


def _copy(house: House) -> bytes:
    import sqlite3

    connection = sqlite3.connect(str(house.db.engine.url.database))
    data = connection.serialize()
    connection.close()
    return data


def _open_url(house: House) -> Database:
    return Database(house.db.engine.url.render_as_string(hide_password=False))


def _open(path: Path) -> Database:
    return Database(f"sqlite:///{path}")
