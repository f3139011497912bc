"""Bundles: reproducible, closed world, no flipped bit accepted."""

from __future__ import annotations

import io
import zipfile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol import bundle, manifest
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from tests.support.samples import MANIFEST

names = st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True).filter(lambda n: n != manifest.MANIFEST_NAME)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=5)


def a_bundle(members: dict[str, bytes] | None = None) -> bytes:
    return bundle.write_bundle({"model.onnx": b"model", **(members or {})}, MANIFEST)


@given(contents)
def test_round_trip_and_standard_zip(members: dict[str, bytes]) -> None:
    members = {**members, "model.onnx": b"m"}
    data = bundle.write_bundle(members, MANIFEST)
    opened = bundle.open_bundle(io.BytesIO(data))
    opened.verify_members()
    assert {name: opened.read(name) for name in members} == members
    assert bundle.write_bundle(dict(reversed(members.items())), MANIFEST) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}


def test_no_flipped_bit_is_accepted() -> None:
    data = a_bundle({"labels.txt": b"0\n"})
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(EdgefleetError):
                bundle.open_bundle(io.BytesIO(bytes(flipped))).verify_members()


def test_no_truncation_or_appended_byte_is_accepted() -> None:
    data = a_bundle()
    for length in range(len(data)):
        with pytest.raises(bundle.BundleError):
            bundle.open_bundle(io.BytesIO(data[:length]))
    for extra in (data + b"\0", b"\0" + data):
        with pytest.raises(bundle.BadZipError):
            bundle.open_bundle(io.BytesIO(extra))


def packed(*files: tuple[str, bytes]) -> io.BytesIO:
    return io.BytesIO(bundle.pack_members(list(files)))


def a_manifest(members: dict[str, bytes]) -> bytes:
    listed = {n: manifest.Member(length=len(d), sha256=sha256_hex(d)) for n, d in members.items()}
    return manifest.encode_manifest(msgspec.structs.replace(MANIFEST, members=listed))


def test_a_member_that_is_not_listed_is_refused() -> None:
    document = a_manifest({"model.onnx": b"m"})
    with pytest.raises(bundle.ExtraMemberError, match=r"run\.sh"):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m"), ("run.sh", b"x")))


def test_a_listed_member_that_is_missing_is_refused() -> None:
    document = a_manifest({"model.onnx": b"m", "labels.txt": b"0"})
    with pytest.raises(bundle.MissingMemberError, match=r"labels\.txt"):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m")))


def test_a_name_used_twice_is_refused() -> None:
    document = a_manifest({"model.onnx": b"m"})
    with pytest.raises(bundle.BadNameError, match="twice"):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m"), ("model.onnx", b"m")))


def test_a_member_of_another_length_is_refused() -> None:
    document = a_manifest({"model.onnx": b"m"})
    with pytest.raises(bundle.MemberDigestError):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"mm")))


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "x" * 65, "ü"])
def test_a_bad_name_is_never_written(name: str) -> None:
    with pytest.raises(bundle.BadNameError):
        bundle.write_bundle({"model.onnx": b"m", name: b"x"}, MANIFEST)


def test_a_path_in_a_name_is_never_read() -> None:
    document = a_manifest({"model.onnx": b"m"})
    with pytest.raises(bundle.BadNameError):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m"), ("../etc", b"x")))


def test_another_order_of_members_is_refused() -> None:
    document = a_manifest({"model.onnx": b"m", "labels.txt": b"0"})
    with pytest.raises(bundle.BadZipError, match="order"):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m"), ("labels.txt", b"0")))


def test_a_compressed_zip_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", a_manifest({"model.onnx": b"m" * 100}))
        archive.writestr("model.onnx", b"m" * 100)
    with pytest.raises(bundle.BadZipError):
        bundle.open_bundle(buffer)


def test_manifest_must_name_its_model() -> None:
    with pytest.raises(manifest.ManifestError, match=r"model\.onnx"):
        bundle.write_bundle({"labels.txt": b"x"}, MANIFEST)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(EdgefleetError):
        bundle.open_bundle(io.BytesIO(data))
