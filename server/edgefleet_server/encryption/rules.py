"""The form of keys and of sealed texts (ADR 0119). Pure.

- A key is 32 random bytes, written in base64. A source has one or more, apart by blanks or lines; `#` begins a comment. The first seals.
- A sealed text is `efs1:KEY_ID:DATA`. DATA: base64 of a nonce of 12 bytes, the AES-256-GCM text and its tag. Its associated data is the
  place, so what was copied to another row or column does not open.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.encryption.errors import KeyUnreadableError, KeyWrongError, NotOpenedError
from edgefleet_server.encryption.model import KeyRing, Place, SealedValue, SealingKey

PREFIX: Final = "efs1:"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
KEY_ID_CHARS: Final = 16
NEXT_FOR_KEY: Final = (
    "bring back the key file from its backup, or point `secrets_key_file` to it; docs/operate/secrets.md"
)


def key_of(data: bytes) -> SealingKey:
    """Return the key of KEY_BYTES bytes."""
    assert len(data) == KEY_BYTES
    return SealingKey(sha256_hex(b"edgefleet sealing key\0" + data)[:KEY_ID_CHARS], data)


def parse_keys(text: str, where: str) -> KeyRing:
    """Return the keys in a text. where: for the error. Raises KeyUnreadableError, which quotes nothing of the text."""
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    keys = []
    for number, word in enumerate(words, 1):
        try:
            data = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) != KEY_BYTES:
            raise KeyUnreadableError(
                f"key {number} of {where} is not {KEY_BYTES} bytes in base64",
                next_step="make one with `openssl rand -base64 32`; a key that sealed something must come from its backup",
            )
        keys.append(key_of(data))
    if not keys:
        raise KeyUnreadableError(f"there is no key in {where}", next_step=NEXT_FOR_KEY)
    return KeyRing(tuple(keys))


def key_text(ring: KeyRing) -> str:
    """Return the text of a key file."""
    head = "# Sealing keys of this edgefleet server: the first seals secrets of the database, the others only open. See README.txt.\n"
    return head + "".join(f"{base64.b64encode(one.data).decode()}  # {one.id}\n" for one in ring.keys)


def seal(key: SealingKey, nonce: bytes, place: Place, plain: str) -> str:
    """Return a secret as it is stored. nonce: NONCE_BYTES bytes that were never used with this key."""
    assert len(nonce) == NONCE_BYTES
    data = nonce + AESGCM(key.data).encrypt(nonce, plain.encode(), _bound_to(place, key.id))
    return f"{PREFIX}{key.id}:{base64.b64encode(data).decode()}"


def key_id_of(text: str) -> str | None:
    """Return the id of the key that sealed a stored text, None when it is plain."""
    if not text.startswith(PREFIX):
        return None
    return text[len(PREFIX) :].partition(":")[0]


def open_value(ring: KeyRing, value: SealedValue) -> str:
    """Return a secret. Raises NotOpenedError, KeyWrongError; neither quotes anything of it."""
    key_id = key_id_of(value.text)
    if key_id is None:
        raise NotOpenedError(
            f"the secret in {value.place} is not sealed, so it was not written by this server",
            next_step="see who wrote to the database; make the secret again, or seal what is there: `edgectl server seal`",
        )
    key = ring.find(key_id)
    if key is None:
        raise wrong_key(key_id, [one.id for one in ring.keys], str(value.place))
    text = value.text.rpartition(":")[2]
    try:
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() != text:
            raise ValueError("two texts for one value")
        return AESGCM(key.data).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound_to(value.place, key.id)).decode()
    except (InvalidTag, ValueError):
        # the cause is left out: it knows no more, and its frames hold the key
        raise NotOpenedError(
            f"the secret in {value.place} was changed, or moved there from another row",
            next_step="see who wrote to the database, then make the secret again: rotate the webhook, set the URL of the contact point",
        ) from None


def wrong_key(needed: str, found: Sequence[str], what: str) -> KeyWrongError:
    """Return the error that another key is needed."""
    return KeyWrongError(
        f"{what} is sealed with the key {needed}; the keys found are {', '.join(found)}", next_step=NEXT_FOR_KEY
    )


def _bound_to(place: Place, key_id: str) -> bytes:
    return "\0".join((PREFIX, place.table, place.column, place.row, key_id)).encode()
