"""Pages of signed bundles, keys and hardware profiles, over HTTP, on real services."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import Seen
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.shelf import stocked
from tests.server.dashboard.test_acting import do
from tests.server.dashboard.test_pages import part_of, text_of
from tests.server.dashboard.test_registry_pages import page
from tests.support.holders import answer, media, public

KEY = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two versions of digits, one of them refused for a profile; three devices, two of which run 1.1.0. Tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("shop") / "server")
    stocked(fleet)
    yield fleet
    fleet.close()


def test_keys_are_shown_by_role_with_version_and_end_and_no_private_part(shop: Fleet) -> None:
    text = page(shop, "/bundles")
    roles = part_of(text, "roles")
    for role in ("root", "targets", "releases", "director", "snapshot", "timestamp"):
        assert re.search(rf"{role} .*20\d\d-\d\d-\d\d", roles), role
    assert "manual, with the root key" in roles
    assert "The root key and its passphrase are both on this server" in roles
    assert "m.digits 2" in roles
    key = shop.parts.signing.director_key()
    assert key.keyid in text
    for secret in shop.parts.settings.keys_dir.glob("*.pem"):
        body = "".join(secret.read_text(encoding="ascii").splitlines()[1:-1])
        assert body[:40] not in text, secret.name
    assert "PRIVATE" not in text


def test_certificates_are_counted_by_kind(shop: Fleet) -> None:
    told = part_of(page(shop, "/bundles"), "authority")
    assert str(shop.parts.signing.ca_sha256()) in told
    assert re.search(r"devices 3 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d 0 0", told), told


def test_a_bundle_shows_members_signature_and_digests(shop: Fleet) -> None:
    bundle = shop.parts.registry.release(ReleaseRef.parse("digits@1.1.0")).bundles[0]
    text = text_of(page(shop, f"/bundles/{bundle.sha256}"))
    assert "signed TUF metadata lists exactly these bytes: role m.digits" in text
    assert "model.onnx the model 2.0 KiB" in text
    assert "golden.npz inputs and expected answers that a device must reproduce" in text
    assert str(bundle.leaves) in text
    assert "Conv × 2" in text


def test_a_bundle_that_cannot_be_read_says_so_and_stays_a_page(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)  # its bytes are no bundle
    sha256 = next(iter(fleet.digests.values()))
    assert "It cannot be read" in page(fleet, f"/bundles/{sha256}")
    assert "cannot be read here" in page(fleet, "/models/digits/1.0.0")


def test_the_capture_key_is_set_and_removed_by_forms(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    assert "No capture key" in part_of(browser.get("/bundles").text, "capture-key")
    assert do(browser, "set_capture_key", body__public_key=KEY, next="/bundles").status_code == 303  # type: ignore[attr-defined]
    assert KEY in part_of(browser.get("/bundles").text, "capture-key")
    removed = do(browser, "remove_capture_key", next="/bundles", confirm_word="remove", confirm="remove")
    assert removed.status_code == 303  # type: ignore[attr-defined]
    assert fleet.parts.fleet.sampling.key() is None
    assert "/do/set_capture_key" not in fleet.browser(Role.VIEWER).get("/bundles").text


def test_root_and_targets_are_given_to_holders_by_pasting_their_files(fleet: Fleet, tmp_path: Path) -> None:
    holders = media(tmp_path)
    browser = fleet.browser(Role.ADMIN)
    assert "a copy of its key folder is enough" in part_of(browser.get("/bundles").text, "ceremony")
    parts = "\n".join(public(one).strip() for one in holders.values())
    begin = form(browser.get("/bundles").text, "/do/create_signing_request")
    assert send(browser, begin, {"body.parts": parts}).status_code == 303
    waiting = fleet.parts.signing.ceremony.waiting()
    assert waiting is not None
    text = browser.get("/bundles").text
    told = part_of(text, "ceremony")
    assert "root: root needs 2 of 3 keys (now 1 of 1)" in told
    file = browser.get(f"/bundles/requests/{waiting.id}")
    assert (file.text, "attachment" in file.headers["content-disposition"]) == (waiting.document, True)
    assert "/do/sign_signing_request" not in fleet.browser(Role.OPERATOR).get("/bundles").text
    answers = "\n".join(answer(waiting, holders[name]).strip() for name in ("anna", "carl"))
    signed = send(browser, form(text, "/do/sign_signing_request"), {"body.answers": answers})
    assert signed.status_code == 303
    after = text_of(browser.get("/bundles").text)
    assert "root and targets are signed by their holders" in after
    assert "2 of anna, ben, carl must sign" in after
    assert "root key and its passphrase" not in after
    assert not (fleet.parts.settings.data_dir / "keys" / "root.pem").exists()


def test_an_admin_signs_again_what_devices_have_seen_after_typing_it(fleet: Fleet) -> None:
    recovery, signing = fleet.parts.fleet.recovery, fleet.parts.signing
    browser = fleet.browser(Role.ADMIN)
    assert 'id="recovery"' not in browser.get("/bundles").text
    seen = int(fleet.house.clock.now().timestamp()) + 50
    honest, liar = fleet.device("cam"), fleet.device("evil")
    recovery.take(honest.id, Seen(version=seen, roles={"m.late": seen}))
    recovery.take(liar.id, Seen(roles={"m.never": 7}))
    text = browser.get("/bundles").text
    told = part_of(text, "recovery")
    assert "2 devices reported newer metadata than this server has." in told
    assert f"{honest.id} {seen} 1" in told
    assert f"roles to sign above version {seen}" in told
    assert f"late 1 device: {honest.id} never 1 device: {liar.id}" in told
    assert "edgectl server restored --yes" in told
    assert 'id="recovery"' not in fleet.browser(Role.OPERATOR).get("/bundles").text

    wanted = form(text, "/do/sign_recovery")
    unconfirmed = send(browser, wanted, {"confirm": ""})
    assert "the confirmation is" in unconfirmed.text
    assert max(role.version for role in signing.roles()) < seen
    signed = send(browser, wanted, {"confirm": "sign", "body.models": "late"})
    assert signed.headers["location"] == "/bundles"
    after = text_of(browser.get("/bundles").text)
    assert f"Signed all roles above version {seen}. Added empty roles for late: publish these models again." in after
    assert "Publish again: late . The role of this model names no bundle yet." in after
    versions = {role.name: role.version for role in signing.roles() if role.name != "root"}
    assert min(versions.values()) > seen
    assert "m.late" in versions
    assert "m.never" not in versions


def test_the_event_of_newer_metadata_leads_an_admin_to_it(fleet: Fleet) -> None:
    fleet.parts.fleet.recovery.take(fleet.device("cam").id, Seen(version=int(fleet.house.clock.now().timestamp())))
    assert 'href="/bundles#recovery"' in fleet.browser(Role.ADMIN).get("/events?view=all").text
    assert 'href="/bundles#recovery"' not in fleet.browser(Role.VIEWER).get("/events?view=all").text


def test_profiles_come_with_their_devices_first_and_facts_with_evidence(shop: Fleet) -> None:
    told = part_of(page(shop, "/profiles"), "profiles")
    first = told.split("Predictions based on ")[1]
    assert first.startswith(ORT)
    assert "cortex-m-tflm" in told
    one = text_of(page(shop, f"/profiles/{ORT}"))
    assert "3 devices use it" in one
    assert re.search(r"opset_max \d+ measured on ", one)
    assert "digits@1.1.0 , int8" in one
    assert "digits@1.1.0" in part_of(page(shop, f"/profiles/{ORT}"), "cost")


def test_a_profile_without_devices_says_how_to_get_one(shop: Fleet) -> None:
    assert "edgectl device enroll --profile raspberry-pi-4-ort" in page(shop, "/profiles/raspberry-pi-4-ort")
