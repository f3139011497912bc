"""Does a source fit a profile's runtime at all? Pure checks that refuse early, naming the node, the key and the cure.

This file looks at the file as a whole and at its edge; `operators` looks at the nodes.
"""

from typing import Literal

from edgefleet_converters.errors import (
    BackendMissingError,
    BatchNotFixedError,
    DynamicShapeError,
    FormatNotAllowedError,
    OpsetTooNewError,
    PrecisionError,
)
from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.manifest import TensorSpec


def check_format(profile: HardwareProfile, source_format: str) -> None:
    """Raise when the profile's runtime cannot take a source of this format (`onnx` or `tflite`).

    An ONNX source is compiled for a profile that takes TFLite.
    """
    if source_format in profile.formats_allowed or compiles(profile, source_format):
        return
    raise FormatNotAllowedError(
        f"profile {profile.name} takes {', '.join(_source_formats(profile))} models (formats_allowed), not {source_format}",
        next_step=f"publish the model as {_source_formats(profile)[0]}, or choose another profile",
    )


def _source_formats(profile: HardwareProfile) -> list[str]:
    """Return the formats in which a model can be given; `ort` is one that is made here."""
    return [name for name in profile.formats_allowed if name != "ort"] or ["onnx"]


def check_backend(profile: HardwareProfile) -> None:
    """Raise BackendMissingError when the board runs only what a compiler outside of edgefleet makes (`backend.mode`)."""
    backend = profile.backend
    if backend.mode == "refuse":
        raise BackendMissingError(
            f"profile {profile.name} needs {backend.name} (backend.kind: {backend.kind}, backend.mode: refuse): "
            f"{backend.reason}",
            next_step=backend.next_step,
        )


def compiles(profile: HardwareProfile, source_format: str) -> bool:
    """Say whether a source of this format is compiled to TFLite for the profile."""
    takes = profile.formats_allowed
    return source_format == "onnx" and "onnx" not in takes and "tflite" in takes


def oldest_runtime(profile: HardwareProfile) -> str:
    """Return the runtime that a file must suit to run on all that the profile names: 2.14 of tflite-runtime before LiteRT."""
    names = {profile.runtime.name, *(runtime.name for runtime in profile.also_verified_on)}
    return "tflite" if "tflite" in names else "litert"


def check_versions(profile: HardwareProfile, opset: int, ir: int) -> None:
    """Raise OpsetTooNewError when opset or IR version is beyond what the profile's runtime reads."""
    if profile.opset_max and opset > profile.opset_max:
        raise OpsetTooNewError(
            f"the model uses opset {opset}, profile {profile.name} reads up to {profile.opset_max} (opset_max)",
            next_step=f"export the model with opset {profile.opset_max} or lower",
        )
    if profile.ir_max and ir > profile.ir_max:
        raise OpsetTooNewError(
            f"the model has IR version {ir}, profile {profile.name} reads up to {profile.ir_max} (ir_max)",
            next_step="export the model with an older onnx package",
        )


def check_shapes(profile: HardwareProfile, inputs: tuple[TensorSpec, ...]) -> None:
    """Raise DynamicShapeError for an open dimension where the profile needs fixed ones, BatchNotFixedError for a batch."""
    for spec in inputs:
        open_dims = [dim for dim in spec.shape if isinstance(dim, str)]
        if open_dims and not profile.quant.dynamic_shapes:
            raise DynamicShapeError(
                f"input {spec.name!r} has the open dimension {open_dims[0]!r}, profile {profile.name} needs fixed shapes "
                "(quant.dynamic_shapes)",
                next_step=f"give sample data with --eval, or its shape as in --shape {spec.name}=1,3,224,224",
            )
        if profile.quant.batch_fixed and len(spec.shape) > 1 and spec.shape[0] != 1:
            raise BatchNotFixedError(
                f"input {spec.name!r} takes {spec.shape[0]!r} samples at once, profile {profile.name} takes one "
                "(quant.batch_fixed)",
                next_step="export the model with a batch of 1, or give the shape with --shape",
            )


def edge_dtype(profile: HardwareProfile) -> Literal["float32", "int8", "uint8"]:
    """Return the type that a model compiled for the profile has at its edge where the source has float32.

    What `quant.io_dtype` says; with `any`, the activations' type where the board has no float32 (`tensor_dtypes`).
    """
    rules = profile.quant
    if rules.io_dtype != "any":
        return rules.io_dtype
    whole = rules.mode == "required" and profile.tensor_dtypes and "float32" not in profile.tensor_dtypes
    return rules.act_dtype if whole else "float32"


def check_io_types(
    profile: HardwareProfile,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    is_compiled: bool = False,
) -> None:
    """Raise FormatNotAllowedError when a tensor at the model's edge has not the type that the profile asks for.

    is_compiled: the model is not yet what will be shipped; its float32 tensors can become what the profile asks for.
    """
    wanted = profile.quant.io_dtype
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if is_compiled and spec.dtype == "float32":
                continue
            if wanted not in ("any", spec.dtype):
                raise FormatNotAllowedError(
                    f"{kind} {spec.name!r} is {spec.dtype}, profile {profile.name} needs {wanted} (quant.io_dtype)",
                    next_step=f"export the model with {wanted} inputs and outputs, or choose another profile",
                )


def check_precision_rule(profile: HardwareProfile, precision: str) -> None:
    """Raise PrecisionError when the asked precision contradicts the profile's `quant.mode`."""
    if profile.quant.mode == "forbidden" and precision not in ("fp32", "fp16"):
        raise PrecisionError(
            f"profile {profile.name} forbids quantised models (quant.mode)", next_step="use --precision fp32 or fp16"
        )
    if profile.quant.mode == "required" and precision != "int8":
        raise PrecisionError(
            f"profile {profile.name} needs an int8 model (quant.mode), not {precision}",
            next_step="use --precision int8 with calibration data, or publish a fully quantized .tflite file",
        )
