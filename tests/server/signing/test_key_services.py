"""Keys in Vault and AWS KMS by their URIs: the real libraries against stand-ins of these services, and a device that verifies."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import (  # type: ignore[attr-defined]  # documented, but not in __all__
    AWSSigner,
    CryptoSigner,
    VaultSigner,
)

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.keys.team_keys import signature_by
from edgefleet_server.signing.errors import SignerUnavailableError, SignerUriError
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.keys.signer_uris import check_uri, public_pem_of
from edgefleet_terms.key_services import fault_of, sends_token_in_the_clear
from tests.house.pages import shell_blocks
from tests.server.signing.test_key_rotation import Fleet
from tests.support.key_services import TOKEN, AwsKmsStandIn, VaultStandIn

PAGE = Path("docs/operate/keys.md")


@pytest.fixture(name="vault")
def _vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[VaultStandIn]:
    pytest.importorskip("hvac", reason="hvac is not installed (edgefleet[vault])")
    made = VaultStandIn()
    monkeypatch.setenv("VAULT_ADDR", made.url)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    yield made
    made.close()


@pytest.fixture(name="aws")
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsKmsStandIn]:
    pytest.importorskip("boto3", reason="boto3 is not installed (edgefleet[awskms])")
    made = AwsKmsStandIn()
    known = {
        "ENDPOINT_URL_KMS": made.url,
        "ACCESS_KEY_ID": "AKSTANDIN",
        "SECRET_ACCESS_KEY": "x",
        "REGION": "eu-central-1",
    }
    for name, value in (known | {"DEFAULT_REGION": "eu-central-1", "MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield made
    made.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server with a release, and a device that trusts it."""
    made = Fleet(tmp_path)
    yield made
    made.house.db.dispose()


def refusal(fleet: Fleet, order: KeyOrder) -> SignerUnavailableError:
    """Return why a rotation of the director to this key is refused, which changes nothing."""
    before = fleet.house.signing.director_keyid()
    with pytest.raises(SignerUnavailableError) as caught:
        fleet.house.signing.keys.rotate("director", order)
    assert fleet.house.signing.director_keyid() == before
    return caught.value


def test_a_director_in_vault_signs_and_a_device_takes_it_and_each_fault_is_said_and_changes_nothing(
    fleet: Fleet, vault: VaultStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [one for one in shell_blocks(PAGE) if "transit/keys" in one.text]
    *makes, rotates = block.text.strip().splitlines()
    subprocess.run(["sh", "-ec", "\n".join(makes)], cwd=tmp_path, check=True)
    words = rotates.split()
    uri, file = words[words.index("--uri") + 1], words[words.index("--public-key") + 1]
    order = KeyOrder(uri=uri, public_key=(tmp_path / file).read_text())
    assert VaultSigner.import_("director")[0] == uri

    faults: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
        (lambda: setattr(vault, "is_sealed", True), lambda: setattr(vault, "is_sealed", False), "Vault is sealed"),
        (vault.tokens.clear, lambda: vault.tokens.add(TOKEN), "it has expired"),
        (
            lambda: setattr(vault, "may_sign", False),
            lambda: setattr(vault, "may_sign", True),
            "does not allow `update`",
        ),
    ]
    for begin, end, why in faults:
        begin()
        error = refusal(fleet, order)
        end()
        assert why in error.message, error.message
        assert error.next_step
        assert TOKEN not in error.message + error.next_step
    for other, why in (("hv:none/1", "no such key"), ("hv:director/7", "this version")):
        assert why in refusal(fleet, KeyOrder(uri=other, public_key=order.public_key)).message
    vault._key("POST", "other")
    assert "another key" in refusal(fleet, KeyOrder(uri="hv:other/1", public_key=order.public_key)).message
    monkeypatch.setenv("VAULT_ADDR", "http://vault.example:8200")
    assert "without encryption" in refusal(fleet, order).message
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    assert "does not answer" in refusal(fleet, order).message
    monkeypatch.setenv("VAULT_ADDR", vault.url)

    signing = fleet.house.signing
    assert fleet.offer(signing) == ""
    vault.signed.clear()
    signing.keys.rotate("director", order)
    assert signing.role("director").key_details[0].uri == uri
    fleet.house.clock.turn(seconds=1)
    assert fleet.offer(signing) == "", "the device takes what Vault signed"
    assert fleet.hold(signing) == ""
    assert set(vault.signed) == {("director", 1)}
    vault._key("POST", "director")  # rotated in Vault: version 1 still signs, as the URI says
    assert fleet.offer(signing) == ""
    vault.is_sealed = True
    with pytest.raises(SignerUnavailableError, match="Vault is sealed"):
        fleet.offer(signing)


