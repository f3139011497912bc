"""A second host without a key folder of its own asks the signing process of the first (ADR 0160)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.signing.errors import KeysMissingError
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_issued_by
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.signer import remote_keys
from edgefleet_server.signing.signer.remote_keys import RemoteAuthority, RemoteKeys
from tests.broker.outside_brokers import free_port
from tests.server.fleet.house import House, TurnedClock
from tests.server.signing.rotation_story import host_of, rotation_problems
from tests.server.signing.test_signing_process import Apart, apart_of
from tests.support.servers import copy_server, server_process


@pytest.fixture(name="house")
def _house(tmp_path: Path) -> Iterator[House]:
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(SystemClock().now()))
    yield made
    made.db.dispose()


@pytest.fixture(name="apart")
def _apart(house: House, tmp_path: Path) -> Iterator[Apart]:
    with apart_of(house, tmp_path) as made:
        yield made


def second_host(house: House, apart: Apart, folder: Path) -> SigningService:
    keepers = RemoteKeys(apart.connection), RemoteAuthority(apart.connection, folder)
    return SigningService(house.db, folder, house.clock, keepers=keepers)


def test_a_host_without_files_gets_the_ca_and_certificates_of_its_own(
    house: House, apart: Apart, tmp_path: Path
) -> None:
    there = second_host(house, apart, tmp_path / "b" / "keys")
    (tmp_path / "b").mkdir()
    assert there.is_initialised()
    assert there.ca_pem() == house.signing.ca_pem()
    assert there.ca_file.read_bytes() == (apart.keys / "device-ca.crt").read_bytes()
    there.issue_server_certificate(["b.example"])
    assert is_issued_by(there.server_cert_file, house.signing.ca_pem())
    assert "b.example" in hosts_in(there.server_cert_file)
    assert sorted(path.name for path in (tmp_path / "b" / "keys").iterdir()) == [
        "device-ca.crt", "server.crt", "server.key",
    ]  # fmt: skip
    there.start()
    house.signing.start()


def test_a_rotation_of_the_device_ca_is_seen_on_every_host(
    house: House, apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_keys, "REFRESH_S", 0.0)
    there = second_host(house, apart, tmp_path)
    mark = there.cas.mark()
    following = house.signing.cas.make_next()
    assert there.cas.following() == following
    assert there.cas.mark() not in (mark, "")
    house.signing._authority.promote_next()
    assert (there.cas.current(), there.cas.following()) == (following, None)
    apart.connection.close()


def test_what_was_copied_stays_while_the_signing_process_is_away(house: House, tmp_path: Path) -> None:
    with apart_of(house, tmp_path) as apart:
        there = second_host(house, apart, tmp_path / "b")
        known = there.ca_pem()
    assert there.ca_pem() == known
    nowhere = second_host(house, apart, tmp_path / "c")
    with pytest.raises(KeysMissingError, match="cannot be read"):
        nowhere.ca_pem()


def test_a_process_without_a_gateway_follows_a_rotation_of_the_device_ca(tmp_path: Path) -> None:
    """The sample of `./dev soak two-hosts`, with one host: its listener shows the CA that stays, though no gateway runs here."""
    token = copy_server(tmp_path / "data")
    flags = ("--roles", "api,engine", "--broker", "mqtts://127.0.0.1:1", "--device-port", str(free_port()))
    with server_process(tmp_path / "data", token, *flags) as server, host_of(server) as host:
        assert rotation_problems([host]) == []
