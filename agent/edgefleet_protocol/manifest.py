"""Bundle manifest v1, of sealed bundles v2: what is in a bundle, what it was proved on, how to check it (docs/protocol/manifest.md).

The manifest is a closed world: a member that it does not list, or that differs in length or digest, makes the bundle invalid.
It holds only facts that are the same on every run, so that the same source, profile, recipe and seed give the same bytes.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_model_name, parse_profile_name, parse_version

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
"""Of a sealed model (`sealed_model`), before it is sealed; each chunk grows by TAG_BYTES."""
TAG_BYTES = 16


class ManifestError(EdgefleetError):
    """The manifest is not one, or contradicts itself."""

    code = "bundle.manifest"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Length in bytes and sha256 of one file in the bundle."""

    length: int
    sha256: str


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """Affine quantization of a tensor at the model's edge: real = scale × (stored - zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output, in the source model's order. `dtype` is numpy's name; a dimension is a number, or a name when free."""

    name: str
    dtype: str
    shape: list[int | str]
    layout: str = ""
    quantization: Quantization | None = None


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an output may be from its golden value: |a - b| <= atol + rtol·|b|, or only the same arg-max (`top1`)."""

    atol: float = 0.0
    rtol: float = 0.0
    top1: bool = False


class RuntimeProof(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime and version in which this very bundle's model was run and passed its gate."""

    name: str
    version: str


class OperatorSet(msgspec.Struct, frozen=True, kw_only=True):
    """Operators that a runtime must have to run the model: names of one domain in one version.

    ONNX: a line `domain;version;operators` of onnxruntime's `required_operators.config`, version = of the imported operator set.
    TFLite: domain `tflite`, version = of the operators.
    """

    domain: str
    version: int
    operators: list[str]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to the model, as data that `--recipe` takes again, and its digest."""

    sha256: str
    steps: dict[str, Any]


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the bundle, None where nothing is declared. The device checks `peak_memory_bytes` before it starts a trial, and both
    against the golden test in the worker (`edgefleet_agent.install.probation.trial.over_declared`).
    """

    latency_p95_ms: float | None = None
    peak_memory_bytes: int | None = None


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """That the model member is sealed (`sealed_model`). length: of the model in bytes; key: id of its key."""

    length: int
    key: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one bundle. `runtime` is the profile's runtime word (ort, litert, tflite); `model_member` names the model file.

    execution_providers: onnxruntime's, as the board has them, the preferred first: a hint for those who run the model otherwise
    than the agent, which uses the CPU.
    """

    v: Literal[1, 2] = 1
    model: str
    version: str
    profile: str
    runtime: str
    model_member: str
    precision: str
    format: Literal["onnx", "ort", "tflite"]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    runtimes: list[RuntimeProof]
    tolerances: dict[str, Tolerance]
    source_sha256: str
    recipe: Recipe
    operators: dict[str, int]
    opset: int | None = None
    required_operators: list[OperatorSet] | UnsetType = UNSET
    execution_providers: list[str] | UnsetType = UNSET
    report: dict[str, Any] = {}
    declared: Declared = Declared()
    sec_version: int = 0
    licence: str = ""
    members: dict[str, Member] = {}
    sealed: Sealed | UnsetType = UNSET


RANDOM_DATA: Final = "random input only"
"""`parity_on` of a manifest's report, and `data` of its metric, where nothing but random input judged it: it runs, no more is known."""

_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the JSON bytes of a manifest: sorted keys, one line."""
    return _ENCODER.encode(manifest) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`, checked for consistency. Raises ManifestError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"manifest has {len(data)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    try:
        manifest = _DECODER.decode(data)
        parse_model_name(manifest.model)
        parse_version(manifest.version)
        parse_profile_name(manifest.profile)
        for member in manifest.members.values():
            parse_sha256(member.sha256)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {error}") from error
    except EdgefleetError as error:
        raise ManifestError(f"manifest: {error.message}") from error
    if manifest.model_member not in manifest.members:
        raise ManifestError(f"manifest names model {manifest.model_member!r}, which is not among its members")
    if any(member.length < 0 for member in manifest.members.values()):
        raise ManifestError("manifest has a member of negative length")
    if (manifest.v == 2) != bool(manifest.sealed) or not _fits(manifest):
        raise ManifestError("manifest contradicts itself about whether, or how, its model is sealed")
    return manifest


def _fits(manifest: Manifest) -> bool:
    if not manifest.sealed:
        return True
    chunks = -(-manifest.sealed.length // CHUNK_BYTES)
    grown = manifest.sealed.length + chunks * TAG_BYTES
    return chunks > 0 and manifest.members[manifest.model_member].length == grown
