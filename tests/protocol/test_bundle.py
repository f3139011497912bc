"""Bundles: reproducible, closed world, no flipped bit accepted."""

from __future__ import annotations

import io
import struct
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


def ended(members: bytes, directory: bytes, count: int, **said: int) -> io.BytesIO:
    """Return a zip of these parts. said: what its end record says otherwise than is true."""
    true = {
        "disk": 0,
        "cd_disk": 0,
        "here": count,
        "total": count,
        "cd_size": len(directory),
        "cd_offset": len(members),
        "comment": 0,
    }
    return io.BytesIO(members + directory + struct.pack("<4s4H2IH", b"PK\5\6", *(true | said).values()))


def parts(data: bytes) -> tuple[bytes, bytes, int]:
    """Return what `ended` puts together again."""
    *_, total, cd_size, cd_offset, _comment = struct.unpack("<4s4H2IH", data[-22:])
    return data[:cd_offset], data[cd_offset : cd_offset + cd_size], total


def test_a_damaged_member_is_found_when_it_is_read() -> None:
    data = a_bundle({"labels.txt": b"0\n"})
    at = data.index(b"0\n")
    opened = bundle.open_bundle(io.BytesIO(data[:at] + b"1" + data[at + 1 :]))
    assert opened.read("model.onnx") == b"model"
    with pytest.raises(bundle.MemberDigestError, match=r"labels\.txt"):
        opened.read("labels.txt")
    with pytest.raises(bundle.MemberDigestError, match=r"labels\.txt"):
        opened.verify_members()
    with pytest.raises(bundle.MissingMemberError, match=r"run\.sh"):
        opened.read("run.sh")
    assert bundle.open_bundle(io.BytesIO(data)).read(manifest.MANIFEST_NAME) == opened.read(manifest.MANIFEST_NAME)


def test_a_manifest_that_is_too_long_is_refused_before_it_is_read() -> None:
    class Counting(io.BytesIO):
        longest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.longest = max(self.longest, len(data))
            return data

    document = a_manifest({"model.onnx": b"m"})
    longest = document + b" " * (manifest.MAX_MANIFEST_BYTES - len(document))
    for content, limit in ((longest, None), (longest + b" ", "the limit is 1048576")):
        file = Counting(packed(("manifest.json", content), ("model.onnx", b"m")).getvalue())
        if limit is None:
            assert bundle.open_bundle(file).read("model.onnx") == b"m"
        else:
            with pytest.raises(bundle.BadZipError, match=limit):
                bundle.open_bundle(file)
            assert file.longest < 1000


def test_bytes_that_belong_to_no_member_are_refused() -> None:
    members, directory, count = parts(a_bundle())
    assert bundle.open_bundle(ended(members, directory, count)).read("model.onnx") == b"model"
    for gap in (ended(members + b"\0", directory, count), ended(members, directory + b"\0", count)):
        with pytest.raises(bundle.BadZipError, match="belong to no member"):
            bundle.open_bundle(gap)
    with pytest.raises(bundle.BadZipError):
        bundle.open_bundle(ended(members, directory, count - 1))
    with pytest.raises(bundle.BadZipError, match="directory is truncated"):
        bundle.open_bundle(ended(members, directory, count + 1))


@pytest.mark.parametrize("field", ["disk", "cd_disk", "here", "cd_size", "cd_offset", "comment"])
def test_an_end_record_that_says_what_is_not_so_is_refused(field: str) -> None:
    members, directory, count = parts(a_bundle())
    known = {"here": count, "cd_size": len(directory), "cd_offset": len(members)}
    with pytest.raises(bundle.BadZipError, match="end record is not ours"):
        bundle.open_bundle(ended(members, directory, count, **{field: known.get(field, 0) + 1}))


def test_a_bundle_of_a_manifest_alone_lacks_its_model() -> None:
    with pytest.raises(bundle.MissingMemberError, match=r"model\.onnx"):
        bundle.open_bundle(packed(("manifest.json", a_manifest({"model.onnx": b"m"}))))


def test_a_member_without_a_name_is_refused_for_its_name() -> None:
    document = a_manifest({"model.onnx": b"m"})
    with pytest.raises(bundle.BadNameError):
        bundle.open_bundle(packed(("manifest.json", document), ("model.onnx", b"m"), ("", b"")))


def test_the_longest_bundle_is_written_and_read_and_one_byte_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = a_bundle()
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(data))
    assert bundle.open_bundle(io.BytesIO(data)).read("model.onnx") == b"model"
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(data) - 1)
    with pytest.raises(bundle.BadZipError, match="is not a bundle"):
        bundle.open_bundle(io.BytesIO(data))
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(data) - 22)  # the writer counts without the end record
    assert a_bundle() == data
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(data) - 23)
    with pytest.raises(bundle.BundleError, match="at most"):
        a_bundle()


@pytest.mark.parametrize(("count", "is_allowed"), [(0, False), (64, True), (65, False)])
def test_a_bundle_has_1_to_64_members(count: int, *, is_allowed: bool) -> None:
    files = {"model.onnx": b"m"} | {f"x{number:02}": b"" for number in range(max(0, count - 2))}
    all_files = [("manifest.json", a_manifest(files)), *sorted(files.items())][:count]
    if is_allowed:
        assert len(bundle.open_bundle(packed(*all_files)).names()) == count
    else:
        with pytest.raises(bundle.BadZipError, match="1 to 64 members"):
            bundle.open_bundle(packed(*all_files))


def test_manifest_must_name_its_model() -> None:
    with pytest.raises(manifest.ManifestError, match=r"model\.onnx"):
        bundle.write_bundle({"labels.txt": b"x"}, MANIFEST)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(EdgefleetError):
        bundle.open_bundle(io.BytesIO(data))
