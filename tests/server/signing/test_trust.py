"""What can be shown of keys and roles: as the stored files say it, on both databases."""

from datetime import timedelta
from pathlib import Path

import pytest

from edgefleet_server.signing.keys.key_files import PASSPHRASE_FILE
from tests.support.servers import ApiHouse


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> ApiHouse:
    """All services on one database."""
    return ApiHouse(tmp_path / "server", database_url)


def test_roles_come_in_the_order_of_trust_with_the_keys_that_root_and_delegations_name(house: ApiHouse) -> None:
    house.parts.signing.add_target("digits/1.0.0/p.bundle", 7, house.put(b"7 bytes"), {})  # type: ignore[arg-type]
    trust = house.parts.signing.trust()
    assert [one.name for one in trust.roles] == ["root", "targets", "releases", "director", "snapshot", "timestamp"]
    by_name = {one.name: one for one in (*trust.roles, *trust.model_roles)}
    assert by_name["director"].keys == [house.parts.signing.director_key().keyid]
    assert by_name["m.digits"].keys != by_name["releases"].keys, "each model has its own"
    assert by_name["m.digits"].targets == 1
    now = house.clock.now()
    assert by_name["timestamp"].resign_at == now + timedelta(hours=12)
    assert by_name["timestamp"].expires == now + timedelta(hours=24)
    assert by_name["root"].resign_at is None
    assert all(one.threshold == 1 for one in by_name.values())
    house.close()


def test_a_target_is_found_by_its_path_only(house: ApiHouse) -> None:
    digest = house.put(b"7 bytes")
    house.parts.signing.add_target("digits/1.0.0/p.bundle", 7, digest, {})  # type: ignore[arg-type]
    found = house.parts.signing.target("digits/1.0.0/p.bundle")
    assert found is not None
    assert (found.sha256, found.length, found.role) == (digest, 7, "m.digits")
    assert house.parts.signing.target("digits/1.0.0/q.bundle") is None
    assert house.parts.signing.target("other/1.0.0/p.bundle") is None
    house.close()


def test_the_root_key_is_here_until_its_passphrase_leaves(house: ApiHouse) -> None:
    assert house.parts.signing.trust().is_root_here
    (house.settings.keys_dir / PASSPHRASE_FILE).unlink()
    assert not house.parts.signing.trust().is_root_here
    house.close()


def test_certificates_are_counted_by_kind_and_the_next_end_is_that_of_a_valid_one(house: ApiHouse) -> None:
    signing = house.parts.signing
    signing.service_identity("one")
    house.clock.turn(days=1)
    signing.service_identity("two")
    signing.revoke_device_certificates("srv-one")
    [server, service] = signing.trust().certificates
    assert (server.kind, server.valid, server.revoked, server.ended) == ("server", 1, 0, 0)
    assert (service.kind, service.valid, service.revoked, service.ended) == ("service", 1, 1, 0)
    assert service.next_end == house.clock.now() + timedelta(days=397)
    house.clock.turn(days=400)
    [server, service] = signing.trust().certificates
    assert (server.ended, server.next_end, service.ended) == (1, None, 1)
    house.close()
