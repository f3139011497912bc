"""The file `model-key`: raw X25519, or wrapped by AES-256-GCM under a secret that the TPM keeps (`tpm_secret.model_secret`).

Needs `cryptography`: never imported by agentd.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgefleet_protocol.hpke import KEY_BYTES, SealedError

_NONCE_BYTES = 12
_ABOUT = b"edgefleet model-key"


def wrapped(key: bytes, secret: bytes) -> bytes:
    """Return a raw key as it lies on the disk. secret: b"" for a plain file."""
    if not secret:
        return key
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(secret).encrypt(nonce, key, _ABOUT)


def opened(data: bytes, secret: bytes) -> bytes:
    """Return the raw key in a file, wrapped or not. Raises SealedError."""
    if len(data) == KEY_BYTES:
        return data
    try:
        return AESGCM(secret).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _ABOUT)
    except (InvalidTag, ValueError) as error:
        raise SealedError("the key of this device does not open: it is damaged, or of another TPM") from error
