"""A bundle with its model sealed, and back. The caller draws the key (ADR 0122).

The other members stay readable: they say how to feed the model, and prove that it works. Golden vectors are inputs and outputs of it.
"""

from io import BytesIO
from typing import BinaryIO

import msgspec
from msgspec import UNSET

from edgefleet_protocol.bundle import Bundle, open_bundle, write_bundle
from edgefleet_protocol.manifest import MANIFEST_NAME, Sealed
from edgefleet_protocol.sealed_model import key_id, open_model, seal_model


def sealed_bundle(bundle: Bundle, key: bytes) -> bytes:
    """Return the bundle with its model sealed. Holds it some three times. Raises BundleError, OSError."""
    manifest = bundle.manifest
    members = _members(bundle)
    plain = members[manifest.model_member]
    sealed = bytearray()
    for chunk in seal_model(key, plain, manifest):
        sealed += chunk
    members[manifest.model_member] = bytes(sealed)
    named = Sealed(length=len(plain), key=key_id(key))
    del plain, sealed
    return write_bundle(members, msgspec.structs.replace(manifest, v=2, sealed=named))


def plain_bundle(file: BinaryIO, key: bytes) -> bytes:
    """Return a sealed bundle as it was before. Raises BundleError, ManifestError, OSError."""
    bundle = open_bundle(file)
    manifest = bundle.manifest
    members = _members(bundle)
    members[manifest.model_member] = open_model(key, BytesIO(members[manifest.model_member]).read, manifest)
    return write_bundle(members, msgspec.structs.replace(manifest, v=1, sealed=UNSET))


def _members(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.read(name) for name in bundle.names() if name != MANIFEST_NAME}
