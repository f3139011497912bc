"""Keys in an HSM: a real token of SoftHSM 2, through PKCS#11, for a role of a running server and a device that verifies."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import HSMSigner  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_server.signing.errors import SignerUnavailableError
from edgefleet_server.signing.keys.key_files import secret_of
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.keys.signer_uris import public_pem_of
from edgefleet_server.signing.service import SigningService
from tests.server.signing.test_key_rotation import Fleet

LIBRARY = next(
    (one for one in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so")) if one.exists()),
    None,
)
PIN, TOKEN, KEY_ID = "2580-1470", "edgefleet-test", 2

pytestmark = pytest.mark.skipif(
    LIBRARY is None or shutil.which("softhsm2-util") is None, reason="SoftHSM is not installed (Debian: softhsm2)"
)


@pytest.fixture(name="token")
def _token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a token with a P-256 key in it that never leaves it; return the key's URI."""
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.setenv("PYKCS11LIB", str(LIBRARY))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", PIN],
        check=True, capture_output=True, env=os.environ,
    )  # fmt: skip
    _make_key()
    return f"hsm:{KEY_ID}?label={TOKEN}"


def _make_key() -> None:
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (edgefleet[hsm])")
    token = pkcs11.lib(str(LIBRARY)).get_token(token_label=TOKEN)
    with token.open(rw=True, user_pin=PIN) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        stays = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        parameters.generate_keypair(store=True, id=bytes([KEY_ID]), label="fleet", private_template=stays)


def test_a_device_takes_what_a_token_signed_and_a_wrong_pin_changes_nothing(tmp_path: Path, token: str) -> None:
    fleet = Fleet(tmp_path)
    house = fleet.house
    try:
        _, public = HSMSigner.import_(KEY_ID, TOKEN)
        order = KeyOrder(uri=token, public_key=public_pem_of(public))
        before = house.signing.director_keyid()
        keys = house.folder / "keys"
        for pin in (None, "0000-0000"):
            wrong: Any = SigningService(house.db, keys, house.clock, secret_of(pin, None))
            with pytest.raises(SignerUnavailableError, match=f"director at {token.partition('?')[0]}.* cannot be used"):
                wrong.keys.rotate("director", order)
        assert house.signing.director_keyid() == before
        file = tmp_path / "pin"
        file.write_text(PIN + "\n", encoding="utf-8")
        signing = SigningService(house.db, keys, house.clock, secret_of(None, file))
        signing.keys.rotate("director", order)
        assert signing.director_keyid() == public.keyid
        assert signing.role("director").key_details[0].uri == token
        fleet.serve(signing)
        house.clock.turn(seconds=1)
        assert fleet.offer(signing) == "", "the device takes what the token signed"
        assert fleet.hold(signing) == ""
    finally:
        house.db.dispose()
