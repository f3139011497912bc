"""Look at a zip without unpacking it, and refuse one that could do harm (zip slip, links, bombs, hidden members).

Our own code never unpacks a member to the name it has; the libraries that read these formats may, so the names are checked
first. Sources: APPNOTE.TXT of PKWARE (central directory), CWE-22, CWE-409.
"""

import stat
import zipfile
import zlib
from pathlib import Path
from typing import Final

from edgefleet_converters.errors import ArchiveUnsafeError, TruncatedModelError

MAX_MEMBERS: Final = 20_000
MAX_UNPACKED_BYTES: Final = 4 * 1024**3
MAX_RATIO: Final = 200
"""Unpacked to packed bytes; trained weights hardly compress, so 200 leaves room for tables of zeros."""
RATIO_FLOOR_BYTES: Final = 64 * 1024**2


def checked_members(path: Path) -> set[str]:
    """Return the names of a zip's members. Reads its directory only. Raises TruncatedModelError, ArchiveUnsafeError."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise TruncatedModelError(
            f"the zip archive {path.name} ends too early or is damaged: {' '.join(str(error).split())[:120]}",
            next_step="copy or export the file again and compare its size",
        ) from error
    if len(infos) > MAX_MEMBERS:
        raise _unsafe(path, f"it has {len(infos)} members; at most {MAX_MEMBERS} are taken")
    seen: set[str] = set()
    for info in infos:
        _check_member(path, info)
        if info.filename in seen:
            raise _unsafe(path, f"it holds {info.filename[:80]!r} twice")
        seen.add(info.filename)
    unpacked, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > RATIO_FLOOR_BYTES and unpacked > MAX_RATIO * max(1, packed)):
        raise _unsafe(path, f"it unpacks from {packed} to {unpacked} bytes")
    return seen


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = name.rstrip("/").split("/")
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or ":" in parts[0]:
        raise _unsafe(path, f"its member {name[:80]!r} is not a plain relative name")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise _unsafe(path, f"its member {name[:80]!r} is a symbolic link")
    if info.flag_bits & 0x1:
        raise _unsafe(path, f"its member {name[:80]!r} is encrypted")


def _unsafe(path: Path, why: str) -> ArchiveUnsafeError:
    return ArchiveUnsafeError(
        f"the zip archive {path.name} is not opened: {why}", next_step="save the model again with the tool that made it"
    )
