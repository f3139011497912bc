"""The keys of a server: where they lie, which may sign, and what happens when one is missing, revoked, elsewhere or older than the rest."""

import datetime as dt
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import (  # type: ignore[attr-defined]  # documented, but not in __all__
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
)
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.desired import DESIRED_TYPE
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.signing import store
from edgefleet_server.signing.errors import (
    KeyRevokedError,
    KeysMissingError,
    KeysUnreadableError,
    RootOutdatedError,
    SignerUnavailableError,
    SignerUriError,
)
from edgefleet_server.signing.keys.inventory import (
    Inventory,
    KeyAlgorithm,
    KeyRecord,
    KeySource,
    KeyState,
    dump_inventory,
    parse_inventory,
)
from edgefleet_server.signing.keys.key_files import INVENTORY_FILE, secret_of
from edgefleet_server.signing.keys.key_ring import KeyRing
from edgefleet_server.signing.keys.signer_uris import check_uri
from edgefleet_server.signing.service import SigningService
from tests.server.fleet.house import House, TurnedClock

SHA = Sha256("a" * 64)
NOW = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
TARGET = "digits/1.0.0/p.bundle"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server that begins."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock())
    yield made
    made.db.dispose()


def again(house: House, passphrase: str | None = None) -> SigningService:
    """Return the signing of another process of the same server."""
    return SigningService(house.db, house.folder / "keys", house.clock, secret_of(passphrase, None))


def ring_of(house: House) -> KeyRing:
    """Return the key ring of another process."""
    return KeyRing(house.folder / "keys", house.clock)


def keyids(house: House, role: str) -> list[str]:
    """Return the keys that may sign a role today."""
    return list(house.signing.role(role).keys)


# ---- the inventory

STATES = st.sampled_from(list(KeyState))
RECORDS = st.builds(
    KeyRecord,
    st.sampled_from(["k1", "k2", "k3", "k4"]),
    st.sampled_from(["director", "m.digits"]),
    st.just("file2:x.pem"),
    st.sampled_from(list(KeyAlgorithm)),
    st.just("ab" * 32),
    STATES,
    st.just(NOW),
    st.sampled_from(list(KeySource)),
)
INVENTORIES = st.builds(
    Inventory, st.lists(RECORDS, max_size=4, unique_by=lambda one: one.keyid).map(tuple), st.integers(0, 9)
)


@given(INVENTORIES)
def test_an_inventory_is_read_as_it_was_written(inventory: Inventory) -> None:
    assert parse_inventory(dump_inventory(inventory)) == inventory


@given(INVENTORIES, st.sets(st.sampled_from(["k1", "k2", "k3", "k4"])), st.integers(0, 9))
def test_states_follow_the_metadata_and_revoked_is_final(inventory: Inventory, named: set[str], root: int) -> None:
    settled = inventory.settled(named, root)
    assert settled.settled(named, root) == settled
    assert settled.root_version >= max(root, inventory.root_version)
    for before, after in zip(inventory.keys, settled.keys, strict=True):
        if before.state is KeyState.REVOKED:
            assert after.state is KeyState.REVOKED
        elif after.keyid in named:
            assert after.state is KeyState.ACTIVE
        else:
            assert after.state is (KeyState.RETIRED if before.state is KeyState.ACTIVE else before.state)
    assert {one.keyid for one in settled.revoked_of(named)} <= named


@pytest.mark.parametrize("data", [b"", b"{}", b'{"v": 1, "root_version": 1, "keys": [{}]}', b'{"v": 99}', b"[]"])
def test_a_broken_inventory_is_named(data: bytes) -> None:
    with pytest.raises(KeysUnreadableError, match=r"keys\.json"):
        parse_inventory(data)


# ---- a key per model


