"""What is done to a model, as data.

A recipe lists the candidates to try and the few settings that change their bytes. `default_recipe` builds the one for a
profile; `--recipe FILE` gives another. A bundle carries the recipe that made it, cut down to the chosen candidate, with its
digest; giving that recipe again with the same source, data and seed gives the same bytes.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from edgefleet_converters.errors import RecipeError
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.profile import HardwareProfile

Precision = Literal["fp32", "fp16", "int8", "dynamic"]
Method = Literal["none", "float16", "weight_only", "dynamic", "static"]
_MAX_RECIPE_BYTES = 1 << 20


class CandidateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to make a model smaller.

    id: stable word for reports. tier: candidates of a lower tier are tried first, and a passing one ends the search.
    op_types: operators to quantise (empty = all that the method knows). exclude: node names left alone. head_float: leave
    everything behind the last weighted node of each output in float. reduce_range: 7-bit weights, for x86 processors whose
    8-bit products saturate (AVX2 without VNNI).
    """

    id: str
    precision: Precision
    method: Method
    tier: int = 0
    op_types: list[str] = []
    exclude: list[str] = []
    head_float: bool = False
    per_channel: bool = False
    act_dtype: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    calibration: Literal["MinMax", "Entropy", "Percentile"] = "MinMax"


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


FP32 = CandidateSpec(id="fp32", precision="fp32", method="none", tier=9)


def default_recipe(profile: HardwareProfile, *, seed: int) -> Recipe:
    """Return the candidates that suit a profile, smallest expected size first.

    Activation type and channel handling are the profile's (converters.md §0.6). On x86 without VNNI weights keep to 7 bits.
    """
    quant = profile.quant
    narrow = profile.arch == "x86_64" and quant.act_dtype == "uint8" and "vnni" not in profile.features
    static = CandidateSpec(
        id="int8-static",
        precision="int8",
        method="static",
        tier=1,
        per_channel=quant.per_channel,
        act_dtype=quant.act_dtype,
        reduce_range=narrow,
    )
    weighted = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
    replace = msgspec.structs.replace
    dynamic = CandidateSpec(id="int8-dynamic", precision="dynamic", method="dynamic", tier=2, reduce_range=narrow)
    return Recipe(
        candidates=[
            static,
            replace(static, id="int8-static-weighted", tier=2, op_types=weighted),
            replace(static, id="int8-static-head-float", tier=2, head_float=True),
            dynamic,
            replace(dynamic, id="int8-dynamic-matmul", tier=3, op_types=["MatMul", "Gemm"]),
            replace(dynamic, id="int8-dynamic-lstm", tier=3, op_types=["LSTM"]),
            CandidateSpec(id="fp16", precision="fp16", method="float16", tier=4),
            FP32,
        ],
        seed=seed,
    )  # fmt: skip


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
