"""Hardware profile: what a board can take, as facts that gates read (`converters.md` §E).

`evidence` says for each fact group whether it was measured, told by the vendor, or guessed. No gate reads these keys yet: `ram_mb`,
`storage_mb`, `glibc_min`, `python`, `delegates`, `max_arena_bytes`, `custom_ops`, `thermal`, `wheel_tag`, `weight_dtype`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_profile_name


class ProfileError(EdgefleetError):
    """A profile file is not one, or contradicts itself."""

    code = "profile.bad"


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices the profile fits. Empty strings and lists match all; more given keys = more specific."""

    arch: str = ""
    board: str = ""
    min_ram_mb: int = 0
    runtimes: list[str] = []


class ProfileRuntime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A runtime the board is deployed with. `version` is the one every bundle is proved on."""

    name: Literal["ort", "litert", "tflite"]
    version: str
    wheel_tag: str = ""


class QuantRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What quantization the board needs or prefers."""

    mode: Literal["allowed", "required", "forbidden"] = "allowed"
    act_dtype: Literal["uint8", "int8"] = "uint8"
    weight_dtype: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    io_dtype: Literal["float32", "int8", "uint8", "any"] = "any"
    batch_fixed: bool = False
    dynamic_shapes: bool = True


class OperatorLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Highest version of a TFLite operator that the board's runtime knows, and the dtypes it takes (empty = all)."""

    max_version: int
    dtypes: list[str] = []


class Thermal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of its cold speed the board keeps under load, 0 … 1."""

    sustained_factor: float = 1.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a fact comes from."""

    kind: Literal["measured", "vendor", "guess"]
    measured_on: str = ""
    date: str = ""
    note: str = ""


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board with one runtime. Sizes are in the unit their name ends with; 0 means no limit."""

    v: Literal[1] = 1
    name: str
    title: str
    arch: Literal["x86_64", "aarch64", "armv7l"]
    runtime: ProfileRuntime
    also_verified_on: list[ProfileRuntime] = []
    match: Match
    formats_allowed: list[Literal["onnx", "ort", "tflite"]]
    board: str = ""
    cpu: str = ""
    features: list[str] = []
    ram_mb: int = 0
    free_ram_budget_mb: int = 0
    storage_mb: int = 0
    glibc_min: str = ""
    python: str = ""
    delegates: list[str] = []
    opset_max: int = 0
    ir_max: int = 0
    tflite_op_allowlist: dict[str, OperatorLimit] = {}
    custom_ops: bool = False
    quant: QuantRules = QuantRules()
    max_model_bytes: int = 0
    max_arena_bytes: int = 0
    threads: int = 1
    thermal: Thermal = Thermal()
    evidence: dict[str, Evidence] = {}


def profile_from_dict(data: Any) -> HardwareProfile:
    """Return the profile in a parsed YAML or JSON document. Raises ProfileError naming the key that is wrong."""
    try:
        profile = msgspec.convert(data, HardwareProfile, strict=True)
        parse_profile_name(profile.name)
    except msgspec.ValidationError as error:
        raise ProfileError(
            f"hardware profile: {error}", next_step="compare with `edgectl profile show generic-x86_64-ort -o yaml`"
        ) from error
    except EdgefleetError as error:
        raise ProfileError(f"hardware profile: {error.message}") from error
    return profile


def profile_to_dict(profile: HardwareProfile) -> dict[str, Any]:
    """Return the profile as plain data, equal to what `profile_from_dict` takes."""
    data: dict[str, Any] = msgspec.to_builtins(profile)
    return data
