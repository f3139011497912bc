"""What is done to a model, as data.

A recipe lists the candidates to try and the few settings that change their bytes. `default_recipe` builds the one for a
profile; `--recipe FILE` gives another. A bundle carries the recipe that made it, cut down to the chosen candidate, with its
digest; giving that recipe again with the same source, data and seed gives the same bytes.
"""

from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from edgefleet_converters.errors import PrecisionError, RecipeError
from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.digest import sha256_hex

Precision = Literal["fp32", "fp16", "int8", "dynamic", "int8-weights", "int4-weights", "int16x8", "int16-weights"]
"""fp32, fp16, int8 (weights and activations), dynamic (activations ranged at run time) are as old as the format; then weights
alone in 8 or 4 bits, 16-bit activations with 8-bit weights, and weights alone in 16 bits with a scale a channel."""
Method = Literal["none", "float16", "dynamic", "static", "weights", "mixed"]
_MAX_RECIPE_BYTES = 1 << 20


class CandidateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to make a model smaller.

    id: stable word for reports. tier: of candidates that promise the same, those of a lower tier are tried first (`candidate_worth`).
    op_types: operators to quantise (empty = all that the method knows); LSTM of method static is ranged at run time.
    exclude: node names left alone. head_float: leave
    everything behind the last weighted node of each output in float. reduce_range: 7-bit weights, for x86 processors whose
    8-bit products saturate (AVX2 without VNNI). equalise: even out channels of neighbouring layers first. correct_bias: take
    the mean error of rounded weights out of the biases.

    weight_bits: how weights that stay float otherwise are stored; 0 leaves them. weights_half and weights_float name stored
    tensors that are kept in 16 bits and float32 instead; half says in what form the 16 bits are. They are made float32 again
    when a runtime loads the model, so they save bytes and no time (`onnx.weights`). weight_zero: 8-bit weights have a zero point
    of their own a channel, so that a channel whose values lie to one side keeps all steps.

    io_dtype: of a compiled TFLite file's inputs and outputs that are float32 in the source. Integers there are for boards without
    float32, so everything between is in integers too.

    blocks: which products of method dynamic store their matrix in 8 bits in blocks (`onnx.block_weights`): none, those with more
    rows than columns, or all.

    Method mixed is an order to search (`sensitivity`): what it finds is a `static` or `weights` spec, and that is what a
    bundle carries.
    """

    id: str
    precision: Precision
    method: Method
    tier: int = 0
    op_types: list[str] = []
    exclude: list[str] = []
    head_float: bool = False
    per_channel: bool = False
    act_dtype: Literal["uint8", "int8", "uint16", "int16"] = "uint8"
    reduce_range: bool = False
    calibration: Literal["MinMax", "Entropy", "Percentile"] = "MinMax"
    equalise: bool = False
    correct_bias: bool = False
    weight_bits: Literal[0, 4, 8, 16] = 0
    weights_half: list[str] = []
    weights_float: list[str] = []
    io_dtype: Literal["float32", "int8", "uint8"] = "float32"
    half: Literal["float16", "int16"] = "float16"
    weight_zero: bool = False
    blocks: Literal["none", "narrowing", "all"] = "none"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole recipe. shapes: input name -> fixed shape. calibration_samples: at most so many are used."""

    v: Literal[1] = 1
    candidates: list[CandidateSpec]
    upgrade_opset: bool = True
    fold: bool = True
    shapes: dict[str, list[int]] = {}
    calibration_samples: int = 128
    golden_vectors: int = 16
    seed: int = 0

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as plain data, equal to what a recipe file holds."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    @property
    def sha256(self) -> str:
        """Digest of the recipe's canonical JSON."""
        return sha256_hex(msgspec.json.encode(self.to_data(), order="sorted"))


WEIGHTED: Final = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
AS_GIVEN: Final = CandidateSpec(id="as-given", precision="int8", method="none")
"""A model that is quantised already goes through as it is."""
FP32: Final = CandidateSpec(id="fp32", precision="fp32", method="none", tier=9)


def default_recipe(profile: HardwareProfile, *, seed: int) -> Recipe:
    """Return the candidates that suit a profile.

    The order of tiers: int8 all over; int8 with parts left out by rule; the same found by search; weights alone; 16 bits; what
    costs more time than it saves (`_slow`); float32. Activation type and channel handling are the profile's
    (docs/explanation/converting.md). On x86 without VNNI weights keep to 7 bits.
    """
    quant = profile.quant
    static = CandidateSpec(
        id="int8-static", precision="int8", method="static", tier=1, per_channel=quant.per_channel,
        act_dtype=quant.act_dtype, reduce_range=_narrow(profile),
    )  # fmt: skip
    replace = msgspec.structs.replace
    even = replace(static, tier=2, equalise=True, correct_bias=True)
    # What has no static form (LSTM, GRU) keeps float32 arithmetic, and its weights are stored in int8, too.
    rest: Literal[0, 8] = 8 if profile.runtime.name == "ort" and quant.mode == "allowed" else 0
    weighted = replace(static, id="int8-static-weighted", tier=2, op_types=WEIGHTED, weight_bits=rest)
    return Recipe(
        candidates=[
            replace(static, weight_bits=rest),
            weighted,
            *([replace(weighted, id="int8-static-lstm", op_types=[*WEIGHTED, "LSTM"])] if rest else []),
            replace(static, id="int8-static-head-float", tier=2, head_float=True),
            replace(even, id="int8-static-equalised"),
            replace(even, id="int8-mixed", method="mixed", tier=3, op_types=WEIGHTED, weight_bits=8, half="int16"),
            *_weights(profile),
            *_halves(profile),
            *_slow(profile),
            FP32,
        ],
        seed=seed,
    )  # fmt: skip


