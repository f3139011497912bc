"""Import an ONNX source: any upload in, one checked and self-contained file out, with the facts the pipeline needs.

Runs in a sandboxed child. Order matters: size and outer form first, then parse, then limits, then external data, then the
ONNX checker (which would follow external data itself).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from edgefleet_converters.errors import (
    InvalidModelError,
    ModelTooLargeError,
    NotAModelError,
    ShapeOptionError,
    TruncatedModelError,
)
from edgefleet_converters.graph_passes import Pass
from edgefleet_converters.onnx.external_data import embed_external_data
from edgefleet_converters.onnx.flow import flow_of
from edgefleet_converters.onnx.limits import (
    CONTRIB,
    OnnxLimits,
    check_domains,
    check_limits,
    check_values,
    schema_known,
)
from edgefleet_converters.onnx.output_ends import output_ends
from edgefleet_converters.onnx.passes.drop_zipmap import drop_zipmap
from edgefleet_converters.onnx.passes.fix_inputs import FixInputs
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.onnx.passes.sort_nodes import sort_nodes
from edgefleet_converters.onnx.protobuf_fields import classify
from edgefleet_converters.onnx.walk import all_nodes, all_tensors
from edgefleet_protocol.manifest import TensorSpec

DEFAULT_DOMAIN: Final = "ai.onnx"


def import_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, folder: path|None, shapes, values, out}. Writes `out`; returns the facts of `facts_of`.

    A model that brings the names of its classes has `labels`, too.
    """
    folder = Path(args["folder"]) if args["folder"] else None
    model, labels = drop_zipmap(read_checked(Path(args["model"]), folder, OnnxLimits()))
    model = specialise(model, args["shapes"], args["values"])
    facts = facts_of(model) | ({"labels": labels} if labels else {})
    Path(args["out"]).write_bytes(serialise(model))
    return facts


def read_checked(path: Path, folder: Path | None, limits: OnnxLimits) -> onnx.ModelProto:
    """Return the model at `path`, checked, with its external weights inside.

    Raises NotAModelError, TruncatedModelError, InvalidModelError, ExternalData…Error, ModelTooLargeError,
    ForeignOperatorError. Reads files.
    """
    size = path.stat().st_size
    if size > limits.bytes:
        raise ModelTooLargeError(
            f"the model has {size} bytes; the converter takes {limits.bytes}", next_step="use a smaller model"
        )
    model = parse(path.read_bytes())
    check_limits(model, limits)
    embed_external_data(model, folder, max_bytes=limits.bytes - size)
    _inline_functions(model)
    check_domains(model)
    _check_operators_known(model)
    sort_nodes(model)
    _check_form(model)
    check_values(model, limits)
    return model


def specialise(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], values: Mapping[str, float]
) -> onnx.ModelProto:
    """Return the model with the user's shapes and values fixed. Raises ShapeOptionError naming the model's inputs."""
    steps: list[Pass[onnx.ModelProto]] = [FixShapes(shapes)] if shapes else []
    steps += [FixInputs(values)] if values else []
    for step in steps:
        obstacle = step.requires(model)
        try:
            after, _ = (model, False) if obstacle else step.apply(model)
        except Exception as error:  # noqa: BLE001 - onnx's shape inference raises unrelated types
            obstacle, after = " ".join(str(error).split())[:300], model
        if obstacle:
            inputs = ", ".join(f"{v.name}={','.join(map(str, _dims(v)))}" for v in model.graph.input)
            raise ShapeOptionError(
                f"a given shape or value does not fit the model: {obstacle}",
                next_step=f"the inputs are {inputs[:400]}; open dimensions have names",
            )
        model = after
    return model


