"""Does every node of a candidate fit the profile? Pure; the facts are those of `tflite.load.read_facts` and `onnx.load.facts_of`.

The checks hold the model that would be shipped, so an ONNX model is held against them after it was quantized. Each refusal
names the node, the operator, the profile's key and a cure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from edgefleet_converters.errors import (
    DtypeNotAllowedError,
    QuantizationError,
    RankTooHighError,
    UnsupportedOperatorError,
)
from edgefleet_converters.tflite.runtimes import BY_ADAPTER, CUSTOM_OPERATORS
from edgefleet_profiles.operator_sets import operator_limits
from edgefleet_profiles.profile import HardwareProfile, OperatorLimit

Node = Mapping[str, Any]
_INT8: Final = frozenset({
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QAttention",
})  # fmt: skip
_FOUR_BITS: Final = frozenset({"MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"})


def quantised_form(operators: Iterable[str]) -> Literal["int8", "int4-weights", ""]:
    """Return in what form a source is stored that somebody quantized already; "" for a float model.

    operators: as facts name them, with their domain or without.
    """
    names = {name.rpartition("::")[2] for name in operators}
    if names & _INT8 or any(name.startswith(("QLinear", "QGemm")) for name in names):
        return "int8"
    return "int4-weights" if names & _FOUR_BITS else ""


def check_nodes(profile: HardwareProfile, facts: Mapping[str, Any]) -> None:
    """Raise the RefusedError of the first node that the profile does not take. facts: of a TFLite or an ONNX file."""
    if isinstance(facts.get("nodes"), list):
        nodes: Sequence[Node] = facts["nodes"]
        _check_custom(profile, nodes)
        check_tflite_operators(profile, nodes)
        _check_quantization(profile, nodes, str(facts["precision"]))
    else:
        nodes = facts.get("flow", ())
        _check_static(profile, facts)
    for node in nodes:
        _check_flow(profile, node)


def _check_custom(profile: HardwareProfile, nodes: Sequence[Node]) -> None:
    """Raise UnsupportedOperatorError for a custom operator that one of the profile's runtimes does not register by itself."""
    for node in nodes:
        having = CUSTOM_OPERATORS.get(str(node["name"]))
        for runtime in (profile.runtime, *profile.also_verified_on):
            if having is not None and runtime.name in BY_ADAPTER and runtime.name not in having:
                raise UnsupportedOperatorError(
                    f"node {node['node']} uses the custom operator {node['name']}, which {runtime.name} {runtime.version} does not "
                    f"have (profile {profile.name})",
                    next_step="choose a -litert profile, or export the model without it",
                )


def check_tflite_operators(profile: HardwareProfile, nodes: Sequence[Node]) -> None:
    """Raise UnsupportedOperatorError for the first operator outside the profile's allow-list.

    The allow-list is `tflite_op_allowlist`, else the list named in `operator_set`; without both the runtime's own load test
    alone decides.
    """
    limits = operator_limits(profile)
    if not limits:
        return
    key = "tflite_op_allowlist" if profile.tflite_op_allowlist else f"operator_set: {profile.operator_set}"
    for node in nodes:
        name, version = str(node["name"]), int(node["version"])
        if not profile.tflite_op_allowlist and profile.runtime.name in CUSTOM_OPERATORS.get(name, ()):
            continue  # the measured lists are of built-in operators
        where = f"node {node['node']} uses the operator {name} version {version}"
        _check_limit(profile, limits.get(name), node, where, key)


def _check_limit(profile: HardwareProfile, limit: OperatorLimit | None, node: Node, where: str, key: str) -> None:
    name = str(node["name"])
    if limit is None:
        raise UnsupportedOperatorError(
            f"{where}, which profile {profile.name} does not list ({key})",
            next_step=f"replace {name} in the model, or choose a profile whose runtime has it",
        )
    if limit.max_version is not None and int(node["version"]) > limit.max_version:
        raise UnsupportedOperatorError(
            f"{where}, profile {profile.name} knows it up to version {limit.max_version} ({key})",
            next_step="convert the model for an older TFLite version, or choose a profile with a newer runtime",
        )
    odd = sorted(set(node["dtypes"]) - set(limit.dtypes)) if limit.dtypes else []
    if odd:
        raise UnsupportedOperatorError(
            f"{where} on {odd[0]} tensors, profile {profile.name} takes {', '.join(limit.dtypes)} ({key})",
            next_step="quantise the model differently",
        )


