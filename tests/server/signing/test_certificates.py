"""Certificates: what a CSR can and cannot get."""

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.verify import SignatureError, WrongTypeError, verify_envelope
from edgefleet_server.signing.errors import BadCsrError
from edgefleet_server.signing.keys.own_certificates import hosts_in
from tests.server.fleet.house import House, KeyedDevice, TurnedClock


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A server."""
    return House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock())


def ca_of(house: House) -> x509.Certificate:
    """Return the CA certificate."""
    return x509.load_pem_x509_certificate(house.signing.ca_pem())


def test_ca_signs_end_certificates_only(house: House) -> None:
    ca = ca_of(house)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    assert house.signing.ca_sha256() == sha256_hex(ca.public_bytes(serialization.Encoding.DER))


@pytest.mark.parametrize("subject", ["dev-a", "srv-main", "+", "#", "dev-a/up", "x" * 64, "d-other\nCN=srv-main"])
def test_subject_of_a_csr_is_ignored(house: House, subject: str) -> None:
    issued, _ = house.signing.issue_device_certificate(KeyedDevice().csr(subject), "d-abc")
    cert = x509.load_pem_x509_certificate(issued.pem)
    assert [name.value for name in cert.subject] == ["d-abc"]
    cert.verify_directly_issued_by(ca_of(house))
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert cert.not_valid_after_utc - house.clock.now() == dt.timedelta(days=90)


def test_extensions_of_a_csr_are_ignored(house: House) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("srv-main")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    issued, _ = house.signing.issue_device_certificate(csr.public_bytes(serialization.Encoding.PEM), "d-abc")
    cert = x509.load_pem_x509_certificate(issued.pem)
    assert cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    with pytest.raises(x509.ExtensionNotFound):
        cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def signed_by(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """Return a CSR of another key type."""
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return csr.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "csr",
    [
        b"",
        b"not a request",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        b"x" * 10_000,
        signed_by(rsa.generate_private_key(65537, 2048)),
        signed_by(ec.generate_private_key(ec.SECP384R1())),
        signed_by(ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_what_is_no_p256_request_is_refused(house: House, csr: bytes) -> None:
    with pytest.raises(BadCsrError):
        house.signing.issue_device_certificate(csr, "d-abc")


def test_a_request_for_a_key_that_the_sender_does_not_have_is_refused(house: House) -> None:
    mine, stolen = KeyedDevice(), KeyedDevice()
    der = x509.load_pem_x509_csr(mine.csr()).public_bytes(serialization.Encoding.DER)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    swap = [key.key.public_key().public_bytes(serialization.Encoding.DER, spki) for key in (mine, stolen)]
    forged = der.replace(swap[0], swap[1])
    assert forged != der
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(BadCsrError, match="not signed with its own key"):
        house.signing.check_csr(pem)


def test_server_certificate_names_this_machine_and_the_configured_hosts(house: House) -> None:
    house.signing.issue_server_certificate(["edge.example", "10.1.2.3", "0.0.0.0"])
    cert = x509.load_pem_x509_certificate(house.signing.server_cert_file.read_bytes())
    sans = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "edge.example"} <= set(sans.get_values_for_type(x509.DNSName))
    addresses = sans.get_values_for_type(x509.IPAddress)
    assert {ipaddress.ip_address(a) for a in ("127.0.0.1", "::1", "10.1.2.3")} <= set(addresses)
    assert ipaddress.ip_address("0.0.0.0") not in addresses
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_service_certificate_has_the_instance_as_name(house: House) -> None:
    identity = house.signing.service_identity("main")
    cert = x509.load_pem_x509_certificate(identity.cert_file.read_bytes())
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "srv-main"
    assert identity.key_file.stat().st_mode & 0o777 == 0o600


def test_documents_are_signed_by_the_director_and_typed(house: House) -> None:
    envelope = house.signing.sign_desired(b"{}")
    key = house.signing.director_key()
    assert verify_envelope(envelope, DESIRED_TYPE, [key]) == b"{}"
    with pytest.raises(WrongTypeError):
        verify_envelope(envelope, HOLD_TYPE, [key])
    with pytest.raises(SignatureError):
        verify_envelope(envelope.replace(b'"e30="', b'"e3Q="'), DESIRED_TYPE, [key])


def test_revoking_marks_every_certificate_of_a_device(house: House) -> None:
    for _ in range(2):
        house.signing.issue_device_certificate(KeyedDevice().csr(), "d-abc")
    house.signing.issue_device_certificate(KeyedDevice().csr(), "d-xyz")
    assert house.signing.revoke_device_certificates("d-abc") == 2
    assert house.signing.revoke_device_certificates("d-abc") == 0


def test_a_server_that_runs_for_years_never_shows_a_certificate_that_has_ended(house: House) -> None:
    """Both are issued for 397 days; the daily round of a gateway asks for them again."""
    house.signing.issue_server_certificate(["fleet.example"])
    own = house.signing.service_identity("main").cert_file
    renewed = 0
    for _ in range(800):
        house.clock.turn(days=1)
        renewed += house.signing.renew_own("main")
        for file in (house.signing.server_cert_file, own):
            cert = x509.load_pem_x509_certificate(file.read_bytes())
            assert cert.not_valid_after_utc - house.clock.now() > dt.timedelta(days=29)
            cert.verify_directly_issued_by(ca_of(house))
    assert renewed == 2
    assert "fleet.example" in hosts_in(house.signing.server_cert_file)
