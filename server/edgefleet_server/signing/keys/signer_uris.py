"""Where a private key is, as a securesystemslib URI, and the signer for it.

`file2:director.pem` is a PKCS#8 file of the key folder, plain or encrypted. `hsm:`, `hv:`, `awskms:`, `gcpkms:` and `azurekms:` are
securesystemslib's own: PKCS#11, Vault transit and the key services of clouds. Their credentials come from the environment as these
services document it, the PIN of a token from this server's settings; a library that is missing is named.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # documented, but not in __all__
    CryptoSigner,
    Signature,
    Signer,
    SSlibKey,
)

from edgefleet_server.signing.errors import (
    BadKeyOrderError,
    KeysUnreadableError,
    SignerUnavailableError,
    SignerUriError,
)
from edgefleet_server.signing.keys import service_libraries
from edgefleet_server.signing.keys.inventory import KEY_TYPES, KeyAlgorithm, KeyRecord
from edgefleet_server.signing.keys.key_files import PrivateKey, load_private_key
from edgefleet_terms.key_services import fault_of, sends_token_in_the_clear

FILE_SCHEME: Final = "file2"
REMOTE_SCHEMES: Final = {
    "hsm": "edgefleet[hsm]",
    "hv": "edgefleet[vault]",
    "awskms": "edgefleet[awskms]",
    "gcpkms": "securesystemslib[gcpkms]",
    "azurekms": "securesystemslib[azurekms]",
}
"""What has to be installed for each."""
VAULT_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+/[1-9][0-9]{0,8}")

SecretOf = Callable[[], bytes | None]
"""Returns the passphrase of encrypted files and the PIN of tokens; None when this server has none."""


class KeySigner(Protocol):
    """Signs with one key."""

    @property
    def public_key(self) -> SSlibKey:
        """The public part."""

    def sign(self, payload: bytes) -> Signature:
        """Return the signature of `payload` as TUF has it."""

    def sign_bytes(self, payload: bytes) -> bytes:
        """Return the signature of `payload`, raw."""

    def probe(self) -> None:
        """Let the key sign, where it lies elsewhere. Raises SignerUnavailableError."""


def check_uri(uri: str) -> str:
    """Return the scheme of a URI. Raises SignerUriError."""
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest or (scheme != FILE_SCHEME and scheme not in REMOTE_SCHEMES):
        raise SignerUriError(f"{uri[:80]!r} names no place of a private key")
    if scheme == FILE_SCHEME and (PurePosixPath(rest).name != rest or rest.startswith(".")):
        raise SignerUriError(f"{uri[:80]!r} is no file of the key folder")
    if scheme == "hv" and not VAULT_KEY.fullmatch(rest):
        raise SignerUriError(f"{uri[:80]!r} names no version of a key: it is hv:NAME/VERSION, as hv:digits/1")
    return scheme


def public_key_of(record: KeyRecord) -> SSlibKey:
    """Return the public key of a record as TUF has it."""
    return SSlibKey(record.keyid, KEY_TYPES[record.algorithm], record.algorithm.value, {"public": record.public})


def public_pem_of(key: SSlibKey) -> str:
    """Return a public key as PEM SubjectPublicKeyInfo."""
    public = str(key.keyval["public"])
    if key.keytype != "ed25519":
        return public
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).public_bytes(Encoding.PEM, form).decode()


def public_key_in(pem: str) -> SSlibKey:
    """Return a public key, PEM or what stands between its first and last line, as TUF has it. Raises BadKeyOrderError."""
    if not pem.lstrip().startswith("-----"):
        pem = f"-----BEGIN PUBLIC KEY-----\n{pem.strip()}\n-----END PUBLIC KEY-----\n"
    try:
        public = SSlibKey.from_crypto(serialization.load_pem_public_key(pem.encode()))
        KeyAlgorithm(public.scheme)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKeyOrderError("the public key is no PEM of an Ed25519 or ECDSA P-256 key") from error
    return public


def identified(record: KeyRecord) -> SSlibKey:
    """Return the public key of a record under the id that follows from it. Raises ValueError."""
    return SSlibKey.from_crypto(load_pem_public_key(public_pem_of(public_key_of(record)).encode()))


def open_signer(record: KeyRecord, folder: Path, secret: SecretOf) -> KeySigner:
    """Return what signs with a key. Raises KeysMissingError, KeysUnreadableError, SignerUnavailableError, SignerUriError."""
    scheme = check_uri(record.uri)
    public = public_key_of(record)
    if scheme == FILE_SCHEME:
        name = record.uri.partition(":")[2]
        private = load_private_key(folder / name, secret())
        if SSlibKey.from_crypto(private.public_key()).keyval != public.keyval:
            raise KeysUnreadableError(
                f"the key file {name} holds another key than the one of {record.role}, {record.keyid[:12]}",
                next_step="restore the file from the backup of the key folder",
            )
        return FileKey(private, public)
    return _open_remote(record, public, scheme, secret)


def _open_remote(record: KeyRecord, public: SSlibKey, scheme: str, secret: SecretOf) -> KeySigner:
    def pin(_name: str) -> str:
        return (secret() or b"").decode()

    if sends_token_in_the_clear(record.uri, os.environ.get("VAULT_ADDR", "")):
        raise SignerUnavailableError(
            f"the key of {record.role} is at {record.uri}, and Vault's token would be sent to it without encryption",
            next_step="give VAULT_ADDR with https://, and start again",
        )
    service_libraries.load(scheme)
    try:
        signer = Signer.from_priv_key_uri(record.uri, public, pin)
    except UnsupportedLibraryError as error:
        raise SignerUnavailableError(
            f"the key of {record.role} is at {record.uri}, and the library for it is not installed: {error}",
            next_step=f"install {REMOTE_SCHEMES[scheme]} in the server's environment, and start again",
        ) from error
    except Exception as error:  # whatever a driver or a cloud raises
        raise unavailable(record, error) from error
    return RemoteKey(signer, record)


def unavailable(record: KeyRecord, error: Exception) -> SignerUnavailableError:
    """Return the error for a place that does not answer."""
    why, next_step = fault_of(error)
    return SignerUnavailableError(
        f"the key of {record.role} at {record.uri} cannot be used: {why}", next_step=next_step
    )


class FileKey:
    """A key in a file of the key folder, in memory."""

    def __init__(self, private: PrivateKey, public: SSlibKey) -> None:
        """Hold a private key and its public part."""
        self._private = private
        self._signer = CryptoSigner(private, public)
        self._public = public

    @property
    def public_key(self) -> SSlibKey:
        """The public part."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """Return the signature of `payload` as TUF has it."""
        signature: Signature = self._signer.sign(payload)
        return signature

    def sign_bytes(self, payload: bytes) -> bytes:
        """Return the signature of `payload`, raw.

        Ed25519 is asked directly: what the signer does around it costs as much as signing, which counts for 100,000 documents.
        """
        if isinstance(self._private, Ed25519PrivateKey):
            return self._private.sign(payload)
        return bytes.fromhex(self.sign(payload).signature)

    def probe(self) -> None:
        """Do nothing: the key is in memory."""


class RemoteKey:
    """A key in an HSM or a key service. What it signs is verified before it is used: a place that answers with another key is refused."""

    def __init__(self, signer: Signer, record: KeyRecord) -> None:
        """Wrap the signer of a record."""
        self._signer = signer
        self._record = record
        self._public = public_key_of(record)

    @property
    def public_key(self) -> SSlibKey:
        """The public part."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """Return the signature of `payload`. Blocks on the network. Raises SignerUnavailableError."""
        try:
            signature: Signature = self._signer.sign(payload)
            self._public.verify_signature(signature, payload)
        except Exception as error:  # whatever a driver or a cloud raises
            raise unavailable(self._record, error) from error
        return signature

    def sign_bytes(self, payload: bytes) -> bytes:
        """Return the signature of `payload`, raw. Blocks on the network. Raises SignerUnavailableError."""
        return bytes.fromhex(self.sign(payload).signature)

    def probe(self) -> None:
        """Let the key sign a text that is nothing. Blocks on the network. Raises SignerUnavailableError."""
        self.sign(b"edgefleet: does it sign?")