def test_a_director_in_aws_kms_signs_and_a_device_takes_it_and_faults_are_said(
    fleet: Fleet, aws: AwsKmsStandIn
) -> None:
    aws.keys["alias/director"] = ec.generate_private_key(ec.SECP256R1())
    uri, public = AWSSigner.import_("alias/director")
    order = KeyOrder(uri=uri, public_key=public_pem_of(public))
    for code, why in (
        ("AccessDeniedException", "may not use the key"),
        ("DisabledException", "is disabled"),
        ("ExpiredTokenException", "credentials are missing, wrong or expired"),
    ):
        aws.error = code
        assert why in refusal(fleet, order).message
    aws.error = ""
    assert "no such key" in refusal(fleet, KeyOrder(uri="awskms:alias/none", public_key=order.public_key)).message
    fleet.house.signing.keys.rotate("director", order)
    fleet.house.clock.turn(seconds=1)
    assert fleet.offer(fleet.house.signing) == "", "the device takes what the key service signed"
    assert set(aws.asked) == {"GetPublicKey", "Sign"}


def test_one_of_a_team_signs_with_a_key_in_vault(vault: VaultStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    vault._key("POST", "digits")
    _, public = VaultSigner.import_("digits")
    keys = {one.keyid: one for one in (CryptoSigner.generate_ed25519().public_key, public)}

    def passphrase(_where: str) -> bytes:
        return b""

    signature = signature_by("hv:digits/1", keys, b"metadata", passphrase)
    assert signature.keyid == public.keyid
    public.verify_signature(signature, b"metadata")
    vault.is_sealed = True
    with pytest.raises(CliError) as caught:
        signature_by("hv:digits/1", keys, b"metadata", passphrase)
    assert "Vault is sealed" in caught.value.why
    monkeypatch.setenv("VAULT_ADDR", "http://vault.example")
    with pytest.raises(CliError, match="without encryption"):
        signature_by("hv:digits/1", keys, b"metadata", passphrase)


@pytest.mark.parametrize("uri", ["hv:digits", "hv:digits/", "hv:digits/0", "hv:digits/latest", "hv:a/b/1", "hv:/1"])
def test_a_key_in_vault_is_named_with_its_version(uri: str) -> None:
    with pytest.raises(SignerUriError, match="hv:NAME/VERSION"):
        check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "address", "is_so"),
    [
        ("hv:a/1", "http://vault.example:8200", True),
        ("hv:a/1", "http://127.0.0.1.example", True),
        ("hv:a/1", "http://[2001:db8::1]:8200", True),
        ("hv:a/1", "http://localhost:8200", False),
        ("hv:a/1", "http://[::1]:8200", False),
        ("hv:a/1", "https://vault.example", False),
        ("hv:a/1", "", False),
        ("awskms:a", "http://vault.example", False),
    ],
)
def test_a_token_is_sent_in_the_clear_to_this_machine_only(uri: str, address: str, *, is_so: bool) -> None:
    assert sends_token_in_the_clear(uri, address) is is_so


def test_an_error_that_nobody_knows_is_quoted_and_cut() -> None:
    class NewError(Exception):
        pass

    why, next_step = fault_of(NewError("x" * 1000))
    assert why == f"NewError: {'x' * 200}"
    assert next_step
