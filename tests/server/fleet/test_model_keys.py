"""Who gets a sealed model: devices that told a key; each its own copy of the bundle's key, and nobody else's."""

import io
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.hpke import SealedError, new_key, unseal
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import ErrorClass
from edgefleet_protocol.sealed_model import about_key, key_id
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.composition.worker_container import build_converter_parts, child_limits
from edgefleet_server.conversion.engine import CheckedBundle, check_bundle
from edgefleet_server.conversion.release_proof import ReleaseProver
from edgefleet_server.conversion.sandbox import Converter, converter_command
from edgefleet_server.encryption.errors import FleetKeyMissingError
from edgefleet_server.encryption.key_sources import source_of
from edgefleet_server.encryption.model import Kept, SecretEntry
from edgefleet_server.encryption.secret_list import secret_entries
from edgefleet_server.fleet.enrolment.model import DeviceIdentity, DeviceKeys
from edgefleet_server.fleet.errors import BadFactsError
from edgefleet_server.fleet.model import NO_MODEL_KEY
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.process.conversion_worker import Worker
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.conversion.test_engine import FAKE
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice
from tests.support.servers import ApiHouse, release_body

GOOD = bundle_bytes(classifier_onnx())
REF = ReleaseRef.parse("digits@1.0.0")


def digest_of(house: House) -> Sha256:
    """Return the digest of the sealed bundle."""
    bundle = house.registry.bundle_for(REF, PROFILE)
    assert bundle is not None
    assert bundle.is_sealed
    return bundle.sha256


def renewed(house: House, device: KeyedDevice, model_key: str) -> None:
    """Let a device renew its certificate and tell a key."""
    identity = DeviceIdentity(device.id, ProfileName(PROFILE), "")
    house.fleet.enrolment.renew(identity, KeyedDevice().csr(), DeviceKeys(model_key))


def test_a_deployment_leaves_out_devices_without_a_key_until_they_tell_one(house: House) -> None:
    secret, public = new_key()
    able, old = house.device(FACTS | {"model_key": public.hex()}), house.device()
    house.release(str(REF), bundles={PROFILE: GOOD}, seal=True)
    done = house.fleet.deployer.deploy(REF, selector="")
    assert [one.device for one in done.set] == [able.id]
    assert [(one.device, one.reason) for one in done.skipped] == [(old.id, NO_MODEL_KEY)]
    assert "edge-agent renew" in done.skipped[0].next
    renewed(house, old, new_key()[1].hex())
    renewed(house, able, "")  # an older agent says nothing of it, and takes nothing back
    done = house.fleet.deployer.deploy(REF, selector="")
    assert {one.device for one in done.set} == {able.id, old.id}
    sha256 = digest_of(house)
    sealed_key = house.registry.bundle(sha256).sealed_key
    copies = [house.registry.fleet_key.for_device(sealed_key, sha256, public) for _ in range(2)]
    assert copies[0] != copies[1]
    manifest = open_bundle(io.BytesIO(house.registry.read_blob(sha256, 1 << 20))).manifest
    assert manifest.sealed
    assert key_id(unseal(secret, copies[0], about_key(sha256))) == manifest.sealed.key
    with pytest.raises(SealedError):
        unseal(new_key()[0], copies[0], about_key(sha256))


def test_where_a_tpm_is_demanded_a_key_in_a_file_gets_no_sealed_model(house: House) -> None:
    strict, key = DeviceSelector(house.db, sealed_needs_tpm=True), new_key()[1].hex()
    in_file, silent = (
        house.device(FACTS | {"model_key": key, "key_storage": "file"}),
        house.device(FACTS | {"model_key": key}),
    )
    wrapped = house.device(FACTS | {"model_key": key, "key_storage": "tpm"})
    asked = [in_file.id, silent.id, wrapped.id]
    assert strict.with_model_key(asked) == {wrapped.id}
    assert [strict.model_key_of(one) for one in asked] == ["", "", key]
    moved = DeviceIdentity(in_file.id, ProfileName(PROFILE), "")
    house.fleet.enrolment.renew(moved, KeyedDevice().csr(), DeviceKeys(key, "tpm"))
    house.fleet.enrolment.renew(moved, KeyedDevice().csr(), DeviceKeys(key))  # an older agent takes nothing back
    assert strict.model_key_of(in_file.id) == key
    assert house.fleet.devices.with_model_key(asked) == set(asked)


def test_a_key_that_is_none_is_refused_and_a_plain_bundle_needs_none(house: House) -> None:
    with pytest.raises(BadFactsError, match="model_key"):
        house.device(FACTS | {"model_key": "z" * 64})
    old = house.device()
    house.release(str(REF), bundles={PROFILE: GOOD})
    assert [one.device for one in house.fleet.deployer.deploy(REF, selector="").set] == [old.id]
    bundle = house.registry.bundle_for(REF, PROFILE)
    assert bundle is not None
    assert not bundle.is_sealed


