"""New keys on a running fleet, against the real verifier of a device: it refuses what old keys sign and takes what new ones sign."""

import datetime as dt
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_agent.install.verifier_protocol import Accepted, Refused
from edgefleet_protocol.desired import Desired, Hold, ModelDesired, Ref, encode_desired, encode_hold
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.signing.errors import (
    BadKeyOrderError,
    KeyNotRotatableError,
    KeyRevokedError,
    RoleUnknownError,
    RootOfflineError,
    RootOutdatedError,
)
from edgefleet_server.signing.keys.inventory import KeyState
from edgefleet_server.signing.keys.rotation import HELD_BY_ROOT, KeyOrder
from edgefleet_server.signing.service import SigningService
from tests.agent.child import ChildDriver
from tests.hostile.device.forge import DEVICE, MODEL, PROFILE
from tests.hostile.theft.device import bundle
from tests.server.fleet.house import House, TurnedClock
from tests.server.signing.test_keys import StandIn, again, as_before, keyids, service_at

NEW = KeyOrder()


class Fleet:
    """A server with a release, a device that trusts it, and a thief of all that the server had then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.house = House(f"sqlite:///{folder / 'a.db'}", folder / "server", TurnedClock(SystemClock().now()))
        self.data = bundle("1.2.0")
        self.house.release(f"{MODEL}@1.2.0", bundles={PROFILE: self.data})
        self.driver = ChildDriver(self.house, folder / "device", DEVICE)
        self.gen = self.seq = 0
        assert self.offer(self.house.signing) == ""
        self.thief = self.copy("thief", keys=folder / "server" / "keys")
        self.house.clock.turn(seconds=2)

    def copy(self, name: str, keys: Path | None = None) -> SigningService:
        """Return the signing of a copy of the database as it is, and of the keys if they are given, else with the server's own."""
        file = self.folder / f"{name}.db"
        with closing(sqlite3.connect(str(self.folder / "a.db"))) as source:
            source.execute("VACUUM INTO ?", [str(file)])
        folder = self.folder / "server" / "keys"
        if keys is not None:
            folder = self.folder / name
            shutil.copytree(keys, folder)
        return SigningService(Database(f"sqlite:///{file}"), folder, self.house.clock)

    def document(self, signing: SigningService) -> bytes:
        """Return the next document for the device, as these keys sign it."""
        self.gen += 1
        now = self.house.clock.now()
        ref = Ref(target=f"{MODEL}/1.2.0/{PROFILE}.bundle", sha256=sha256_hex(self.data), length=len(self.data))
        models = {MODEL: ModelDesired(active=ref)}
        until = now + dt.timedelta(days=7)
        return signing.sign_desired(
            encode_desired(Desired(device=DEVICE, gen=self.gen, issued=now, expires=until, models=models))
        )

    def offer(self, signing: SigningService) -> str:
        """Send a document; return the code of the refusal, "" when the device took it."""
        answer, desired = self.driver.verify(self.document(signing))
        if isinstance(answer, Accepted):
            assert desired is not None
            return desired.refused[0].code if desired.refused else ""
        assert isinstance(answer, Refused)
        self.gen -= 1
        return answer.code

    def hold(self, signing: SigningService) -> str:
        """Send a hold; return the code of the refusal, "" when the device took it."""
        self.seq += 1
        hold = Hold(seq=self.seq, expires=self.house.clock.now() + dt.timedelta(days=7), rollouts=["r"], digests=[])
        answer, _ = self.driver.verify(signing.sign_hold(encode_hold(hold)), kind="hold")
        return "" if isinstance(answer, Accepted) else getattr(answer, "code", "?")

    def serve(self, signing: SigningService) -> None:
        """Let the device be answered from these metadata from now on."""
        self.driver.meta = lambda name: (
            self.driver.blob(name.removeprefix("leaves."))
            if name.startswith("leaves.")
            else signing.metadata_file(name)
        )

    def forge(self, role: str, keyid: str) -> None:
        """Answer the device from the server's metadata, but the file of a role as a stolen key signs it."""
        stolen = self.thief._ring.signer(keyid)

        def forged(name: str) -> bytes | None:
            data = self.driver.honest_meta(name)
            if data is None or not name.endswith(f"{role}.json") or name.startswith("leaves."):
                return data
            metadata = Metadata[Targets].from_bytes(data)
            metadata.sign(stolen)  # type: ignore[arg-type]
            return metadata.to_bytes()

        self.driver.meta = forged


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server, a device and a thief."""
    made = Fleet(tmp_path)
    yield made
    made.house.db.dispose()


def test_what_a_stolen_director_key_signs_is_refused_once_there_is_a_new_one(fleet: Fleet) -> None:
    done = fleet.house.signing.keys.rotate("director", NEW)
    assert [one.role for one in done.roles] == ["director"]
    assert done.root_version is None
    assert fleet.offer(fleet.thief) == "verify.signature"
    assert fleet.hold(fleet.thief) == "verify.signature"
    assert fleet.offer(fleet.house.signing) == ""
    assert fleet.hold(fleet.house.signing) == ""


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "releases", f"m.{MODEL}"])
def test_a_device_follows_a_new_key_and_refuses_what_the_old_one_signs(fleet: Fleet, role: str) -> None:
    (before,) = keyids(fleet.house, role)
    done = fleet.house.signing.keys.rotate(role, NEW)
    fleet.house.signing.note_keys()
    assert done.root_version == (2 if role in HELD_BY_ROOT else None)
    assert before not in keyids(fleet.house, role)
    assert fleet.offer(fleet.house.signing) == ""
    shutil.rmtree(fleet.folder / "device" / "tuf")
    fleet.forge(role, before)
    assert fleet.offer(fleet.house.signing) == ("tuf.length_or_hash" if role == "snapshot" else "tuf.unsigned")
    fleet.serve(fleet.house.signing)
    assert fleet.offer(fleet.house.signing) == ""


def test_a_stolen_timestamp_key_that_signed_far_ahead_shuts_no_device_out(fleet: Fleet) -> None:
    """TUF 5.3.11: new keys in root let a client forget versions of the old ones."""
    fleet.house.clock.turn(days=400)
    fleet.thief.resign_due()
    fleet.house.clock.turn(days=-400)
    fleet.house.signing.keys.rotate("timestamp", NEW)
    fleet.house.signing.keys.rotate("snapshot", NEW)
    assert fleet.offer(fleet.house.signing) == ""


def test_models_that_share_the_key_of_releases_each_get_their_own(fleet: Fleet) -> None:
    for model in ("old", "older"):
        as_before(fleet.house, model)
    own = keyids(fleet.house, f"m.{MODEL}")
    shared = keyids(fleet.house, "releases")
    done = fleet.house.signing.keys.rotate("releases", NEW)
    assert [one.role for one in done.roles] == ["releases", "m.old", "m.older"]
    after = [keyids(fleet.house, role) for role in ("releases", "m.old", "m.older", f"m.{MODEL}")]
    assert len({key for keys in [shared, *after] for key in keys}) == 5
    assert after[3] == own
    assert fleet.offer(fleet.house.signing) == ""


def test_root_itself_and_roles_that_are_none_are_not_rotated_here(fleet: Fleet) -> None:
    with pytest.raises(KeyNotRotatableError):
        fleet.house.signing.keys.rotate("root", NEW)
    with pytest.raises(RoleUnknownError):
        fleet.house.signing.keys.rotate("m.none", NEW)
    with pytest.raises(BadKeyOrderError):
        fleet.house.signing.keys.rotate("director", KeyOrder(algorithm="rsa"))
    with pytest.raises(BadKeyOrderError):
        fleet.house.signing.keys.rotate("director", KeyOrder(uri="hv:x/1", public_key="none"))


def test_keys_of_root_need_the_root_key_and_nothing_changes_without_it(fleet: Fleet) -> None:
    before = fleet.house.signing.metadata_file("timestamp.json")
    (fleet.house.folder / "keys" / "root.passphrase").unlink()
    with pytest.raises(RootOfflineError, match="a new key of timestamp needs a new root") as caught:
        fleet.house.signing.keys.rotate("timestamp", NEW)
    assert "root.passphrase" in caught.value.next_step
    assert fleet.house.signing.metadata_file("timestamp.json") == before
    assert fleet.house.signing.keys.rotate("director", NEW).root_version is None, "others do not need it"


# ---- crashes and processes


def test_a_crash_before_the_commit_leaves_a_key_that_the_next_try_uses(fleet: Fleet) -> None:
    house = fleet.house
    before = keyids(house, "director")

    def rotate_and_crash() -> None:
        with house.db.session():
            house.signing.keys.rotate("director", NEW)
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError):
        rotate_and_crash()
    assert keyids(house, "director") == before
    assert fleet.offer(house.signing) == "", "the old key still signs"
    (left,) = [one for one in house.signing.role("director").key_details if one.state == "prepared"]
    other = again(house)
    assert [one.keyid for one in other.keys.rotate("director", NEW).roles] == [left.keyid]
    assert fleet.offer(other) == ""


def test_a_crash_after_the_commit_leaves_only_the_note_to_the_next_start(fleet: Fleet) -> None:
    before = keyids(fleet.house, "timestamp")
    fleet.house.signing.keys.rotate("timestamp", NEW)  # and no `note_keys`
    other = again(fleet.house)
    other.start()
    states = {one.keyid: one.state for one in other._ring.inventory().of_role("timestamp")}
    assert states[before[0]] is KeyState.RETIRED
    assert states[keyids(fleet.house, "timestamp")[0]] is KeyState.ACTIVE
    assert other._ring.inventory().root_version == 2
    assert fleet.offer(other) == ""


def test_another_process_signs_with_the_new_key_from_the_commit_on(fleet: Fleet) -> None:
    other = again(fleet.house)
    assert fleet.offer(other) == ""
    for at, role in enumerate(("director", "timestamp", f"m.{MODEL}", "releases")):
        fleet.house.signing.keys.rotate(role, NEW)
        house_key = fleet.house.signing.director_key()
        assert other.director_key() == house_key
        assert other.add_target(f"{MODEL}/2.0.{at}/{PROFILE}.bundle", 1, sha256_hex(b"x"), {})
        assert fleet.offer(other) == ""
        fleet.house.clock.turn(seconds=2)


def test_a_backup_of_before_a_new_root_is_refused(fleet: Fleet) -> None:
    old = fleet.copy("old")
    fleet.house.signing.keys.rotate("timestamp", NEW)
    fleet.house.signing.note_keys()
    with pytest.raises(RootOutdatedError, match="version 1 of root, and version 2 was published"):
        old.start()


def test_a_backup_of_before_a_rotation_goes_on_with_the_key_it_knows(fleet: Fleet) -> None:
    old = fleet.copy("old")
    fleet.house.signing.keys.rotate("director", NEW)
    fleet.house.signing.note_keys()
    fleet.house.clock.turn(seconds=2)
    old.start()
    fleet.serve(old)
    assert fleet.offer(old) == ""


# ---- revoked


def revoke(fleet: Fleet, role: str, keyid: str = "") -> None:
    _, finish = fleet.house.signing.keys.revoke(role, NEW, keyid)
    finish()
    fleet.house.signing.note_keys()


def test_a_revoked_key_is_gone_and_no_backup_brings_it_back(fleet: Fleet) -> None:
    old, before = fleet.copy("old"), keyids(fleet.house, "director")
    fleet.house.signing._ring.prepare("director", besides=before)
    revoke(fleet, "director")
    details = fleet.house.signing.role("director").key_details
    assert [one.state for one in details] == ["active", "revoked", "revoked"], (
        "what was prepared is not believed either"
    )
    assert not (fleet.house.folder / "keys" / "director.pem").exists()
    assert fleet.offer(fleet.thief) == "verify.signature"
    assert fleet.offer(fleet.house.signing) == ""
    with pytest.raises(KeyRevokedError, match="the database is older"):
        old.start()
    with pytest.raises(KeyRevokedError):
        old.sign_desired(b"{}")
    fleet.house.clock.turn(seconds=2)
    old.keys.rotate("timestamp", NEW)  # whichever role is rotated, the revoked key goes
    fleet.serve(old)
    assert fleet.offer(old) == ""
    assert fleet.offer(fleet.thief) == "verify.signature"


def test_a_key_that_signed_once_can_be_revoked_later(fleet: Fleet) -> None:
    before = keyids(fleet.house, "director")[0]
    fleet.house.signing.keys.rotate("director", NEW)
    fleet.house.signing.note_keys()
    after = keyids(fleet.house, "director")
    revoke(fleet, "director", before)
    assert keyids(fleet.house, "director") == after
    assert [one.state for one in fleet.house.signing.role("director").key_details] == ["active", "revoked"]
    with pytest.raises(RoleUnknownError):
        fleet.house.signing.keys.revoke("director", NEW, "ab" * 32)


def test_revoking_a_shared_key_gives_a_new_one_to_all_that_share_it(fleet: Fleet) -> None:
    as_before(fleet.house, "old")
    shared = keyids(fleet.house, "releases")
    revoke(fleet, "m.old")
    for role in ("releases", "m.old"):
        assert set(shared).isdisjoint(keyids(fleet.house, role))
    assert fleet.offer(fleet.house.signing) == ""


# ---- keys elsewhere


def test_a_role_moves_to_a_key_service_and_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    service: StandIn = service_at(monkeypatch, "hv", CryptoSigner.generate_ed25519())
    pem = service.key._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    order = KeyOrder(uri="hv:director/1", public_key=pem.decode())
    fleet.house.signing.keys.rotate("director", order)
    assert fleet.house.signing.role("director").key_details[0].uri == "hv:director/1"
    assert fleet.offer(again(fleet.house)) == ""
    with pytest.raises(BadKeyOrderError, match="signs a role already"):
        fleet.house.signing.keys.rotate("timestamp", order)
    fleet.house.signing.keys.rotate("director", KeyOrder(algorithm="ecdsa-sha2-nistp256"))
    service.is_away = True
    assert fleet.offer(fleet.house.signing) == ""


def test_no_key_service_no_rotation(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_at(monkeypatch, "hv", CryptoSigner.generate_ed25519())
    other = CryptoSigner.generate_ed25519()
    pem = other._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    before = keyids(fleet.house, "director")
    with pytest.raises(EdgefleetError, match="cannot be used"):
        fleet.house.signing.keys.rotate("director", KeyOrder(uri="hv:director/1", public_key=pem.decode()))
    assert service.asked
    assert keyids(fleet.house, "director") == before
