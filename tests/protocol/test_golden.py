"""Messages are read and written as their golden files say, and those of 0.1.0 are still read.

`v1` has every message as it is written now. `0.1.0` has those that have got fields at their end since, as 0.1.0 wrote them.
"""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from edgefleet_protocol import blocks, bundle, desired, envelope, manifest, messages
from edgefleet_protocol.errors import BadMessageError
from tests.support import samples

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
BEFORE = GOLDEN.with_name("0.1.0")


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_message_equals_its_golden_file(name: str) -> None:
    sample = samples.MESSAGES[name]
    stored = (GOLDEN / f"{name}.msgpack").read_bytes()
    assert messages.encode(sample) == stored
    assert messages.decode(type(sample), stored) == sample


@pytest.mark.parametrize("name", sorted(path.stem for path in BEFORE.iterdir()))
def test_a_message_of_0_1_0_says_what_it_said(name: str) -> None:
    said = {"presence": msgspec.structs.replace(samples.PRESENCE, cert="")}.get(name, samples.MESSAGES[name])
    stored = (BEFORE / f"{name}.msgpack").read_bytes()
    assert messages.encode(said) != stored, "this one is written as it was: it needs no second file"
    assert messages.decode(type(said), stored) == said


@pytest.mark.parametrize("name", sorted(samples.DOCUMENTS))
def test_document_equals_its_golden_file(name: str) -> None:
    assert samples.DOCUMENTS[name] == (GOLDEN / name).read_bytes()


def test_documents_decode_to_their_samples() -> None:
    assert desired.decode_desired((GOLDEN / "desired.json").read_bytes()) == samples.DESIRED
    assert desired.decode_desired((GOLDEN / "desired_spread.json").read_bytes()) == samples.SPREAD
    assert desired.decode_hold((GOLDEN / "hold.json").read_bytes()) == samples.HOLD
    assert envelope.parse_envelope((GOLDEN / "envelope.json").read_bytes()) == samples.ENVELOPE
    assert manifest.decode_manifest((GOLDEN / "manifest.json").read_bytes()) == samples.MANIFEST
    assert blocks.decode_request((GOLDEN / "block_request.bin").read_bytes()) == samples.BLOCK_REQUEST
    assert blocks.decode_data((GOLDEN / "block_data.bin").read_bytes()) == samples.BLOCK_DATA
    assert blocks.decode_data((GOLDEN / "block_error.bin").read_bytes()) == samples.BLOCK_ERROR


def test_bundle_equals_its_golden_file() -> None:
    stored = (GOLDEN / "digits.bundle").read_bytes()
    assert bundle.write_bundle({"model.onnx": b"model", "labels.txt": b"0\n1\n"}, samples.MANIFEST) == stored
    opened = bundle.open_bundle(io.BytesIO(stored))
    opened.verify_members()
    assert opened.read("labels.txt") == b"0\n1\n"


def test_every_golden_file_has_a_sample() -> None:
    known = {f"{name}.msgpack" for name in samples.MESSAGES} | set(samples.DOCUMENTS) | {"digits.bundle"}
    assert {path.name for path in GOLDEN.iterdir()} == known


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_a_reader_fills_missing_and_ignores_new_fields_at_the_end(name: str) -> None:
    sample = samples.MESSAGES[name]
    fields = msgspec.msgpack.decode(messages.encode(sample))
    assert messages.decode(type(sample), msgspec.msgpack.encode([*fields, "from the future"])) == sample


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_another_version_is_refused(name: str) -> None:
    sample = samples.MESSAGES[name]
    fields = msgspec.msgpack.decode(messages.encode(sample))
    with pytest.raises(BadMessageError, match="version 2"):
        messages.decode(type(sample), msgspec.msgpack.encode([2, *fields[1:]]))