def test_a_revoked_device_has_no_key_any_more(house: House) -> None:
    device = house.device(FACTS | {"model_key": new_key()[1].hex()})
    assert house.fleet.devices.model_key_of(device.id)
    house.fleet.revocation.revoke(device.id)
    assert house.fleet.devices.model_key_of(device.id) == ""


def test_the_server_proves_a_sealed_release_as_it_does_a_plain_one(house: House) -> None:
    house.release(str(REF), bundles={PROFILE: GOOD}, seal=True)
    converter = Converter(converter_command(()), None, house.folder)
    limits = child_limits(house.settings, 60.0)
    prover = ReleaseProver(house.registry, house.signing, house.clock, converter, limits, house.folder / "proof")
    found = prover.prove(REF, ProfileName(PROFILE), digest_of(house), ErrorClass.GOLDEN)
    assert found.ok, found.what


def test_what_is_published_to_be_sealed_is_stored_sealed_by_a_worker_that_opens_no_secret(
    tmp_path: Path, database_url: str
) -> None:
    house = ApiHouse(tmp_path / "server", database_url, SystemClock(), converter_command=FAKE)
    source = b"good " * 20_000
    house.put(source)
    body = release_body(source, options={"seal": True})
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=body).status_code == 201
    parts = build_converter_parts(house.settings, SystemClock())
    assert Worker(parts, "w").run_once()
    with pytest.raises(FleetKeyMissingError, match="opens no secrets"):
        parts.registry.fleet_key.open("00", Sha256("0" * 64))
    shown = house.client(Role.VIEWER).get(f"/api/v1/releases/{REF}").json()
    (bundle,) = shown["bundles"]
    assert (bundle["is_sealed"], bundle["bytes"]) == (True, len(source))
    view = house.parts.registry.bundle_for(REF, PROFILE)
    assert view is not None
    data = house.parts.registry.read_blob(view.sha256, 1 << 20)
    assert b"good good" not in data
    manifest = open_bundle(io.BytesIO(data)).manifest
    key = house.parts.registry.fleet_key.open(view.sealed_key, view.sha256)
    assert manifest.sealed
    assert (key_id(key), manifest.v) == (manifest.sealed.key, 2)
    inside = house.client(Role.VIEWER).get(f"/api/v1/bundles/{view.sha256}").json()
    assert inside["manifest"]["sealed"] == {"length": len(source), "key": manifest.sealed.key}
    assert view.sealed_key not in str(inside)
    (entry,) = [one for one in secret_entries_of(house) if one.what.startswith("fleet key")]
    assert entry.kept is Kept.SEALED
    registry = house.parts.registry
    with house.parts.db.session() as session:
        before = session.execute(text("SELECT public, secret FROM fleet_key")).one()
        session.execute(text("DELETE FROM fleet_key"))
    with pytest.raises(FleetKeyMissingError, match="no fleet key"):
        registry.fleet_key.open(view.sealed_key, view.sha256)
    registry.fleet_key.ensure_for({"seal": True})  # as the next publication does
    with pytest.raises(FleetKeyMissingError, match="another fleet key") as lost:
        registry.fleet_key.open(view.sealed_key, view.sha256)
    assert "new version" in lost.value.next_step
    with house.parts.db.session() as session:
        session.execute(text("UPDATE fleet_key SET public = :public, secret = :secret"), before._asdict())
    assert registry.fleet_key.open(view.sealed_key, view.sha256) == key
    with house.parts.db.session() as session:
        session.execute(text("UPDATE fleet_key SET public = :other"), {"other": new_key()[1].hex()})
    with pytest.raises(Exception, match="fleet_key"):  # what the database's thief puts in its place opens nothing
        house.parts.registry.fleet_key.open(view.sealed_key, view.sha256)
    parts.db.dispose()
    house.close()


@pytest.mark.parametrize("trick", ["other bytes", "a link"])
def test_what_a_child_changed_after_the_check_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trick: str
) -> None:
    house = ApiHouse(tmp_path / "server", None, SystemClock(), converter_command=FAKE)
    planted = tmp_path / "planted.bundle"
    planted.write_bytes(GOOD)

    def checked_then_changed(*asked: Any) -> CheckedBundle:
        found = check_bundle(*asked)
        found.path.unlink()
        if trick == "a link":
            found.path.symlink_to(planted)
        else:
            found.path.write_bytes(GOOD)
        return found

    monkeypatch.setattr("edgefleet_server.conversion.engine.check_bundle", checked_then_changed)
    source = b"good " * 100
    house.put(source)
    body = release_body(source, options={"seal": True})
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=body).status_code == 201
    Worker(house.parts, "w").run_once()
    shown = house.client(Role.VIEWER).get(f"/api/v1/releases/{REF}").json()
    assert shown["bundles"] == []
    house.close()


def secret_entries_of(house: ApiHouse) -> list[SecretEntry]:
    """Return what `server check` lists."""
    return list(
        secret_entries(house.settings, house.parts.db, source_of(house.settings), SEALED_COLUMNS, is_current=True)
    )