def test_each_model_has_a_key_of_its_own_from_its_first_release_on(house: House) -> None:
    for model in ("digits", "faces"):
        house.signing.add_target(f"{model}/1.0.0/p.bundle", 1, SHA, {})
    keys = {role: keyids(house, role) for role in ("releases", "m.digits", "m.faces")}
    assert len({one for found in keys.values() for one in found}) == 3
    house.signing.add_target("digits/1.1.0/p.bundle", 1, SHA, {})
    assert keyids(house, "m.digits") == keys["m.digits"]
    (file,) = (house.folder / "keys").glob("m.digits.*.pem")
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_key_of_one_model_signs_nothing_of_another(house: House) -> None:
    for model in ("digits", "faces"):
        house.signing.add_target(f"{model}/1.0.0/p.bundle", 1, SHA, {})
    ring = ring_of(house)
    with house.db.session() as session:
        found = store.latest(session, "m.faces")
        assert found is not None
        forged = Metadata[Targets].from_bytes(found[1])
        forged.sign(ring.signer(keyids(house, "m.digits")[0]))  # type: ignore[arg-type]
        releases = store.latest(session, "releases")
        assert releases is not None
        parent = Metadata[Targets].from_bytes(releases[1]).signed
    with pytest.raises(Exception, match=r"m\.faces was signed by 0/1 keys"):
        parent.verify_delegate("m.faces", forged.signed_bytes, forged.signatures)


def test_models_of_before_share_the_key_of_releases_and_go_on(house: House) -> None:
    as_before(house, "digits")
    (house.folder / "keys" / INVENTORY_FILE).unlink()
    signing = again(house)
    signing.start()
    assert (house.folder / "keys" / INVENTORY_FILE).is_file()
    assert signing.add_target("digits/1.1.0/p.bundle", 1, SHA, {})
    assert keyids(house, "m.digits") == keyids(house, "releases")
    assert signing.add_target("faces/1.0.0/p.bundle", 1, SHA, {})
    assert keyids(house, "m.faces") != keyids(house, "releases")
    details = {one.keyid: one for one in signing.role("releases").key_details}
    assert details[keyids(house, "releases")[0]].uri == "file2:releases.pem"


def as_before(house: House, model: str) -> None:
    """Sign a model's first bundle as servers did before models had keys of their own."""
    ring = house.signing._ring
    prepare = ring.prepare
    ring.prepare = lambda role, **more: prepare("releases", **more)  # type: ignore[method-assign]
    house.signing.add_target(f"{model}/1.0.0/p.bundle", 1, SHA, {})
    ring.prepare = prepare  # type: ignore[method-assign]


def test_a_key_of_ecdsa_signs_a_model(house: House) -> None:
    prepared = ring_of(house).prepare("m.digits", algorithm=KeyAlgorithm.ECDSA_P256)
    house.signing.add_target(TARGET, 1, SHA, {})
    assert keyids(house, "m.digits") == [prepared.keyid]
    assert house.signing.role("m.digits").key_details[0].algorithm == "ecdsa-sha2-nistp256"
    house.clock.turn(seconds=1)
    found = house.signing.find_as_client(TARGET)
    assert found.target is not None


def test_what_a_crash_left_prepared_is_used_next(house: House) -> None:
    def sign_and_crash() -> None:
        with house.db.session():
            house.signing.add_target(TARGET, 1, SHA, {})
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError):
        sign_and_crash()
    (left,) = ring_of(house).inventory().of_role("m.digits")
    assert left.state is KeyState.PREPARED
    signing = again(house)
    signing.add_target(TARGET, 1, SHA, {})
    signing.note_keys()
    assert keyids(house, "m.digits") == [left.keyid]
    assert [one.state for one in ring_of(house).inventory().of_role("m.digits")] == [KeyState.ACTIVE]


# ---- files


