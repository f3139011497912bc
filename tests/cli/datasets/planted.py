"""Releases, records and what is read back of a data set, for its tests."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from edgefleet_cli.datasets.bundle_facts import facts_of
from edgefleet_cli.datasets.model import Record, ReleaseFacts
from edgefleet_protocol.bundle import open_bundle, write_bundle
from edgefleet_protocol.manifest import Manifest, Recipe, TensorSpec
from edgefleet_runtime import privacy
from edgefleet_runtime.preprocess import Preprocess

SHA256 = "5" * 64
LABELS = ("zero", "one", "two")
IMAGE: dict[str, Any] = {
    "name": "image",
    "from": "image",
    "steps": [
        {"op": "decode", "mode": "grayscale"},
        {"op": "scale", "factor": 1 / 255},
        {"op": "layout", "to": "NCHW"},
    ],
}
IMAGE_SPEC = TensorSpec(name="image", dtype="float32", shape=[1, 1, 8, 8], layout="NCHW")
TABLE: dict[str, Any] = {"name": "x", "from": "columns", "columns": ["age", "badge", "dose"]}
TABLE_SPEC = TensorSpec(name="x", dtype="float32", shape=["rows", 3])


def bundle(
    policy: Mapping[str, Any] | None,
    *,
    inputs: Sequence[TensorSpec] = (IMAGE_SPEC,),
    recipes: Sequence[Mapping[str, Any]] = (IMAGE,),
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", dtype="float32", shape=[1, 3]),),
    postprocess: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the bytes of a bundle that says this."""
    members = {
        "model.onnx": b"model",
        "labels.txt": "\n".join(LABELS).encode(),
        "preprocess.json": json.dumps({"v": 1, "inputs": list(recipes)}).encode(),
    }
    members |= {} if policy is None else {"privacy.json": json.dumps(policy).encode()}
    members |= {} if postprocess is None else {"postprocess.json": json.dumps(postprocess).encode()}
    manifest = Manifest(
        model="digits", version="1.0.0", profile="amd64-cpu", runtime="ort", model_member="model.onnx", precision="fp32", format="onnx",
        inputs=list(inputs), outputs=list(outputs), runtimes=[], tolerances={}, source_sha256="0" * 64,
        recipe=Recipe(sha256="0" * 64, steps={}), operators={},
    )  # fmt: skip
    return write_bundle(members, manifest)


def facts(policy: Mapping[str, Any] | None, **given: Any) -> ReleaseFacts:
    """Return what such a bundle says."""
    return facts_of(open_bundle(io.BytesIO(bundle(policy, **given))), SHA256)


def as_packed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as they come out of a record."""
    unpacked: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(fields))
    return unpacked


def captured(
    said: ReleaseFacts, policy: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, Any]:
    """Return the fields that a device would capture."""
    declared = msgspec.convert({"inputs": list(said.recipes.values())}, Preprocess)
    kept, _ = privacy.apply(
        privacy.parse_privacy(json.dumps(policy).encode()), declared, list(said.inputs.values()), arrays, b"salt" * 8
    )
    return as_packed(kept)


def record(said: ReleaseFacts, fields: Mapping[str, Any], number: int = 1, **changed: Any) -> Record:
    """Return an opened record."""
    given: dict[str, Any] = {
        "id": f"{number:016x}", "device": "line-1", "trace_id": f"t{number}", "reason": "drift", "seen": 3, "answer": 1,
        "taken_at": "2026-12-01T12:00:00Z", "outputs": {},
    }  # fmt: skip
    return Record(**{**given, **changed}, fields=fields, facts=said)


def image_record(number: int, policy: Mapping[str, Any], **changed: Any) -> tuple[Record, np.ndarray[Any, Any]]:
    """Return a record of a picture and the picture, 8 × 8 bytes."""
    said = facts(policy)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    value = (pixels.astype(np.float32) * np.float32(1 / 255)).reshape(1, 1, 8, 8)
    return record(said, captured(said, policy, {"image": value}), number, **changed), pixels


def everything(folder: Path) -> bytes:
    """Return all bytes below a folder, and what is compressed in them also as it was before."""
    found = b""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found += path.relative_to(folder).as_posix().encode() + b"\0" + data
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                found += b"".join(name.encode() + archive.read(name) for name in archive.namelist())
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            found += repr(table.schema).encode() + repr(table.to_pylist()).encode()
            for line in table.to_pylist():
                found += b"".join(one["data"] for one in line.values() if isinstance(one, dict))
        elif path.suffix == ".png":
            at = data.index(b"IDAT")
            found += zlib.decompress(data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")])
    return found
