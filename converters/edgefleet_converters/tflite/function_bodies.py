"""Bodies that the ONNX standard itself gives for operators that are made of others."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.defs
import onnx.helper

from edgefleet_converters.tflite.ir import Tensor


def function_body(
    node: onnx.NodeProto, inputs: Sequence[Tensor | None], opset: int, domain: str
) -> onnx.FunctionProto | None:
    """Return the standard's body for `node` at this opset, None when it has none or the operator is unknown."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        body = onnx.FunctionProto()
        body.ParseFromString(_best(schema.function_opset_versions, opset, schema.get_function_with_opset_version))
        return body
    if schema.has_context_dependent_function:
        types = [_type_of(tensor).SerializeToString() for tensor in inputs]
        called = onnx.NodeProto()
        called.CopyFrom(node)
        body = onnx.FunctionProto()
        body.ParseFromString(
            _best(
                schema.context_dependent_function_opset_versions,
                opset,
                lambda version: schema.get_context_dependent_function_with_opset_version(
                    version, called.SerializeToString(), types
                ),
            )
        )
        return body
    return None


def default_attributes(op_type: str, opset: int, domain: str) -> dict[str, onnx.AttributeProto]:
    """Return the attributes that the standard gives an operator when a node does not say them."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}


def _best(versions: Sequence[int], opset: int, get: "object") -> bytes:
    known = [version for version in versions if version <= opset] or list(versions)
    assert callable(get)
    return bytes(get(max(known)))


def _type_of(tensor: Tensor | None) -> onnx.TypeProto:
    if tensor is None:
        return onnx.TypeProto()
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_type_proto(kind, tensor.shape)