def _narrow(profile: HardwareProfile) -> bool:
    return profile.arch == "x86_64" and profile.quant.act_dtype == "uint8" and "vnni" not in profile.features


def _weights(profile: HardwareProfile) -> list[CandidateSpec]:
    """Return candidates that shrink weights, smallest expected size first; 4 bits need onnxruntime's own operator.

    per_channel is that of the static candidates, so that one calibration serves both; stored weights have a scale a channel anyway.
    """
    weights = CandidateSpec(
        id="int8-weights", precision="int8-weights", method="weights", tier=4, weight_bits=8, correct_bias=True,
        per_channel=profile.quant.per_channel,
    )  # fmt: skip
    dynamic = CandidateSpec(
        id="int8-dynamic-matmul", precision="dynamic", method="dynamic", tier=4, op_types=["MatMul", "Gemm"],
        reduce_range=_narrow(profile), weight_bits=8, per_channel=profile.quant.per_channel,
    )  # fmt: skip
    replace = msgspec.structs.replace
    four = replace(weights, id="int4-weights", precision="int4-weights", weight_bits=4, op_types=["MatMul", "Gemm"])
    own = profile.runtime.name == "ort"  # what only onnxruntime has an operator for
    return [
        dynamic,
        *([replace(dynamic, id="int8-dynamic-blocks", blocks="narrowing")] if own else []),
        *([replace(dynamic, id="int8-blocks", blocks="all")] if own else []),
        replace(dynamic, id="int8-dynamic-lstm", op_types=["LSTM"]),
        weights,
        replace(weights, id="int8-weights-zero", weight_zero=True, correct_bias=False),
        *([four] if own else []),
    ]


def _halves(profile: HardwareProfile) -> list[CandidateSpec]:
    """Return the 16-bit candidates: arithmetic in float16 first where the processor has it, else the nearest to float32."""
    whole = CandidateSpec(id="fp16", precision="fp16", method="float16", tier=6)
    stored = CandidateSpec(id="fp16-weights", precision="fp16", method="weights", tier=6, weight_bits=16)
    near = msgspec.structs.replace(stored, id="int16-weights", precision="int16-weights", tier=5, half="int16")
    if "fp16" in profile.features:
        return [msgspec.structs.replace(whole, tier=5), near, stored]
    return [near, stored, whole]


def _slow(profile: HardwareProfile) -> list[CandidateSpec]:
    """Return what is small and slow on a CPU.

    Dynamic quantization of every operator ran 4 to 20 times longer than float32 on models with convolutions, 16-bit
    activations 1.6 times (docs/explanation/converting.md).
    """
    quant = profile.quant
    return [
        CandidateSpec(
            id="int16x8-static", precision="int16x8", method="static", tier=7, per_channel=quant.per_channel,
            act_dtype="int16" if quant.act_dtype == "int8" else "uint16",
        ),
        CandidateSpec(
            id="int8-dynamic", precision="dynamic", method="dynamic", tier=7, reduce_range=_narrow(profile)
        ),
    ]  # fmt: skip


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a YAML or JSON file. Raises RecipeError naming the key that is wrong."""
    try:
        if path.stat().st_size > _MAX_RECIPE_BYTES:
            raise RecipeError(f"{path.name} is larger than {_MAX_RECIPE_BYTES} bytes", next_step="give a recipe file")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = msgspec.convert(data, Recipe)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"cannot read the recipe: {error}", next_step="give a readable YAML or JSON file") from error
    except msgspec.ValidationError as error:
        raise RecipeError(
            f"the recipe is not valid: {error}", next_step="start from the recipe in a bundle's manifest"
        ) from error
    ids = [candidate.id for candidate in recipe.candidates]
    if not ids or len(ids) != len(set(ids)):
        raise RecipeError(
            "a recipe needs at least one candidate, each with an id of its own", next_step="correct the ids"
        )
    if recipe.golden_vectors < 8 or recipe.calibration_samples < 1:
        raise RecipeError(
            "a recipe needs golden_vectors >= 8 and calibration_samples >= 1", next_step="raise the numbers"
        )
    return recipe


def unmeasured(specs: list[CandidateSpec], profile: HardwareProfile) -> list[CandidateSpec]:
    """Return what `auto` offers when there is no data to measure a loss on: float32 and float16.

    A recipe of smaller candidates alone names them, so it keeps them. Raises PrecisionError where the profile requires int8.
    """
    itself = [spec for spec in specs if spec.method == "none"]
    if len(itself) == len(specs):
        return specs  # a source that is served as it is loses nothing
    if profile.quant.mode == "required":
        raise PrecisionError(
            f"the profile {profile.name} takes int8 models only (quant.mode), and without data nobody can say what one loses",
            next_step="give samples with --calibration, or name the precision with --precision: its accuracy is then not measured",
        )
    return [spec for spec in specs if spec.precision in ("fp32", "fp16")] or specs
