"""Hardware profile: what a board can take, as facts that gates read (ADR 0018). Pure.

Every key is read by a gate (`docs/reference/profiles.md` says by which), except those of `INFORMATION_ONLY`, which are
shown to people and change nothing. `evidence` says for each stated fact whether it was measured, stated by a vendor, or guessed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_profile_name

INFORMATION_ONLY: Final = ("v", "title", "backend.version")
"""Keys that nothing reads."""

RETIRED: Final = ("board", "custom_ops")
"""Keys of older files that no gate ever read; a file that still has them is read as if they were not there."""

TFLITE_RUNTIMES: Final = ("litert", "tflite", "tflm")
"""Runtimes that take TFLite files: LiteRT, tflite-runtime, TFLite Micro."""

COMPARE: Final = "compare with `edgectl profile show --shipped generic-x86_64-ort -o yaml`"

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number that JSON carries exactly."""
Dtype = Literal[
    "float16", "float32", "float64", "int4", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool", "string", "resource",
]  # fmt: skip
Runtime = Literal["ort", "litert", "tflite", "tflm", "rknn", "hailort"]
GlibcVersion = Annotated[str, Meta(pattern=r"^([0-9]+\.[0-9]+)?$")]
PythonRange = Annotated[str, Meta(pattern=r"^(((>=|<=|==|!=|<|>)[0-9]+(\.[0-9]+)*)(,(?=[<>=!])|$))*$")]

_MANYLINUX = re.compile(r"manylinux_([0-9]+)_([0-9]+)_([a-z0-9_]+)")