def test_key_files_are_encrypted_where_there_is_a_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    house = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(NOW - dt.timedelta(days=9)))
    keys = tmp_path / "b"
    with_file = SigningService(house.db, keys, house.clock, secret_of(None, file))
    with_file._ring.create()
    assert all(b"ENCRYPTED" in one.read_bytes() for one in keys.glob("*.pem"))
    keyid = with_file._ring.inventory().of_role("director")[0].keyid
    assert KeyRing(keys, house.clock, secret_of("correct horse", None)).sign(keyid, b"x")
    with pytest.raises(KeysMissingError, match="is encrypted, and this server has no passphrase"):
        KeyRing(keys, house.clock).sign(keyid, b"x")
    with pytest.raises(KeysUnreadableError, match="the passphrase is another one"):
        KeyRing(keys, house.clock, secret_of("wrong", None)).sign(keyid, b"x")
    with pytest.raises(KeysMissingError, match="cannot be read from"):
        KeyRing(keys, house.clock, secret_of(None, tmp_path / "none")).sign(keyid, b"x")
    house.db.dispose()


def test_a_role_whose_key_is_missing_does_not_keep_the_rest_from_being_signed(house: House) -> None:
    house.signing.add_target(TARGET, 1, SHA, {})
    (file,) = (house.folder / "keys").glob("m.digits.*.pem")
    file.unlink()
    signing = again(house)
    before = signing.role("m.digits").version
    house.clock.turn(days=60)
    assert signing.resign_due()
    assert signing.role("timestamp").resign_at == house.clock.now() + dt.timedelta(hours=12)
    assert signing.role("m.digits").version == before
    assert not signing.resign_due(), "it is not tried as if something had changed"
    with pytest.raises(KeysMissingError, match=file.name):
        signing.add_target("digits/1.1.0/p.bundle", 1, SHA, {})


def test_the_note_in_the_folder_names_every_file(house: House) -> None:
    house.signing.add_target(TARGET, 1, SHA, {})
    house.signing.publish_audit_head(b"a head", 1)
    house.signing.service_identity("main")
    folder = house.folder / "keys"
    note = (folder / "README.txt").read_text()
    named = {word.replace("MODEL", "*").replace("KEYID", "*").replace("ROLE", "*") for word in note.split()}
    files = [one.name for one in folder.iterdir() if one.name not in {"README.txt", "root.passphrase"}]
    assert [name for name in files if not any(fnmatchcase(name, one.rstrip(".")) for one in named)] == []


# ---- revoked, and older than the rest


def test_nothing_is_signed_with_a_revoked_key_nor_with_metadata_that_names_one(house: House) -> None:
    house.signing.add_target(TARGET, 1, SHA, {})
    (keyid,) = keyids(house, "director")
    ring_of(house).discard([keyid])
    assert not (house.folder / "keys" / "director.pem").exists()
    signing = again(house)
    with pytest.raises(KeyRevokedError, match="of director was revoked"):
        signing.sign_desired(b"{}")
    with pytest.raises(KeyRevokedError, match="sign director, and it was revoked: the database is older"):
        signing.start()


def test_a_copy_of_the_file_of_a_revoked_key_brings_it_not_back(house: House) -> None:
    (keyid,) = keyids(house, "director")
    file = house.folder / "keys" / "director.pem"
    data = file.read_bytes()
    ring_of(house).discard([keyid])
    (house.folder / "keys" / "other.pem").write_bytes(data)
    file.write_bytes(data)
    with pytest.raises(KeyRevokedError):
        again(house).sign_desired(b"{}")


def test_a_database_without_the_newest_root_is_refused(house: House) -> None:
    ring_of(house).settle([], 2)
    with pytest.raises(RootOutdatedError, match="has version 1 of root, and version 2 was published"):
        again(house).start()


def test_the_director_is_who_targets_says(house: House) -> None:
    """A key that lies in the folder as director's, and that no metadata names, signs nothing."""
    prepared = ring_of(house).prepare("director", besides=keyids(house, "director"))
    assert house.signing.director_key().keyid != prepared.keyid
    payload = b'{"v":1}'
    assert verify_envelope(again(house).sign_desired(payload), DESIRED_TYPE, [house.signing.director_key()]) == payload


# ---- keys elsewhere: a stand-in for an HSM or a key service, by securesystemslib's own way to add one


