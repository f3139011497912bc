"""A map of the parts of a picture that matter, as a PNG file: the mean picture in grey, and warm where hiding a part costs. Pure."""

import base64
import binascii
import struct
import zlib
from typing import Final

from edgefleet_terms.feature_importance import PartMap

PICTURES: Final = 20
SIDE: Final = 256
"""Pixels of the longer side, at least."""
_WARM: Final = (214, 69, 20)
_COOL: Final = (33, 102, 172)


def png_of(one: PartMap) -> bytes:
    """Return the picture, upright. A part whose hiding helps is blue; without a mean picture the ground is white."""
    rows, columns = len(one.drop), len(one.drop[0])
    grey = _grey(one)
    high, wide = (one.height, one.width) if grey else (rows, columns)
    scale = max(1, -(-SIDE // max(high, wide)))
    height, width = high * scale, wide * scale
    most = max((abs(value) for row in one.drop for value in row), default=0.0) or 1.0
    lines = bytearray()
    for y in range(height):
        lines.append(0)  # no filter
        parts = one.drop[min(rows - 1, y * rows // height)]
        for x in range(width):
            ground = grey[(y // scale) * wide + x // scale] if grey else 255
            share = parts[min(columns - 1, x * columns // width)] / most
            lines += _blended(ground, share)
    return _png(width, height, bytes(lines))


def _grey(one: PartMap) -> bytes:
    """Return the mean picture, b"" where there is none that can be shown."""
    try:
        data = base64.b64decode(one.mean, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if data and len(data) == one.height * one.width else b""


def _blended(ground: int, share: float) -> bytes:
    colour, weight = (_WARM if share > 0 else _COOL), 0.75 * min(1.0, abs(share))
    # Half contrast, so that a dark ground does not hide the colour.
    base = 128 + ground / 2
    return bytes(int(base * (1 - weight) + part * weight) for part in colour)


def _png(width: int, height: int, lines: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")