class ProfileError(EdgefleetError):
    """A profile file is not one, or contradicts itself. key: dotted path of the key that is wrong, "" when it is none."""

    code = "profile.bad"

    def __init__(self, message: str, *, next_step: str = "", key: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.key = key


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices the profile fits. Empty strings and lists match all; more given keys = more specific."""

    arch: str = ""
    board: str = ""
    min_ram_mb: Count = 0
    runtimes: list[str] = []


class ProfileRuntime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A runtime the board is deployed with. `version` is the one every bundle is proved on; `wheel_tag` is that of its wheel."""

    name: Runtime
    version: str
    wheel_tag: str = ""


class Backend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What turns a model into what the board's accelerator runs, and whether edgefleet can.

    kind: `builtin` = edgefleet itself, `plugin` = a tool that a conversion server could run, `external` = a tool of the vendor
    that the user runs. mode: `serve` = the bundle is what runs; `prepare` = the bundle holds a model that keeps the
    accelerator's rules, proved on the CPU and not compiled; `refuse` = no bundle is made. reason, next_step: why and what to
    do, for `prepare` and `refuse`. mapped_operators: TFLite operators that the compiler is asked to place on the accelerator,
    on tensors of `mapped_dtypes` (empty = all). partition: `prefix` = all behind the first other operator stays on the CPU;
    `each` = every listed operator is placed.
    """

    kind: Literal["builtin", "plugin", "external"] = "builtin"
    name: str = ""
    version: str = ""
    mode: Literal["serve", "prepare", "refuse"] = "serve"
    reason: str = ""
    next_step: str = ""
    partition: Literal["prefix", "each"] = "prefix"
    mapped_operators: list[str] = []
    mapped_dtypes: list[Dtype] = []


class QuantRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What quantization the board needs or prefers.

    mode `required` = only int8 models, whose weighted operators have activations of `act_dtype` and weights of
    `weight_dtype`. per_channel: whether weights may have a scale a channel. io_dtype: of inputs and outputs. batch_fixed: the
    first dimension of every input is 1. dynamic_shapes: whether inputs may have open dimensions.
    """

    mode: Literal["allowed", "required", "forbidden"] = "allowed"
    act_dtype: Literal["uint8", "int8"] = "uint8"
    weight_dtype: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    io_dtype: Literal["float32", "int8", "uint8", "any"] = "any"
    batch_fixed: bool = False
    dynamic_shapes: bool = True


class OperatorLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Highest version of a TFLite operator that the board's runtime knows (None = any), and the dtypes it takes (empty = all)."""

    max_version: Count | None = None
    dtypes: list[Dtype] = []


class Thermal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of its cold speed the board keeps under load, 0 … 1."""

    sustained_factor: Annotated[float, Meta(ge=0, le=1)] = 1.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a fact comes from. covers: further keys that the same evidence stands for.

    measured needs `measured_on` and `date`; vendor needs `document`, what was read; guess needs a `note`.
    """

    kind: Literal["measured", "vendor", "guess"]
    measured_on: str = ""
    date: Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")] = ""
    document: str = ""
    note: str = ""
    covers: list[str] = []


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board with one runtime. Sizes are in the unit their name ends with; 0 and empty mean no limit.

    ram_mb, storage_mb: of the smallest variant; storage_mb is what models may take, in both slots together.
    free_ram_budget_mb: for one worker with one model. operator_set: name of a list of TFLite operators that edgefleet ships;
    tflite_op_allowlist: a list of the file's own, which wins. tensor_dtypes, rank_max: of all tensors that flow through the
    model; leading dimensions of 1 do not count. delegates: TFLite delegates or execution providers of the board, a hint that
    bundles carry. max_arena_bytes: of TFLite Micro. threads: of one inference.
    """

    v: Literal[1] = 1
    name: str
    title: str
    arch: Literal["x86_64", "aarch64", "armv7l", "cortex-m", "xtensa"]
    runtime: ProfileRuntime
    also_verified_on: list[ProfileRuntime] = []
    match: Match
    formats_allowed: list[Literal["onnx", "ort", "tflite"]]
    cpu: str = ""
    features: list[str] = []
    ram_mb: Count = 0
    free_ram_budget_mb: Count = 0
    storage_mb: Count = 0
    glibc_min: GlibcVersion = ""
    python: PythonRange = ""
    delegates: list[str] = []
    backend: Backend = Backend()
    opset_max: Count = 0
    ir_max: Count = 0
    operator_set: str = ""
    tflite_op_allowlist: dict[str, OperatorLimit] = {}
    tensor_dtypes: list[Dtype] = []
    rank_max: Count = 0
    quant: QuantRules = QuantRules()
    max_model_bytes: Count = 0
    max_arena_bytes: Count = 0
    threads: Annotated[int, Meta(ge=1)] = 1
    thermal: Thermal = Thermal()
    evidence: dict[str, Evidence] = {}


def same_version(wanted: str, here: str) -> bool:
    """Return whether version `here` is the wanted one: `1.32` means any 1.32.x."""
    return here == wanted or here.startswith(wanted + ".")


def profile_from_dict(data: Any, *, is_stored: bool = False) -> HardwareProfile:
    """Return the profile in a parsed YAML or JSON document. Raises ProfileError naming the key that is wrong.

    is_stored: it was accepted before, so keys that contradict each other by a newer rule are let through.
    """
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in RETIRED}
    try:
        profile = msgspec.convert(data, HardwareProfile, strict=True)
    except msgspec.ValidationError as error:
        raise ProfileError(f"hardware profile: {error}", next_step=COMPARE, key=_key_in(str(error))) from error
    try:
        parse_profile_name(profile.name)
    except EdgefleetError as error:
        raise ProfileError(f"hardware profile: {error.message}", next_step=error.next_step, key="name") from error
    for key, wrong, cure in () if is_stored else _contradictions(profile):
        raise ProfileError(f"hardware profile: {key} {wrong}", next_step=cure, key=key)
    return profile


def profile_to_dict(profile: HardwareProfile) -> dict[str, Any]:
    """Return the profile as plain data, equal to what `profile_from_dict` takes."""
    data: dict[str, Any] = msgspec.to_builtins(profile)
    return data


def profile_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a profile file."""
    schema = msgspec.json.schema(HardwareProfile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgefleet hardware profile", **schema}


def _key_in(text: str) -> str:
    """Return the dotted key of a msgspec message: `… - at `$.quant.mode``, ``… unknown field `x` - at `$.quant```."""
    at = re.search(r"at `\$\.?([^`]*)`", text)
    path = re.sub(r"\[\.\.\.\]", "", at[1]) if at else ""
    field = re.search(r"(?:unknown|required) field `([^`]+)`", text)
    return ".".join(part for part in (path, field[1] if field else "") if part)


def _contradictions(profile: HardwareProfile) -> list[tuple[str, str, str]]:
    """Return (key, what is wrong, cure) for each pair of keys that cannot both be true, most telling first."""
    return [*_of_runtime(profile), *_of_memory(profile), *_of_wheel(profile), *_of_backend(profile)]


def _of_runtime(profile: HardwareProfile) -> list[tuple[str, str, str]]:
    found = []
    runtime = profile.runtime.name
    takes_tflite = runtime in TFLITE_RUNTIMES
    wrong = [name for name in profile.formats_allowed if (name == "tflite") != takes_tflite]
    if not profile.formats_allowed or (wrong and profile.backend.mode != "refuse"):
        known = "tflite" if takes_tflite else "onnx or ort"
        found.append(("formats_allowed", f"must be {known} for the runtime {runtime}", "correct one of the two"))
    tflite_keys = {
        "operator_set": profile.operator_set, "tflite_op_allowlist": profile.tflite_op_allowlist,
        "backend.mapped_operators": profile.backend.mapped_operators,
    }  # fmt: skip
    for key, value in tflite_keys.items():
        if value and not takes_tflite:
            found.append((key, f"is about TFLite operators, and the runtime is {runtime}", "remove the key"))
    for key, limit in (("opset_max", profile.opset_max), ("ir_max", profile.ir_max)):
        if limit and takes_tflite:
            found.append((key, f"is about ONNX, and the runtime is {runtime}", "remove the key"))
    strange = [name for name in profile.delegates if runtime == "ort" and not name.endswith("ExecutionProvider")]
    if strange:
        found.append(("delegates", f"names {strange[0]!r}, which is no execution provider", "write its whole name"))
    if profile.max_arena_bytes and runtime != "tflm":
        found.append(("max_arena_bytes", f"is about TFLite Micro, and the runtime is {runtime}", "remove the key"))
    return found


def _of_memory(profile: HardwareProfile) -> list[tuple[str, str, str]]:
    found = []
    for key, value in (
        ("free_ram_budget_mb", profile.free_ram_budget_mb),
        ("match.min_ram_mb", profile.match.min_ram_mb),
    ):
        if profile.ram_mb and value > profile.ram_mb:
            found.append((key, f"is {value}, more than the {profile.ram_mb} MB of ram_mb", "lower it, or raise ram_mb"))
    if profile.storage_mb and profile.max_model_bytes > profile.storage_mb * 1024 * 1024:
        found.append(("max_model_bytes", "is more than storage_mb", "lower it, or raise storage_mb"))
    return found


def _of_wheel(profile: HardwareProfile) -> list[tuple[str, str, str]]:
    """A wheel tag `manylinux_X_Y_ARCH` needs glibc X.Y on ARCH (PEP 600)."""
    tag = _MANYLINUX.fullmatch(profile.runtime.wheel_tag)
    if tag is None:
        wrong = bool(profile.runtime.wheel_tag)
        return (
            [("runtime.wheel_tag", "is no manylinux_X_Y_ARCH tag", "take the tag from the wheel's name")]
            if wrong
            else []
        )
    found = []
    if tag[3] != profile.arch:
        found.append(("runtime.wheel_tag", f"is for {tag[3]}, and arch is {profile.arch}", "correct one of the two"))
    if not profile.glibc_min or version_of(profile.glibc_min) < (int(tag[1]), int(tag[2])):
        said = profile.glibc_min or "nothing"
        found.append(("glibc_min", f"says {said}, and the wheel needs glibc {tag[1]}.{tag[2]}", "raise glibc_min"))
    return found


def _of_backend(profile: HardwareProfile) -> list[tuple[str, str, str]]:
    backend, found = profile.backend, []
    if backend.mode != "serve" and not (backend.name and backend.reason and backend.next_step):
        found.append(("backend.mode", f"is {backend.mode}, which needs name, reason and next_step", "write them"))
    if backend.mode != "serve" and backend.kind == "builtin":
        found.append(("backend.kind", f"is builtin, and backend.mode is {backend.mode}", "name the outside compiler"))
    if profile.runtime.name in ("rknn", "hailort") and backend.mode != "refuse":
        found.append(("backend.mode", f"must be refuse: {profile.runtime.name} cannot be run here", "write refuse"))
    return found


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a dotted version, `2.36` -> (2, 36); what is not a number ends it."""
    numbers = []
    for part in text.split("."):
        digits = re.match(r"[0-9]+", part)
        if digits is None:
            break
        numbers.append(int(digits[0]))
    return tuple(numbers)
