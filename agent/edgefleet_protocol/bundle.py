"""The bundle: a zip with stored members, flat names and fixed dates; byte for byte the same for the same content (ADR 0003).

Rules of `open_bundle`:
1. The file is laid out exactly as `write_bundle` would do it: no other compression, flag, extra field, comment, gap, order.
2. `manifest.json` comes first and lists every other member with length and sha256; a member not listed is refused, a missing one too.
3. Each member's bytes are hashed when read (`read`), or all at once by `verify_members`.
The reader works on a seekable binary file that the caller opened; nothing is extracted and no name is joined to a path.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    Member,
    decode_manifest,
    encode_manifest,
)

MAX_MEMBERS = 64
MAX_BUNDLE_BYTES = (1 << 32) - 1
_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_READ_BYTES = 1 << 20

# PKZIP APPNOTE 6.3: local header, central directory header, end of central directory.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_DOS_DATE_1980 = 0x21
_VERSION_2_0 = 20


class BundleError(EdgefleetError):
    """The bundle is not exactly what its manifest says. Subclasses name what is wrong."""

    code = "bundle.bad"


class BadZipError(BundleError):
    """Not a zip as we write it: truncated, compressed, reordered, with gaps or foreign fields."""

    code = "bundle.bad_zip"


class ExtraMemberError(BundleError):
    """A member that the manifest does not list."""

    code = "bundle.extra_member"


class MissingMemberError(BundleError):
    """A member that the manifest lists and the zip lacks."""

    code = "bundle.missing_member"


class BadNameError(BundleError):
    """A member name outside the flat alphabet, or used twice."""

    code = "bundle.bad_name"


class MemberDigestError(BundleError):
    """A member whose length or sha256 is not the manifest's."""

    code = "bundle.member_digest"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a member's bytes lie in the file."""

    name: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. Its structure is checked; member bytes are checked when read."""

    file: BinaryIO
    manifest: Manifest
    entries: dict[str, Entry]

    def names(self) -> list[str]:
        """Return the member names, manifest first."""
        return list(self.entries)

    def read(self, name: str) -> bytes:
        """Return a member's bytes, checked against the manifest. Raises MissingMemberError, MemberDigestError, OSError."""
        entry = self.entries.get(name)
        if entry is None:
            raise MissingMemberError(f"the bundle has no member {name!r}")
        data = _read_at(self.file, entry.offset, entry.length)
        if name != MANIFEST_NAME and sha256_hex(data) != self.manifest.members[name].sha256:
            raise MemberDigestError(f"member {name!r} does not have the sha256 of the manifest")
        return data

    def verify_members(self) -> None:
        """Hash every member against the manifest. Raises MemberDigestError. Reads the whole file."""
        for name, entry in self.entries.items():
            if name == MANIFEST_NAME:
                continue
            digest = hashlib.sha256()
            done = 0
            while done < entry.length:
                chunk = _read_at(self.file, entry.offset + done, min(_READ_BYTES, entry.length - done))
                digest.update(chunk)
                done += len(chunk)
            if digest.hexdigest() != self.manifest.members[name].sha256:
                raise MemberDigestError(f"member {name!r} does not have the sha256 of the manifest")


def write_bundle(members: Mapping[str, bytes], manifest: Manifest) -> bytes:
    """Return the bundle's bytes. `manifest.members` is filled in from `members`; the order of `members` does not matter.

    Raises BadNameError, ManifestError.
    """
    for name in members:
        if name == MANIFEST_NAME or not _NAME.fullmatch(name):
            raise BadNameError(f"member name {name!r} is not allowed in a bundle")
    listed = {name: Member(length=len(data), sha256=sha256_hex(data)) for name, data in sorted(members.items())}
    document = encode_manifest(msgspec.structs.replace(manifest, members=listed))
    decode_manifest(document)
    return pack_members([(MANIFEST_NAME, document), *sorted(members.items())])


def pack_members(files: list[tuple[str, bytes]]) -> bytes:
    """Return a stored zip of `files` in this order, with fixed dates and no optional field. Raises BundleError when too big."""
    out = bytearray()
    central = bytearray()
    for name, data in files:
        encoded = name.encode("ascii")
        crc = zlib.crc32(data)
        offset = len(out)
        out += _local_header(encoded, crc, len(data))
        out += data
        central += _CENTRAL.pack(*_central_fields(crc, len(data), len(encoded), offset)) + encoded
        if len(out) + len(central) > MAX_BUNDLE_BYTES:
            raise BundleError(f"a bundle may have at most {MAX_BUNDLE_BYTES} bytes")
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), len(central), len(out), 0)
    out += central + end
    return bytes(out)


