"""Which smaller forms of a compiled model are tried for a profile. Imports neither onnx nor a runtime."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edgefleet_converters.check.compat import edge_dtype
from edgefleet_converters.errors import PrecisionError
from edgefleet_converters.recipe import FP32, CandidateSpec, Recipe
from edgefleet_profiles.profile import HardwareProfile

WEIGHTED: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


def tflite_recipe(profile: HardwareProfile, *, seed: int) -> Recipe:
    """Return the candidates for an ONNX model that is compiled to TFLite, smallest and fastest first.

    Weights alone is the form that every runtime computes rightly (docs/explanation/converting.md); it is as small
    as int8 and as slow as float.
    """
    edge = edge_dtype(profile)
    static = CandidateSpec(id="int8-static", precision="int8", method="static", tier=1, act_dtype="int8",
                           per_channel=profile.quant.per_channel, io_dtype=edge)  # fmt: skip
    replace = msgspec.structs.replace
    if edge != "float32":
        # Nothing but integers runs there, so only the ranges can differ.
        percentile = replace(static, id="int8-static-percentile", tier=2, calibration="Percentile")
        return Recipe(candidates=[static, percentile], seed=seed)
    # No fast kernels: what it saves is storage alone, so anything that holds before it is better.
    wide = replace(static, id="int16x8-static", precision="int16x8", tier=7, act_dtype="int16")
    dynamic = CandidateSpec(
        id="int8-dynamic", precision="dynamic", method="dynamic", tier=3, per_channel=profile.quant.per_channel
    )
    return Recipe(
        candidates=[
            static,
            replace(static, id="int8-static-percentile", tier=2, calibration="Percentile"),
            replace(static, id="int8-static-weighted", tier=2, op_types=list(WEIGHTED)),
            replace(static, id="int8-static-head-float", tier=2, head_float=True),
            dynamic,
            replace(
                static,
                id="int8-mixed",
                method="mixed",
                tier=4,
                op_types=list(WEIGHTED),
                weight_bits=8,
                correct_bias=True,
            ),
            replace(
                dynamic,
                id="int8-weights",
                precision="int8-weights",
                method="weights",
                weight_bits=8,
                tier=5,
                correct_bias=True,
            ),
            CandidateSpec(id="fp16", precision="fp16", method="float16", tier=6),
            *([wide] if {profile.runtime.name, *(r.name for r in profile.also_verified_on)} == {"litert"} else []),
            FP32,
        ],
        seed=seed,
    )


def own_recipe(recipe: Recipe, facts: Mapping[str, Any], wanted: str) -> Recipe:
    """Return the recipe for a `.tflite` source: the file as it is stands for float32, and for float16 where it is that already.

    facts: of its import. wanted: the precision that was asked for. Where no smaller form can be made, the file itself is the only
    candidate. Raises PrecisionError where the source cannot have that precision.
    """
    precision, kept = facts["precision"], facts["kept"]
    _check_precision(precision, wanted, kept)
    itself = CandidateSpec(id="as-given", precision=precision, method="none", tier=9)
    left = [spec for spec in recipe.candidates if not kept and not _is_itself(spec, precision)]
    has_itself = len(left) < len(recipe.candidates)
    return msgspec.structs.replace(recipe, candidates=[*left, *([itself] if has_itself else [])])


def _is_itself(spec: CandidateSpec, precision: str) -> bool:
    return spec.method == "none" or (spec.method, precision) == ("float16", "fp16")


def _check_precision(precision: str, wanted: str, kept: str) -> None:
    if kept and wanted not in ("auto", precision):
        raise PrecisionError(
            f"the TFLite file is {precision} and no smaller form of it is made: {kept}; {wanted} was asked for",
            next_step=f"use --precision auto or {precision}, or publish the ONNX model, which is made {wanted} here",
        )
    if (precision, wanted) == ("fp16", "fp32"):
        raise PrecisionError(
            "the TFLite file is fp16 already; as fp32 it would be twice as large and answer the same",
            next_step="use --precision auto or fp16",
        )
