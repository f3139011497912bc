"""The one layout of a file in an archive of evidence: an ustar header that its path and length decide, its bytes, zeros up to 512. Pure.

So each byte of the unpacked archive follows from the manifest, and whoever checks one compares headers instead of reading them.
"""

import tarfile
from typing import Final

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""What stands behind the last file."""
_LONGEST: Final = 8**11 - 1


def header(path: str, length: int) -> bytes:
    """Return the header of a file: mode 0644, no owner, no time. path: ASCII, at most 100 characters. Raises ValueError."""
    if not 0 <= length <= _LONGEST:
        raise ValueError(f"a file of {length} bytes does not fit")
    info = tarfile.TarInfo(path)
    info.size = length
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(length: int) -> bytes:
    """Return the zeros behind a file of so many bytes."""
    return bytes(-length % BLOCK)


def named_in(block: bytes) -> tuple[str, int] | None:
    """Return path and length of a header that is written as `header` writes it, None for any other block."""
    try:
        path = block[:100].rstrip(b"\0").decode("ascii")
        length = int(block[124:135], 8)
        return (path, length) if header(path, length) == block else None
    except ValueError:
        return None
