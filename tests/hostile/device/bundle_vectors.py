"""Hostile bundles and transfers. Each bundle is signed with its true digest: an attacker has a publisher's rights, or the converter.

Zip tricks are made by hand, field by field, since no library writes them.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from edgefleet_protocol.blocks import LEAF_BYTES, leaf_index
from edgefleet_protocol.bundle import MAX_MEMBERS, open_bundle, pack_members
from edgefleet_protocol.desired import ModelDesired
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, Member, encode_manifest
from tests.hostile.device.forge import MODEL
from tests.hostile.device.victim import HONEST, Attack, Vector, Victim

ZIP, NAME, DIGEST = "bundle.bad_zip", "bundle.bad_name", "bundle.member_digest"
MANIFEST, EXTRA, MISSING = "bundle.manifest", "bundle.extra_member", "bundle.missing_member"
MISMATCH, LEAF = "install.manifest_mismatch", "install.leaf_digest"
Files = list[tuple[str, bytes]]
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")


@dataclass(frozen=True)
class Zipped:
    """How one member is written. Each field lies in both headers unless its name says which."""

    name: bytes
    data: bytes
    flags: int = 0
    method: int = 0
    date: int = 0x21
    extra: bytes = b""
    comment: bytes = b""
    attributes: int = 0
    gap: bytes = b""
    local_name: bytes | None = None
    length: int | None = None
    offset: int | None = None
    crc: int | None = None


def honest() -> Files:
    """Return the members of the honest bundle, manifest first."""
    bundle = open_bundle(io.BytesIO(HONEST))
    return [(name, bundle.read(name)) for name in bundle.names()]


def manifest() -> Manifest:
    """Return the honest manifest."""
    return open_bundle(io.BytesIO(HONEST)).manifest


def write_zip(members: list[Zipped], *, comment: bytes = b"", tail: bytes = b"", total: int | None = None) -> bytes:
    """Return a zip with these members, as they are."""
    out, central = bytearray(), bytearray()
    for one in members:
        out += one.gap
        at = len(out) if one.offset is None else one.offset
        name = one.name if one.local_name is None else one.local_name
        crc = zlib.crc32(one.data) if one.crc is None else one.crc
        size = len(one.data) if one.length is None else one.length
        fields = (one.flags, one.method, 0, one.date, crc, size, size)
        out += LOCAL.pack(b"PK\3\4", 20, *fields, len(name), len(one.extra)) + name + one.extra + one.data
        sizes = (len(one.name), len(one.extra), len(one.comment))
        central += CENTRAL.pack(b"PK\1\2", 20, 20, *fields, *sizes, 0, 0, one.attributes, at)
        central += one.name + one.extra + one.comment
    out += tail
    count = len(members) if total is None else total
    return bytes(
        out + central + END.pack(b"PK\5\6", 0, 0, count, count, len(central), len(out), len(comment)) + comment
    )


def zipped(**last: Any) -> bytes:
    """Return the honest members as a zip, with other fields of the last one."""
    members = [Zipped(name.encode(), data) for name, data in honest()]
    name, data = members[-1].name, members[-1].data
    return write_zip([*members[:-1], Zipped(**{"name": name, "data": data, **last})])


def deflated() -> bytes:
    """Return the honest members with a compressed one, of the length that it had before."""
    data = zlib.compress(bytes(1 << 20), 9)[2:-4]
    return zipped(method=8, data=data, length=1 << 20)


def renamed(name: bytes) -> bytes:
    """Return the honest members and one of that name."""
    return write_zip([*(Zipped(known.encode(), data) for known, data in honest()), Zipped(name, b"x")])


def relisted(members: Mapping[str, Member] | None = None, **fields: Any) -> bytes:
    """Return the honest members behind another manifest."""
    changed = msgspec.structs.replace(manifest(), **fields)
    if members is not None:
        changed = msgspec.structs.replace(changed, members={**changed.members, **members})
    return pack_members([(MANIFEST_NAME, encode_manifest(changed)), *honest()[1:]])


def behind(document: bytes) -> bytes:
    """Return the honest members behind these bytes as a manifest."""
    return pack_members([(MANIFEST_NAME, document), *honest()[1:]])


def bundle(make: Callable[[], bytes]) -> Attack:
    """Return the attack of a signed bundle."""
    return lambda v: v.install_refusal(make())


def _zips() -> Iterator[Vector]:
    yield Vector("bundle with a compressed member", ZIP, bundle(deflated))
    yield Vector("bundle with an encrypted member", ZIP, bundle(lambda: zipped(flags=1)))
    yield Vector("bundle with lengths after the data", ZIP, bundle(lambda: zipped(flags=8)))
    yield Vector("bundle with names in UTF-8", ZIP, bundle(lambda: zipped(flags=0x800)))
    yield Vector("bundle with an extra field", ZIP, bundle(lambda: zipped(extra=b"\1\0\4\0abcd")))
    yield Vector("bundle with a comment on a member", ZIP, bundle(lambda: zipped(comment=b"hello")))
    yield Vector("bundle with a date", ZIP, bundle(lambda: zipped(date=0x5821)))
    yield Vector("bundle with a symbolic link", ZIP, bundle(lambda: zipped(attributes=0o120777 << 16)))
    yield Vector("bundle with an executable member", ZIP, bundle(lambda: zipped(attributes=0o100755 << 16)))
    yield Vector("bundle with another name in the local header", ZIP, bundle(lambda: zipped(local_name=b"a.bin")))
    yield Vector("bundle with a gap between members", ZIP, bundle(lambda: zipped(gap=b"hidden")))
    yield Vector("bundle with members one over the other", ZIP, bundle(lambda: zipped(offset=0)))
    yield Vector("bundle with a member of 4 GiB by its header", ZIP, bundle(lambda: zipped(length=0xFFFFFFFF)))
    yield Vector("bundle with bytes before the directory", ZIP, bundle(lambda: _whole(tail=b"hidden")))
    yield Vector("bundle with a comment", ZIP, bundle(lambda: _whole(comment=b"hello")))
    yield Vector("bundle with more members by its end record", ZIP, bundle(lambda: _whole(total=9)))
    yield Vector("bundle with fewer members by its end record", ZIP, bundle(lambda: _whole(total=1)))
    yield Vector("bundle with bytes before its start", ZIP, bundle(lambda: b"#!/bin/sh\n" + HONEST))
    yield Vector("bundle with bytes after its end", ZIP, bundle(lambda: HONEST + b"\0"))
    yield Vector("truncated bundle", ZIP, bundle(lambda: HONEST[:-30]))
    yield Vector("bundle of one byte", ZIP, bundle(lambda: b"P"))
    yield Vector("bundle of zeros", ZIP, bundle(lambda: bytes(100_000)))
    yield Vector("bundle without members", ZIP, bundle(lambda: write_zip([])))
    yield Vector("bundle with 65 members", ZIP, bundle(lambda: _many(MAX_MEMBERS + 1)))
    yield Vector("bundle with 65,535 members by its end record", ZIP, bundle(lambda: _whole(total=0xFFFF)))
    yield Vector("bundle with the manifest last", ZIP, bundle(lambda: pack_members([*honest()[1:], honest()[0]])))
    yield Vector("bundle with members out of order", ZIP, bundle(lambda: pack_members([honest()[0], *honest()[:0:-1]])))


def _whole(**fields: Any) -> bytes:
    return write_zip([Zipped(name.encode(), data) for name, data in honest()], **fields)


def _many(count: int) -> bytes:
    return pack_members([honest()[0], *((f"m{number:03}", b"") for number in range(count - 1))])


def _names() -> Iterator[Vector]:
    for what, name in (
        ("of a parent folder", b"../escape"),
        ("that is absolute", b"/etc/cron.d/x"),
        ("with a backslash", b"..\\escape"),
        ("with a drive", b"c:escape"),
        ("of a folder", b"sub/"),
        ("in capitals", b"MODEL.ONNX"),
        ("with a NUL", b"model.onnx\0.txt"),
        ("with a newline", b"a\nb"),
        ("that is not ASCII", "modèl.onnx".encode()),
        ("of 65 characters", b"n" * 65),
        ("that is empty", b""),
    ):
        yield Vector(f"member name {what}", NAME, bundle(partial(renamed, name)))
    yield Vector("two members of one name", NAME, bundle(lambda: pack_members([*honest(), honest()[-1]])))
    yield Vector("two manifests", NAME, bundle(lambda: pack_members([honest()[0], *honest()])))
    yield Vector(
        "member that the manifest does not list",
        EXTRA,
        bundle(lambda: pack_members([*honest(), ("zz-extra.bin", b"x")])),
    )
    yield Vector("member that is missing", MISSING, bundle(lambda: pack_members(honest()[:-1])))


def _manifests() -> Iterator[Vector]:
    model = manifest().model_member
    other = Member(length=manifest().members[model].length, sha256="00" * 32)
    longer = Member(length=manifest().members[model].length + 1, sha256=manifest().members[model].sha256)
    yield Vector("member with another digest than listed", DIGEST, bundle(lambda: relisted({model: other})))
    yield Vector("member with another length than listed", DIGEST, bundle(lambda: relisted({model: longer})))
    yield Vector(
        "member of negative length", MANIFEST, bundle(lambda: relisted({model: Member(length=-1, sha256="0" * 64)}))
    )
    yield Vector(
        "member with a digest that is none",
        MANIFEST,
        bundle(lambda: relisted({model: Member(length=1, sha256="../x")})),
    )
    yield Vector("manifest with another checksum", DIGEST, bundle(_wrong_checksum))
    yield Vector("manifest that is empty", MANIFEST, bundle(lambda: behind(b"{}")))
    yield Vector("manifest that is not JSON", MANIFEST, bundle(lambda: behind(b"\x80\x04.")))
    yield Vector("manifest nested 100,000 deep", MANIFEST, bundle(lambda: behind(b'{"report":' + b"[" * 100_000)))
    yield Vector("manifest of more than a MiB", ZIP, bundle(lambda: behind(b" " * (MAX_MANIFEST_BYTES + 1))))
    yield Vector("manifest of version 2", MANIFEST, bundle(lambda: behind(honest()[0][1].replace(b'"v":1', b'"v":2'))))
    yield Vector("manifest whose model is no member", MANIFEST, bundle(lambda: relisted(model_member="/etc/passwd")))
    yield Vector("manifest with a model name that is a path", MANIFEST, bundle(lambda: relisted(model="../digits")))
    yield Vector("bundle of another version than its path", MISMATCH, bundle(lambda: relisted(version="3.0.0")))
    yield Vector("bundle of another model than its path", MISMATCH, bundle(lambda: relisted(model="other")))
    yield Vector(
        "bundle of another profile than its path", MISMATCH, bundle(lambda: relisted(profile="generic-aarch64-ort"))
    )
    yield Vector("bundle below the security floor of the device", "install.security_floor", below_the_floor)


def _wrong_checksum() -> bytes:
    first, *others = [Zipped(name.encode(), data) for name, data in honest()]
    return write_zip([Zipped(first.name, first.data, crc=1), *others])


def below_the_floor(v: Victim) -> str:
    """A bundle of security version 0 in a document that asks for 1, and then fetched all the same."""
    refused = v.newer(sec_floor={MODEL: 1}, models={MODEL: ModelDesired(active=v.ref)})
    return refused if v.install_refusal(HONEST) == refused else f"{refused}, but fetched"


def lying(change: Callable[[bytes], bytes]) -> Attack:
    """Return the attack of a source that changes each leaf."""

    def attack(v: Victim) -> str:
        v.leaf = lambda _blob, _leaf, data: change(data)
        return v.install_refusal(HONEST)

    return attack


def index_of(change: Callable[[bytes], bytes | None]) -> Attack:
    """Return the attack of a source that changes the leaf index, which is signed."""

    def attack(v: Victim) -> str:
        wanted = v.wanted(HONEST)
        v.meta = lambda name: change(v.honest_meta(name) or b"") if name.startswith("leaves.") else v.honest_meta(name)
        return v.install_refusal(HONEST, leaves=wanted.leaves)

    return attack


def swapped(v: Victim) -> str:
    """Another bundle's bytes and index under this one's digest: every leaf fits, the whole does not."""
    other = bytes(reversed(HONEST))
    index = leaf_index(other)
    v.forge.blobs[sha256_hex(index)] = index
    v.leaf = lambda _blob, leaf, _data: other[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
    return v.install_refusal(HONEST, leaves=sha256_hex(index))


def _transfers() -> Iterator[Vector]:
    yield Vector("source that changes a bit of each leaf", LEAF, lying(lambda data: bytes([data[0] ^ 1]) + data[1:]))
    yield Vector("source that sends zeros", LEAF, lying(lambda data: bytes(len(data))))
    yield Vector("source that sends short leaves", LEAF, lying(lambda data: data[:-1]))
    yield Vector(
        "source that sends long leaves", LEAF, lying(lambda data: data + b"x" if len(data) < LEAF_BYTES else b"x")
    )
    yield Vector("leaf index of other bytes", "install.leaf_index", index_of(lambda data: bytes(len(data))))
    yield Vector("leaf index that is short", "install.leaf_index", index_of(lambda data: data[:-1]))
    yield Vector("leaf index that is too long", "install.network", index_of(lambda data: data + b"x"))
    yield Vector("leaf index that is gone", "install.blob_gone", index_of(lambda _data: None))
    yield Vector("another bundle under the digest of this one", "install.bundle_digest", swapped)


BUNDLES = [*_zips(), *_names(), *_manifests(), *_transfers()]