def _check_flow(profile: HardwareProfile, node: Node) -> None:
    where = f"node {node['node']} ({node['name']})"
    odd = sorted(set(node["flowing"]) - set(profile.tensor_dtypes)) if profile.tensor_dtypes else []
    if odd:
        raise DtypeNotAllowedError(
            f"{where} works on {odd[0]} tensors, profile {profile.name} takes {', '.join(profile.tensor_dtypes)} "
            "(tensor_dtypes)",
            next_step=_without(odd[0], profile),
        )
    if profile.rank_max and int(node["rank"]) > profile.rank_max:
        raise RankTooHighError(
            f"{where} works on tensors of {node['rank']} dimensions (leading ones of size 1 not counted), profile "
            f"{profile.name} takes {profile.rank_max} (rank_max)",
            next_step=f"reshape the tensors to at most {profile.rank_max} dimensions, or choose another profile",
        )


def _without(dtype: str, profile: HardwareProfile) -> str:
    """Return what to do about a type: places of 64 bits (ArgMax, Shape …) are computed in 32 when the model asks for no more."""
    if dtype == "int64" and "int32" in profile.tensor_dtypes:
        return "put a Cast to int32 behind the node that makes int64 (ArgMax, for one), or choose another profile"
    return f"export the model without {dtype} tensors, or choose another profile"


def _check_static(profile: HardwareProfile, facts: Mapping[str, Any]) -> None:
    """A model that measures its activations again on each run is no int8 model for an accelerator."""
    if profile.quant.mode == "required" and "DynamicQuantizeLinear" in facts.get("operators", {}):
        raise QuantizationError(
            f"the model quantises its activations on each run (DynamicQuantizeLinear), profile {profile.name} needs static "
            "int8 (quant.mode)",
            next_step="give calibration data with --calibration and use --precision int8",
        )


def _check_quantization(profile: HardwareProfile, nodes: Sequence[Node], precision: str) -> None:
    """Hold a file that is quantized already against the profile's `quant`: what an unsuited one would cost is silent."""
    rules = profile.quant
    if rules.mode == "required" and precision != "int8":
        float_nodes = [node for node in nodes if {"float16", "float32", "float64"} & set(node["flowing"])]
        where = (
            f"node {float_nodes[0]['node']} ({float_nodes[0]['name']}) works on float tensors" if float_nodes else ""
        )
        raise QuantizationError(
            f"the model is {precision}, profile {profile.name} needs int8 (quant.mode)"
            + (f"; {where}" if where else ""),
            next_step="convert the model with full-integer quantization and calibration data",
        )
    if rules.mode == "forbidden" and precision in ("int8", "dynamic"):
        raise QuantizationError(
            f"the model is {precision}, profile {profile.name} forbids quantised models (quant.mode)",
            next_step="publish the float model",
        )
    for node in nodes:
        if node["weights"]:
            _check_weighted(profile, node)


def _check_weighted(profile: HardwareProfile, node: Node) -> None:
    """Types that `tensor_dtypes` lists are taken besides the preferred one."""
    rules, where = profile.quant, f"node {node['node']} ({node['name']})"
    if node["per_channel"] and not rules.per_channel:
        raise QuantizationError(
            f"{where} has a weight scale for each channel, profile {profile.name} takes one a tensor (quant.per_channel)",
            next_step="quantise the model with per-tensor weights",
        )
    if rules.mode != "required":
        return
    small = {"int8", "uint8", "int16"} - set(profile.tensor_dtypes)
    for kind, key, wanted in (
        ("flowing", "act_dtype", rules.act_dtype),
        ("weights", "weight_dtype", rules.weight_dtype),
    ):
        odd = sorted((set(node[kind]) & small) - {wanted})
        if odd:
            what = "activations" if kind == "flowing" else "weights"
            raise QuantizationError(
                f"{where} has {odd[0]} {what}, profile {profile.name} needs {wanted} (quant.{key})",
                next_step=f"quantise the model with {wanted} {what}",
            )