class StandIn:
    """A key service of the tests: it has one key, and may be away or have another one."""

    def __init__(self, key: CryptoSigner) -> None:
        self.key = key
        self.asked: list[tuple[str, str]] = []
        self.is_away = False

    def from_priv_key_uri(self, uri: str, public_key: Any, secrets: Any) -> "StandIn":
        """Open the key as securesystemslib does."""
        self.asked.append((uri, secrets("pin")))
        return self

    def sign(self, payload: bytes) -> Any:
        """Sign, unless it is away."""
        if self.is_away:
            raise ConnectionError("no route to the key service")
        return self.key.sign(payload)


def service_at(monkeypatch: pytest.MonkeyPatch, scheme: str, key: CryptoSigner) -> StandIn:
    """Return a stand-in that answers for a scheme from now on."""
    service = StandIn(key)
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, scheme, service)
    return service


@pytest.fixture(name="service")
def _service(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return service_at(monkeypatch, "awskms", CryptoSigner.generate_ecdsa())


def elsewhere(key: CryptoSigner, uri: str = "awskms:alias/digits", role: str = "m.digits") -> KeyRecord:
    """Return the record of a key that lies elsewhere."""
    public = key.public_key
    scheme, value = KeyAlgorithm(public.scheme), str(public.keyval["public"])
    return KeyRecord(public.keyid, role, uri, scheme, value, KeyState.PREPARED, NOW, KeySource.GIVEN)


def test_a_key_elsewhere_signs_by_its_uri(house: House, service: StandIn) -> None:
    again(house, "1234")._ring.take_in(elsewhere(service.key))
    assert service.asked == [("awskms:alias/digits", "1234")]
    house.signing.add_target(TARGET, 1, SHA, {})
    (shown,) = house.signing.role("m.digits").key_details
    assert (shown.keyid, shown.uri, shown.state) == (service.key.public_key.keyid, "awskms:alias/digits", "active")
    house.clock.turn(seconds=1)
    assert house.signing.find_as_client(TARGET).target is not None


def test_a_key_service_that_is_away_or_signs_with_another_key_is_named(house: House, service: StandIn) -> None:
    ring = ring_of(house)
    other = CryptoSigner.generate_ecdsa()
    with pytest.raises(SignerUnavailableError, match=r"the key of m\.digits at awskms:alias/digits cannot be used"):
        ring.take_in(elsewhere(other))
    assert ring.inventory().of_role("m.digits") == []
    ring.take_in(elsewhere(service.key))
    service.is_away = True
    with pytest.raises(SignerUnavailableError, match="no route to the key service"):
        house.signing.add_target(TARGET, 1, SHA, {})
    service.is_away = False
    assert house.signing.add_target(TARGET, 1, SHA, {})
    service.is_away = True
    house.clock.turn(days=60)
    assert house.signing.resign_due(), "the rest does not wait for it"
    assert house.signing.role("timestamp").resign_at == house.clock.now() + dt.timedelta(hours=12)


@pytest.mark.parametrize(
    ("uri", "flag", "extra"),
    [
        ("hv:digits/1", "_vault_signer.VAULT_IMPORT_ERROR", "edgefleet[vault]"),
        ("awskms:alias/digits", "_aws_signer.AWS_IMPORT_ERROR", "edgefleet[awskms]"),
        ("hsm:2?label=x", "_hsm_signer.PKCS11_IMPORT_ERROR", "edgefleet[hsm]"),
        ("gcpkms:projects/x", "_gcp_signer.GCP_IMPORT_ERROR", "securesystemslib[gcpkms]"),
    ],
)
def test_a_library_that_is_missing_is_named(
    house: House, uri: str, flag: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"securesystemslib.signer.{flag}", "it is missing")
    with pytest.raises(SignerUnavailableError, match="it is missing") as caught:
        ring_of(house).take_in(elsewhere(CryptoSigner.generate_ecdsa(), uri))
    assert f"install {extra} " in caught.value.next_step


@pytest.mark.parametrize(
    "uri", ["", "file2:", "file2:../x.pem", "file2:/etc/x.pem", "file2:.x", "gnupg:abc", "director.pem", "http://x/y"]
)
def test_odd_places_are_refused(uri: str) -> None:
    with pytest.raises(SignerUriError):
        check_uri(uri)
