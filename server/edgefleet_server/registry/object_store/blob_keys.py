"""The name of a blob in a store: the first two digits of its digest, a slash, and the digest."""

import re
from typing import Final

from edgefleet_protocol.digest import Sha256, parse_sha256

_KEY: Final = re.compile(r"(?=(..)/\1)../([0-9a-f]{64})")


def key_of(sha256: Sha256) -> str:
    """Return the name of a blob."""
    digest = parse_sha256(sha256)
    return f"{digest[:2]}/{digest}"


def sha256_of(key: str) -> Sha256 | None:
    """Return which blob has this name, None for the name of something else."""
    found = _KEY.fullmatch(key)
    return Sha256(found[2]) if found else None