def parse(data: bytes) -> onnx.ModelProto:
    """Return the parsed model. Raises NotAModelError or TruncatedModelError."""
    form = classify(data)
    if form == "foreign":
        raise NotAModelError(
            "the file is neither an ONNX nor a TFLite model",
            next_step="publish a .onnx or .tflite file, or a folder that holds one",
        )
    if form == "truncated":
        raise TruncatedModelError(
            f"the ONNX file ends too early (it has {len(data)} bytes): it was cut off on its way",
            next_step="copy or export the file again and compare its size",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModelError(
            f"the ONNX file is damaged inside: {error}", next_step="export the model again"
        ) from error
    _check_text(model)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes, the same for the same model."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def facts_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Return `{inputs, outputs, operators, required_operators, opset, ir, nodes, licence, flow, ends}` as plain data. flow: of
    `flow_of`, ends: of `output_ends`.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    operators = operators_of(model)
    metadata = {entry.key.lower(): entry.value for entry in model.metadata_props}
    return {
        "inputs": [msgspec.to_builtins(_spec(v)) for v in model.graph.input if v.name not in stored],
        "outputs": [msgspec.to_builtins(_spec(v)) for v in model.graph.output],
        "operators": operators,
        "required_operators": required_operators(model),
        "opset": opset_of(model),
        "ir": model.ir_version,
        "nodes": sum(operators.values()),
        "flow": flow_of(model),
        "ends": output_ends(model),
        "licence": (metadata.get("license") or metadata.get("licence") or "")[:200],
    }


def operators_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return operator -> number of nodes, also inside subgraphs; `domain::operator` outside the default domain."""
    operators: dict[str, int] = {}
    for node in all_nodes(model):
        key = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        operators[key] = operators.get(key, 0) + 1
    return dict(sorted(operators.items()))


def required_operators(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return `[{domain, version, operators}]`: what a runtime must have. Calls of the model's own functions are left out."""
    own = {(function.domain, function.name) for function in model.functions}
    versions = {(entry.domain or DEFAULT_DOMAIN): entry.version for entry in model.opset_import}
    names: dict[str, set[str]] = {}
    for node in all_nodes(model):
        if (node.domain, node.op_type) not in own:
            names.setdefault(node.domain or DEFAULT_DOMAIN, set()).add(node.op_type)
    return [
        {"domain": domain, "version": versions.get(domain, 1), "operators": sorted(operators)}
        for domain, operators in sorted(names.items())
    ]


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default domain's operator set; 0 when the model imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        raise InvalidModelError(
            f"{value.name!r} is a {kind}, not a tensor",
            next_step="export the model with plain tensors as outputs (of a scikit-learn MultiOutputClassifier: publish each of"
            " its `estimators_` as a model of its own)",
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise InvalidModelError(
            f"tensor {value.name!r} declares no shape", next_step="export the model with input and output shapes"
        )
    dims = _dims(value)
    if tensor.elem_type == onnx.TensorProto.STRING:
        return TensorSpec(name=value.name, dtype="string", shape=dims)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError) as error:
        raise InvalidModelError(
            f"tensor {value.name!r} has the unknown type {tensor.elem_type}", next_step="export the model again"
        ) from error
    return TensorSpec(name=value.name, dtype=dtype, shape=dims)


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return a tensor's dimensions: a length, or the name of an open one."""
    dims: list[int | str] = []
    for index, dim in enumerate(value.type.tensor_type.shape.dim):
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0
        dims.append(dim.dim_value if fixed else dim.dim_param or f"dim{index}")
    return dims


def _check_text(model: onnx.ModelProto) -> None:
    """Raise InvalidModelError for a name that is not UTF-8: protobuf hands those out as bytes, and nothing expects bytes."""
    texts: list[object] = [entry.domain for entry in model.opset_import]
    texts += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    texts += [value.name for value in (*model.graph.input, *model.graph.output)]
    texts += [d.dim_param for v in (*model.graph.input, *model.graph.output) for d in v.type.tensor_type.shape.dim]
    texts += [tensor.name for tensor in all_tensors(model)]
    for node in all_nodes(model):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidModelError(
            "the ONNX file holds a name that is no UTF-8 text: it is damaged", next_step="export the model again"
        )


def _inline_functions(model: onnx.ModelProto) -> None:
    if not model.functions:
        return
    from onnx import inliner

    try:
        flat = inliner.inline_local_functions(model)
    except Exception as error:
        raise InvalidModelError(
            f"the model's local functions cannot be inlined: {error}", next_step="export the model without functions"
        ) from error
    model.CopyFrom(flat)


def _check_operators_known(model: onnx.ModelProto) -> None:
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    for node in all_nodes(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in versions:
            raise InvalidModelError(
                f"node {node.name or '(unnamed)'!r} ({node.op_type}) is in the domain {domain or 'ai.onnx'!r}, which the "
                "model does not import",
                next_step="export the model again",
            )
        known = domain == CONTRIB or schema_known(node.op_type, domain, versions[domain])
        if versions[domain] <= onnx.defs.onnx_opset_version() and not known:
            raise InvalidModelError(
                f"node {node.name or '(unnamed)'!r} uses the operator {node.op_type!r}, which opset {versions[domain]} of "
                f"{domain or 'ai.onnx'} does not have",
                next_step="export the model again with standard operators",
            )


def _check_form(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=False)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        text = " ".join(str(error).split())[:400]
        raise InvalidModelError(
            f"the ONNX file breaks the rules of its format: {text}", next_step="export the model again"
        ) from error
