"""Packs a folder without its keys and secrets, and unpacks it with them.

Each drawn secret (drawn.py) in a text file becomes a mark such as `{{drawn:p256:3}}`, and is computed again when the archive is
unpacked. A secret in a file that is no text stops the freeze.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import stat
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from tests.frozen import drawn

FOLDER = Path(__file__).parent
PARTS = ("server", "agent")
"""The folders of a frozen version."""
KINDS = ("ed25519", "p256", "text")
_MARK = re.compile(rb"\{\{drawn:(\w+):(\d+)\}\}")


class FrozenError(Exception):
    """A frozen version cannot be made or unpacked."""


def versions() -> list[str]:
    """Return the versions that are frozen."""
    return sorted(path.parent.name for path in FOLDER.glob("*/frozen.json"))


def record(version: str) -> dict[str, Any]:
    """Return what is recorded about a frozen version."""
    found: dict[str, Any] = json.loads((FOLDER / version / "frozen.json").read_text())
    return found


@cache
def printed(kind: str, number: int) -> bytes:
    """Return a draw as it stands in files: PKCS #8 in PEM for keys, else the text."""
    if kind == "text":
        return drawn.text_of(number).encode()
    pem = serialization.Encoding.PEM
    data: bytes = drawn.key_of(kind, number).private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return data


def without_secrets(data: bytes, draws: int) -> bytes:
    """Return a file's bytes with marks in the place of drawn secrets. Raises FrozenError when one is left in it."""
    is_text = b"\0" not in data
    for number in range(draws):
        for kind in KINDS:
            if is_text:
                data = data.replace(printed(kind, number), b"{{drawn:%s:%d}}" % (kind.encode(), number))
            if drawn.drawn(kind, number) in data or printed(kind, number) in data:
                raise FrozenError(f"draw {number} ({kind}) is in a file that is no text")
    if b"PRIVATE " + b"KEY-----" in data:
        raise FrozenError("a key that was not drawn, or that is encrypted")
    return data


def with_secrets(data: bytes) -> bytes:
    """Return a file's bytes with drawn secrets in the place of their marks."""
    return _MARK.sub(lambda match: printed(match[1].decode(), int(match[2])), data)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file() or path.is_dir() or path.is_symlink())


def folder_digest(folder: Path) -> str:
    """Return one digest of the names, modes and contents of everything in a folder."""
    digest = hashlib.sha256()
    for path in _files(folder):
        mode = stat.S_IMODE(path.lstat().st_mode)
        inside = b"" if path.is_dir() else str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {mode:o} {hashlib.sha256(inside).hexdigest()}\n".encode())
    return digest.hexdigest()


def pack(folder: Path, target: Path, draws: int) -> None:
    """Write a folder without its secrets as .tar.xz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _files(folder):
            info = archive.gettarinfo(path, path.relative_to(folder).as_posix())
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            data = without_secrets(path.read_bytes(), draws) if info.isreg() else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    target.write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def unpack(version: str, to: Path) -> dict[str, Any]:
    """Unpack the folders of a frozen version into a new folder, and return its record. Raises FrozenError for other bytes."""
    about = record(version)
    for part in PARTS:
        packed = (FOLDER / version / f"{part}.tar.xz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != about["archives"][f"{part}.tar.xz"]:
            raise FrozenError(f"{part}.tar.xz of {version} is not the recorded one")
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
            archive.extractall(to / part, filter="tar")
        for path in _files(to / part):
            if path.is_file() and not path.is_symlink() and b"{{drawn:" in (data := path.read_bytes()):
                path.write_bytes(with_secrets(data))
        if folder_digest(to / part) != about["folders"][part]:
            raise FrozenError(f"the folder {part} of {version} is not the recorded one")
    return about
