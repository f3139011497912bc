"""sha256 digests as values: 64 lower-case hex characters, never anything else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NewType

from edgefleet_protocol.errors import BadIdError

Sha256 = NewType("Sha256", str)

_HEX = re.compile(r"[0-9a-f]{64}")


def parse_sha256(text: str) -> Sha256:
    """Return the digest in `text`. Raises BadIdError unless it is exactly 64 lower-case hex characters."""
    if not _HEX.fullmatch(text):
        raise BadIdError(f"expected a sha256 as 64 lower-case hex characters, got {text[:80]!r}")
    return Sha256(text)


def sha256_hex(data: bytes | bytearray | memoryview) -> Sha256:
    """Return the sha256 of `data`."""
    return Sha256(hashlib.sha256(data).hexdigest())


def folder_sha256(files: Iterable[tuple[str, Sha256]]) -> Sha256:
    """Return the sha256 that names a folder: that of its sorted lines `path NUL sha256 LF`.

    files: (path below the folder with `/`, sha256 of the file); their order does not matter. Release and manifest name a
    published folder by this.
    """
    return sha256_hex("".join(sorted(f"{path}\0{sha256}\n" for path, sha256 in files)).encode())


def part_of(device: str, word: str) -> float:
    """Return the device's part of a span, 0 <= part < 1: uniform over devices, another for another word, never drawn again."""
    drawn = hashlib.sha256(f"{device}\0{word}".encode()).digest()[:6]  # 48 bits: a float holds them exactly
    return int.from_bytes(drawn, "big") / (1 << 48)


def start_after_s(device: str, sha256: str, within_s: int) -> int:
    """Return after how many whole seconds a device begins to ask for a bundle, 0 <= n < max(1, within_s)."""
    return int(part_of(device, sha256) * within_s)
