"""Each gate alone: it refuses what it must, and lets through the same model where the key says nothing.

Together with what is read elsewhere, the table below names every key of the schema: a key without a gate cannot be added.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

pytest.importorskip("ai_edge_litert")
from edgefleet_converters import candidate_search as search_module
from edgefleet_converters import errors
from edgefleet_converters.candidate_worth import Scale
from edgefleet_converters.check import budget, compat
from edgefleet_converters.check.accelerator_placement import predicted_mapping
from edgefleet_converters.check.operators import check_nodes
from edgefleet_converters.job_steps import JobSteps
from edgefleet_converters.onnx.load import facts_of
from edgefleet_converters.recipe import FP32, CandidateSpec, default_recipe
from edgefleet_converters.report import CandidateRow, ProfileReport
from edgefleet_converters.sandbox import Sandbox
from edgefleet_converters.tflite.load import read_facts
from edgefleet_profiles.evidence_gaps import findings
from edgefleet_profiles.match import DeviceFacts, fits
from edgefleet_profiles.profile import (
    INFORMATION_ONLY,
    Backend,
    HardwareProfile,
    Match,
    OperatorLimit,
    ProfileError,
    ProfileRuntime,
    QuantRules,
    profile_from_dict,
    profile_to_dict,
)
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.graphs import changed
from tests.converters.int8_graphs import LOGISTIC, RELU, chain, dense
from tests.converters.planted import relu_onnx

Check = Callable[[HardwareProfile], object]
INT8 = read_facts(dense())
ONNX = facts_of(relu_onnx([2, 3, 4]))
X = (TensorSpec(name="x", dtype="int8", shape=[4, 16]),)
OPEN = (TensorSpec(name="x", dtype="int8", shape=["n", 16]),)
_MIB = 1024 * 1024


def nodes(facts: dict[str, Any]) -> Check:
    return lambda profile: check_nodes(profile, facts)


def told(reason: Callable[[HardwareProfile], str]) -> Check:
    """Return a check that raises what a budget tells."""

    def check(profile: HardwareProfile) -> None:
        text = reason(profile)
        if text:
            raise errors.OverBudgetError(text)

    return check


def tflite(**keys: Any) -> HardwareProfile:
    return changed("generic-x86_64-litert", operator_set="", **keys)


def ort(**keys: Any) -> HardwareProfile:
    return changed("generic-x86_64-ort", **keys)


REQUIRED = QuantRules(mode="required", act_dtype="int8")
GATES: dict[str, tuple[HardwareProfile, Check, type[errors.RefusedError]]] = {
    "formats_allowed": (ort(), lambda p: compat.check_format(p, "tflite"), errors.FormatNotAllowedError),
    "opset_max": (ort(opset_max=16), lambda p: compat.check_versions(p, 17, 8), errors.OpsetTooNewError),
    "ir_max": (ort(ir_max=7), lambda p: compat.check_versions(p, 17, 8), errors.OpsetTooNewError),
    "operator_set": (
        changed("raspberry-pi-armv7-tflite"), nodes(read_facts(dense(version=11))), errors.UnsupportedOperatorError,
    ),
    "tflite_op_allowlist": (
        tflite(tflite_op_allowlist={"ADD": OperatorLimit(max_version=1)}), nodes(INT8), errors.UnsupportedOperatorError,
    ),
    "tensor_dtypes": (tflite(tensor_dtypes=["float32"]), nodes(INT8), errors.DtypeNotAllowedError),
    "rank_max": (ort(rank_max=2), nodes(ONNX), errors.RankTooHighError),
    "quant.mode": (
        tflite(quant=REQUIRED), nodes(read_facts(dense(act="float32", weight="float32"))), errors.QuantizationError,
    ),
    "quant.act_dtype": (
        tflite(quant=REQUIRED), nodes(read_facts(dense(act="uint8", weight="int8"))), errors.QuantizationError,
    ),
    "quant.weight_dtype": (
        tflite(quant=REQUIRED), nodes(read_facts(dense(weight="uint8"))), errors.QuantizationError,
    ),
    "quant.per_channel": (
        tflite(quant=QuantRules(per_channel=False)), nodes(read_facts(dense(per_channel=True))), errors.QuantizationError,
    ),
    "quant.io_dtype": (
        tflite(quant=QuantRules(io_dtype="uint8")), lambda p: compat.check_io_types(p, X, X), errors.FormatNotAllowedError,
    ),
    "quant.batch_fixed": (
        tflite(quant=QuantRules(batch_fixed=True)), lambda p: compat.check_shapes(p, X), errors.BatchNotFixedError,
    ),
    "quant.dynamic_shapes": (
        tflite(quant=QuantRules(dynamic_shapes=False)), lambda p: compat.check_shapes(p, OPEN), errors.DynamicShapeError,
    ),
    "backend.mode": (
        ort(backend=Backend(kind="external", name="c", mode="refuse", reason="r", next_step="n")),
        compat.check_backend, errors.BackendMissingError,
    ),
    "max_model_bytes": (ort(max_model_bytes=10), told(lambda p: budget.over_size(p, 11)), errors.OverBudgetError),
    "max_arena_bytes": (ort(max_arena_bytes=10), told(lambda p: budget.over_arena(p, 11)), errors.OverBudgetError),
    "free_ram_budget_mb": (
        ort(free_ram_budget_mb=1), told(lambda p: budget.over_memory(p, 2 * _MIB)), errors.OverBudgetError,
    ),
    "ram_mb": (
        ort(free_ram_budget_mb=0, ram_mb=1), told(lambda p: budget.over_memory(p, 2 * _MIB)), errors.OverBudgetError,
    ),
    "storage_mb": (ort(storage_mb=1), told(lambda p: budget.over_storage(p, 600 * 1024)), errors.OverBudgetError),
}  # fmt: skip

ELSEWHERE = {
    "name": "parse_profile_name", "arch": "the recipe and the wheel's tag", "features": "the recipe",
    "threads": "measuring", "runtime.name": "check_runtimes", "runtime.version": "check_runtimes",
    "runtime.wheel_tag": "contradiction with arch and glibc_min", "also_verified_on": "check_runtimes",
    "match.arch": "fits", "match.board": "fits", "match.min_ram_mb": "fits", "match.runtimes": "fits",
    "glibc_min": "fits", "python": "fits", "evidence": "findings", "backend.kind": "contradiction with backend.mode",
    "backend.name": "check_backend", "backend.reason": "check_backend", "backend.next_step": "check_backend",
    "delegates": "board_facts: a hint in the bundle",
    "backend.partition": "predicted_mapping", "backend.mapped_operators": "predicted_mapping",
    "backend.mapped_dtypes": "predicted_mapping", "cpu": "cost models: is_kin",
    "thermal.sustained_factor": "cost models: predict",
}  # fmt: skip
"""Keys that something else than a refusal of a model reads, and what; each has a test below, in `test_profiles`
or in `tests/profiles`."""


@pytest.mark.parametrize("key", sorted(GATES))
def test_a_gate_refuses_and_names_its_key(key: str) -> None:
    profile, check, error = GATES[key]
    with pytest.raises(error) as caught:
        check(profile)
    assert key in caught.value.message
    assert profile.name in caught.value.message


@pytest.mark.parametrize("key", sorted(set(GATES) - {"formats_allowed", "operator_set"}))
def test_a_gate_lets_through_where_the_key_says_nothing(key: str) -> None:
    profile, check, _ = GATES[key]
    top, _, inner = key.partition(".")
    default = {field.name: field for field in msgspec.structs.fields(HardwareProfile)}[top]
    value = default.default if default.default is not msgspec.NODEFAULT else default.default_factory()
    if inner:
        plain = getattr(value, inner)
        value = msgspec.structs.replace(getattr(profile, top), **{inner: _taking(key, plain)})
    assert check(msgspec.structs.replace(profile, **{top: value})) is None


def _taking(key: str, default: Any) -> Any:
    """Return a value that takes the model of the table: the type it has where the key names a type."""
    return {"quant.act_dtype": "uint8", "quant.weight_dtype": "uint8", "quant.io_dtype": "int8"}.get(key, default)


def test_every_key_of_the_schema_is_read_by_something() -> None:
    paths = set()
    for field in msgspec.structs.fields(HardwareProfile):
        inner = (
            msgspec.structs.fields(field.type)
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
            else ()
        )
        paths |= {f"{field.name}.{one.name}" for one in inner} or {field.name}
    told_only = {path for path in paths if path in INFORMATION_ONLY or path.split(".")[0] in INFORMATION_ONLY}
    assert paths - told_only == set(GATES) | set(ELSEWHERE)


def test_the_format_gate_refuses_only_other_formats() -> None:
    compat.check_format(tflite(), "tflite")
    with pytest.raises(errors.FormatNotAllowedError, match="formats_allowed"):
        compat.check_format(ort(), "tflite")


def test_leading_ones_do_not_count_as_dimensions() -> None:
    check_nodes(tflite(rank_max=3), read_facts(chain(RELU, [1, 1, 2, 2, 2], version=2)))
    check_nodes(ort(rank_max=3), facts_of(relu_onnx([1, 3, 8, 8])))
    with pytest.raises(errors.RankTooHighError):
        check_nodes(ort(rank_max=3), facts_of(relu_onnx(["n", 3, 8, 8])))


def test_types_beside_the_preferred_one_are_taken_where_the_profile_lists_them() -> None:
    both = tflite(quant=REQUIRED, tensor_dtypes=["int8", "uint8", "int32"])
    check_nodes(both, read_facts(dense(act="uint8", weight="uint8")))


def test_int8_that_is_measured_anew_on_each_run_is_no_int8_for_an_accelerator() -> None:
    facts = ONNX | {"operators": {"DynamicQuantizeLinear": 1}}
    with pytest.raises(errors.QuantizationError, match="DynamicQuantizeLinear"):
        check_nodes(ort(quant=REQUIRED), facts)


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"glibc_min": "2.34"}, {"glibc": "2.31"}),
        ({"python": ">=3.11,<3.12"}, {"python": "3.12.1"}),
        ({"match": Match(board="raspberry-pi-4")}, {"board": "Raspberry Pi 400"}),
        ({"match": Match(min_ram_mb=900)}, {"ram_mb": 512}),
        ({"match": Match(runtimes=["litert"])}, {"runtimes": frozenset({"ort"})}),
        ({"match": Match(arch="aarch64")}, {"arch": "x86_64"}),
    ],
)
def test_a_device_outside_a_key_does_not_fit(keys: dict[str, Any], facts: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"arch": "x86_64"}
    profile = changed("generic-x86_64-ort", **({"match": Match()} | keys))
    assert not fits(profile, DeviceFacts(**(plain | facts)))
    assert fits(changed("generic-x86_64-ort", match=Match(), glibc_min="", python=""), DeviceFacts(**(plain | facts)))


def test_a_device_that_does_not_tell_its_python_or_glibc_fits() -> None:
    assert fits(ort(match=Match()), DeviceFacts(arch="x86_64"))


def test_features_and_arch_decide_how_wide_weights_are() -> None:
    narrow = default_recipe(ort(), seed=0).candidates[0]
    assert narrow.reduce_range
    assert not default_recipe(ort(features=["avx2", "vnni"]), seed=0).candidates[0].reduce_range
    assert not default_recipe(ort(arch="aarch64"), seed=0).candidates[0].reduce_range


@pytest.mark.parametrize(
    ("partition", "mapped", "on_cpu"),
    [("prefix", {"RELU": 1}, {"LOGISTIC": 1}), ("each", {"RELU": 1}, {"LOGISTIC": 1})],
)
def test_the_mapping_counts_what_the_compiler_places(
    partition: Any, mapped: dict[str, int], on_cpu: dict[str, int]
) -> None:
    facts = {"nodes": [_node("RELU", "0:0"), _node("LOGISTIC", "0:1")]}
    profile = tflite(backend=Backend(partition=partition, mapped_operators=["RELU"], mapped_dtypes=["int8"]))
    found = predicted_mapping(profile, facts)
    assert found is not None
    assert (found["mapped"], found["on_cpu"]) == (mapped, on_cpu)
    assert found["first_on_cpu"]["node"] == "0:1"
    assert found["kind"] == "predicted"


def test_behind_the_first_foreign_operator_all_stays_on_the_cpu_of_a_prefix_compiler() -> None:
    facts = {"nodes": [_node("LOGISTIC", "0:0"), _node("RELU", "0:1")]}
    rules = {"mapped_operators": ["RELU"]}
    prefix = predicted_mapping(tflite(backend=Backend(partition="prefix", **rules)), facts)  # type: ignore[arg-type]
    each = predicted_mapping(tflite(backend=Backend(partition="each", **rules)), facts)  # type: ignore[arg-type]
    assert prefix is not None
    assert each is not None
    assert (prefix["mapped"], each["mapped"]) == ({}, {"RELU": 1})


def test_another_type_than_the_compiler_takes_stays_on_the_cpu() -> None:
    facts = read_facts(chain(LOGISTIC, [1, 4], dtype="int16"))
    found = predicted_mapping(tflite(backend=Backend(mapped_operators=["LOGISTIC"], mapped_dtypes=["int8"])), facts)
    assert found is not None
    assert "int16" in found["first_on_cpu"]["why"]
    assert predicted_mapping(tflite(), facts) is None


def test_a_fact_without_evidence_is_found() -> None:
    profile = ort(rank_max=4)
    assert [finding.key for finding in findings(profile)] == ["rank_max"]
    wrong = ort(runtime=ProfileRuntime(name="ort", version="1"))
    assert not findings(wrong), "the evidence for the runtime still stands"


def test_where_float_itself_is_wrong_that_is_told_and_not_what_int8_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = {
        "int8-static": errors.AccuracyError("int8 loses", next_step="use --precision auto or fp32", drop=0.5),
        "fp32": errors.DiffersError("float32 is wrong", next_step="report it with the model"),
    }
    specs = [CandidateSpec(id="int8-static", precision="int8", method="static"), FP32]

    def attempts(_w: Any, _s: Any, spec: CandidateSpec, _r: Any) -> Any:
        yield spec, CandidateRow(id=spec.id, precision=spec.precision, verdict="rejected"), tried[spec.id]

    monkeypatch.setattr(search_module, "_wanted", lambda _: specs)
    monkeypatch.setattr(search_module, "_scale", lambda *_: Scale(1000, {}, "ort"))
    monkeypatch.setattr(search_module, "_attempts", attempts)
    options = SimpleNamespace(budget_s=None)
    subject: Any = SimpleNamespace(profile=ort(), options=options, source=SimpleNamespace(bytes=1))
    with pytest.raises(errors.DiffersError, match="float32 is wrong") as caught:
        search_module._search(JobSteps(Sandbox(), tmp_path), subject, ProfileReport(profile="p"), lambda *_: None)
    assert "report" in caught.value.next_step


def _node(name: str, where: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": 1,
        "node": where,
        "dtypes": ["int8"],
        "flowing": ["int8"],
        "weights": [],
        "rank": 1,
    }


def test_a_stored_profile_that_a_newer_rule_would_refuse_is_still_read() -> None:
    facts = profile_to_dict(ort()) | {"ram_mb": 1}
    with pytest.raises(ProfileError, match="free_ram_budget_mb"):
        profile_from_dict(facts)
    assert profile_from_dict(facts, is_stored=True).ram_mb == 1