def open_bundle(file: BinaryIO) -> Bundle:
    """Return the bundle in a seekable binary file, its structure checked against rules 1 and 2.

    Raises BadZipError, BadNameError, ExtraMemberError, MissingMemberError, MemberDigestError (lengths), ManifestError, OSError.
    """
    entries = _read_directory(file)
    names = list(entries)
    if names[0] != MANIFEST_NAME:
        raise BadZipError("the first member of a bundle must be manifest.json")
    if names[1:] != sorted(names[1:]):
        raise BadZipError("the members of a bundle must be in the order of their names")
    first = entries[MANIFEST_NAME]
    if first.length > MAX_MANIFEST_BYTES:
        raise BadZipError(f"manifest.json has {first.length} bytes; the limit is {MAX_MANIFEST_BYTES}")
    document = _read_at(file, first.offset, first.length)
    if zlib.crc32(document) != first.crc32:
        raise MemberDigestError("manifest.json does not have the checksum of the zip directory")
    manifest = decode_manifest(document)
    for name, entry in entries.items():
        if name == MANIFEST_NAME:
            continue
        listed = manifest.members.get(name)
        if listed is None:
            raise ExtraMemberError(f"member {name!r} is not listed in the manifest")
        if listed.length != entry.length:
            raise MemberDigestError(f"member {name!r} has {entry.length} bytes; the manifest says {listed.length}")
    missing = sorted(set(manifest.members) - set(entries))
    if missing:
        raise MissingMemberError(f"the manifest lists {missing[0]!r}, which is not in the bundle")
    return Bundle(file, manifest, entries)


def _local_header(name: bytes, crc: int, length: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION_2_0, 0, 0, 0, _DOS_DATE_1980, crc, length, length, len(name), 0) + name


def _central_fields(crc: int, length: int, name_length: int, offset: int) -> tuple[bytes | int, ...]:
    versions, dates = (_VERSION_2_0, _VERSION_2_0), (0, _DOS_DATE_1980)
    return (b"PK\1\2", *versions, 0, 0, *dates, crc, length, length, name_length, 0, 0, 0, 0, 0, offset)


def _read_directory(file: BinaryIO) -> dict[str, Entry]:
    size = file.seek(0, 2)
    if not _END.size <= size <= MAX_BUNDLE_BYTES:
        raise BadZipError(f"a file of {size} bytes is not a bundle")
    magic, disk, cd_disk, here, total, cd_size, cd_offset, comment = _END.unpack(
        _read_at(file, size - _END.size, _END.size)
    )
    if magic != b"PK\5\6" or disk or cd_disk or comment or here != total or cd_offset + cd_size + _END.size != size:
        raise BadZipError("the zip's end record is not ours: truncated, or with a comment or gap")
    if not 1 <= total <= MAX_MEMBERS:
        raise BadZipError(f"a bundle has 1 to {MAX_MEMBERS} members, this one {total}")
    directory = _read_at(file, cd_offset, cd_size)
    entries: dict[str, Entry] = {}
    position, expected_offset = 0, 0
    for _ in range(total):
        entry, offset, position = _central_entry(directory, position)
        if entry.name in entries:
            raise BadNameError(f"member name {entry.name!r} is used twice")
        header = _local_header(entry.name.encode(), entry.crc32, entry.length)
        if offset != expected_offset or _read_at(file, offset, len(header)) != header:
            raise BadZipError(
                f"member {entry.name!r}: local header and directory disagree, or there is a gap before it"
            )
        entries[entry.name] = Entry(entry.name, offset + len(header), entry.length, entry.crc32)
        expected_offset = offset + len(header) + entry.length
    if position != len(directory) or expected_offset != cd_offset:
        raise BadZipError("the zip has bytes that belong to no member")
    return entries


def _central_entry(directory: bytes, position: int) -> tuple[Entry, int, int]:
    if position + _CENTRAL.size > len(directory):
        raise BadZipError("the zip directory is truncated")
    fields = _CENTRAL.unpack_from(directory, position)
    crc, length, name_length, offset = fields[7], fields[9], fields[10], fields[16]
    end = position + _CENTRAL.size + name_length
    raw = directory[position + _CENTRAL.size : end]
    if fields != _central_fields(crc, length, len(raw), offset):
        raise BadZipError("a zip entry has compression, flags, dates or fields that a bundle never has")
    name = raw.decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise BadNameError(f"member name {name[:80]!r} is not allowed in a bundle")
    return Entry(name, 0, length, crc), offset, end


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise BadZipError("the bundle is truncated")
    return data
