"""Open Inference Protocol v2: request bytes → arrays, arrays → response bytes; JSON and Triton's binary tensor extension.

1. Binary: header `Inference-Header-Content-Length` gives the length of the JSON; raw little-endian tensors follow in the order
   of the inputs that carry `parameters.binary_data_size`. Strings are each preceded by their length (uint32).
2. Tensor data in JSON is decoded with msgspec straight into numbers: the standard library took 9 times as long.
3. Nothing is cast: datatype, number of elements and range must be the declared ones, and the error says what was expected.
4. JSON lacks NaN and infinities: they become null in a JSON answer and stay what they are in a binary one.
"""

import contextlib
import struct
import sys
from array import array as number_array
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np

from edgefleet_agent.datatypes import DATATYPES
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array, dtype_name, format_shape, shape_fits

BINARY_HEADER = b"inference-header-content-length"
MAX_RANK = 16
_IS_LITTLE = sys.byteorder == "little"


class BadRequestError(EdgefleetError):
    """The request does not follow the protocol or does not fit the model."""

    code = "infer.bad_request"


_ABSENT = msgspec.Raw()


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int] = []
    datatype: str = ""
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = _ABSENT


class _WantedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_WantedOutput] | None = None


class _FloatTensor(msgspec.Struct):
    name: str
    shape: list[int] = []
    datatype: str = ""
    parameters: dict[str, Any] = {}
    data: list[float] | None = None


class _FloatRequest(msgspec.Struct):
    """A request to a model whose inputs are all floating: read in one pass, a third less than numbers found first and read then."""

    inputs: list[_FloatTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_WantedOutput] | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """A decoded request. outputs: name -> binary wanted, in the caller's order; None = all. binary_all: default for outputs.

    timeout_s: how long its caller waits, None when it does not say. classes: output name -> how many of its best classes are
    wanted in the place of its values (Triton's classification extension).
    """

    id: str
    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    binary_all: bool
    timeout_s: float | None = None
    classes: dict[str, int] = {}


_request_decoder = msgspec.json.Decoder(_Request)
_float_request_decoder = msgspec.json.Decoder(_FloatRequest)
_FLOATS = {"float16", "float32", "float64"}
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "b": msgspec.json.Decoder(list[bool]),
    "O": msgspec.json.Decoder(list[str]),
}
_any_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


def decode_request(
    body: bytes, header_length: int | None, specs: Sequence[TensorSpec], output_names: Sequence[str]
) -> InferRequest:
    """Return the request in `body`. header_length: of the JSON part, None = all of it. Raises BadRequestError."""
    if header_length is not None and not 0 < header_length <= len(body):
        raise BadRequestError(
            f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes",
            next_step="give the number of bytes of the JSON that begins the body",
        )
    try:
        head = body if header_length is None else memoryview(body)[:header_length]
        request = _floats_only(head, specs) or _request_decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BadRequestError(
            f"the body is not an inference request: {e}",
            next_step='send {"inputs": [{"name", "shape", "datatype", "data"}]}',
        ) from e
    by_name = {spec.name: spec for spec in specs}
    binary = memoryview(body)[header_length:] if header_length is not None else memoryview(b"")
    arrays: dict[str, Array] = {}
    for tensor in request.inputs:
        spec = by_name.get(tensor.name)
        if spec is None or tensor.name in arrays:
            what = "is given twice" if spec is not None else "is not an input of this model"
            raise BadRequestError(
                f"input {tensor.name[:80]} {what}; it takes {', '.join(by_name)}",
                next_step="send each input once under its own name",
            )
        arrays[tensor.name], binary = _decode_tensor(tensor, spec, binary)
    if len(binary):
        raise BadRequestError(f"{len(binary)} bytes of the body belong to no input; check the binary_data_size values")
    missing = [name for name in by_name if name not in arrays]
    if missing:
        raise BadRequestError(
            f"the request lacks the inputs {', '.join(missing)}",
            next_step=f"send {'; '.join(describe_tensor(by_name[m]) for m in missing)}",
        )
    binary_all = request.parameters.get("binary_data_output") is True
    wanted = _wanted(request, output_names, binary_all)
    timeout_s, classes = _timeout_s(request.parameters), _classes(request)
    return InferRequest(request.id, arrays, wanted, binary_all, timeout_s, classes)


def _floats_only(head: bytes | memoryview, specs: Sequence[TensorSpec]) -> _FloatRequest | None:
    """Return the request when it is one of flat lists of numbers for floating inputs; another reader reports what is wrong with it."""
    if all(spec.dtype in _FLOATS for spec in specs):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _float_request_decoder.decode(head)
    return None


def encode_response(
    head: dict[str, Any], outputs: Mapping[str, Array], request: InferRequest
) -> tuple[bytes, int | None]:
    """Return the body and, when it holds binary tensors, the length of its JSON part. head: what stands before the outputs."""
    wanted = request.outputs if request.outputs is not None else dict.fromkeys(outputs, request.binary_all)
    described, tails = [], []
    for name, binary in wanted.items():
        value = outputs[name]
        item: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES.get(dtype_name(value.dtype), "BYTES"),
            "shape": list(value.shape),
        }
        if binary:
            tail = to_binary(value)
            item["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            item["data"] = _texts(value) if value.dtype.kind in "OSU" else value.ravel().tolist()
        described.append(item)
    head["outputs"] = described
    document = _encoder.encode(head)
    if not tails:
        return document, None
    return b"".join([document, *tails]), len(document)


def describe_tensor(spec: TensorSpec) -> str:
    """Return `image FP32 [1, 3, height]`."""
    return f"{spec.name} {DATATYPES.get(spec.dtype, spec.dtype)} {format_shape(spec.shape)}"


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor as model metadata shows it; -1 stands for a free length."""
    shape = [d if isinstance(d, int) else -1 for d in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES.get(spec.dtype, spec.dtype), "shape": shape}


def _wanted(request: _Request | _FloatRequest, output_names: Sequence[str], binary_all: bool) -> dict[str, bool] | None:
    if not request.outputs:
        return None
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in output_names:
            raise BadRequestError(
                f"output {output.name[:80]} is not one of this model; it has {', '.join(output_names)}"
            )
        _refuse_shared_memory(output.name, output.parameters)
        wanted[output.name] = output.parameters.get("binary_data", binary_all) is True
    return wanted


def _classes(request: _Request | _FloatRequest) -> dict[str, int]:
    """Return output name -> number of classes for the outputs that want them. Raises BadRequestError."""
    found = {}
    for output in request.outputs or []:
        count = output.parameters.get("classification")
        if count is not None:
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise BadRequestError(f"output {output.name}: classification is a number of classes from 1 on")
            found[output.name] = count
    return found


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the caller's `timeout`, which is in microseconds as Triton's clients send it. Raises BadRequestError."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequestError(f"the parameter timeout is a whole number of microseconds, got {str(value)[:40]!r}")
    return value / 1e6


def _decode_tensor(tensor: _Tensor | _FloatTensor, spec: TensorSpec, binary: memoryview) -> tuple[Array, memoryview]:
    expected = DATATYPES[spec.dtype]
    if tensor.datatype != expected:
        raise BadRequestError(
            f"input {spec.name} must have the datatype {expected}, got {tensor.datatype[:20] or 'none'}",
            next_step=f"send {describe_tensor(spec)}",
        )
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK or any(n < 0 for n in shape) or not shape_fits(spec.shape, shape):
        raise BadRequestError(
            f"input {spec.name} must have the shape {format_shape(spec.shape)}, got {format_shape(shape[:MAX_RANK])}",
            next_step=f"send {describe_tensor(spec)}; a name in the shape stands for any length",
        )
    _refuse_shared_memory(spec.name, tensor.parameters)
    count = 1
    for length in shape:
        count *= length
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is _ABSENT or tensor.data is None:
            raise BadRequestError(f"input {spec.name} has neither data nor parameters.binary_data_size")
        flat = _as_array(tensor.data, spec) if isinstance(tensor.data, list) else _from_json(tensor.data, spec)
    else:
        if (
            not (tensor.data is _ABSENT or tensor.data is None)
            or not isinstance(size, int)
            or not 0 <= size <= len(binary)
        ):
            raise BadRequestError(
                f"input {spec.name}: binary_data_size is {size!r}, {len(binary)} bytes follow the JSON; data must be absent"
            )
        flat, binary = _from_binary(binary[:size], spec), binary[size:]
    if flat.size != count:
        raise BadRequestError(
            f"input {spec.name} has {flat.size} values, its shape {format_shape(shape)} needs {count}",
            next_step=f"send {describe_tensor(spec)}",
        )
    return flat.reshape(shape), binary


def _from_json(data: msgspec.Raw, spec: TensorSpec) -> Array:
    """Return the values as a flat array; nested lists are accepted too."""
    kind = "O" if spec.dtype == "string" else np.dtype(spec.dtype).kind
    decoder = _DECODERS[kind]
    try:
        values = decoder.decode(data)
    except msgspec.MsgspecError:
        values = _flattened(data, spec, kind)
    return _as_array(values, spec)


def _flattened(data: msgspec.Raw, spec: TensorSpec, kind: str) -> list[Any]:
    allowed = {"f": (float, int), "i": (int,), "u": (int,), "b": (bool,), "O": (str,)}[kind]
    flat: list[Any] = []
    try:
        pending: list[Any] = [_any_decoder.decode(data)]
    except (msgspec.MsgspecError, RecursionError) as e:
        raise BadRequestError(f"input {spec.name}: the data cannot be read: {e}") from e
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, allowed) and not (isinstance(item, bool) and kind != "b"):
            flat.append(item)
        else:
            _refuse_value(spec, item)
    return flat


def _as_array(values: list[Any], spec: TensorSpec) -> Array:
    """Return the values in the tensor's dtype. Raises BadRequestError for what it cannot hold: numpy wraps or says inf."""
    if spec.dtype == "string":
        return np.array(values, dtype=object)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values and (min(values) < limits.min or max(values) > limits.max):
            raise BadRequestError(
                f"input {spec.name} must hold {DATATYPES[spec.dtype]} values from {limits.min} to {limits.max}"
            )
        return np.array(values, dtype=dtype)
    if dtype.kind == "b":
        return np.array(values, dtype=dtype)
    try:
        # by way of the standard library's array: numpy looks at each element for what it might be
        found = np.frombuffer(number_array("d", values or [0.0]))[: len(values)]
    except OverflowError:
        found = np.full(1, np.inf)
    with np.errstate(over="ignore"):
        converted = found.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise BadRequestError(
            f"input {spec.name} holds a number beyond the {DATATYPES[spec.dtype]} range of {np.finfo(dtype).max:.4g}"
        )
    return converted


def _refuse_shared_memory(name: str, parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise BadRequestError(
            f"{name[:80]}: shared memory is not an extension of this server; send the values as binary data"
        )


def _refuse_value(spec: TensorSpec, item: Any) -> NoReturn:
    raise BadRequestError(
        f"input {spec.name} must hold {DATATYPES[spec.dtype]} values, got {str(item)[:40]!r}",
        next_step=f"send {describe_tensor(spec)}",
    )


def _from_binary(raw: memoryview, spec: TensorSpec) -> Array:
    if spec.dtype == "string":
        return _strings_from_binary(raw, spec)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise BadRequestError(
            f"input {spec.name}: {len(raw)} bytes are not a whole number of {DATATYPES[spec.dtype]} values"
        )
    # copied: the request body starts its tensors at any byte, runtimes want them aligned
    return np.frombuffer(bytes(raw), dtype=dtype).astype(np.dtype(spec.dtype), copy=False)


def _strings_from_binary(raw: memoryview, spec: TensorSpec) -> Array:
    values, position = [], 0
    try:
        while position < len(raw):
            (length,) = struct.unpack_from("<I", raw, position)
            position += 4
            if position + length > len(raw):
                raise struct.error("a string reaches beyond the tensor")
            values.append(bytes(raw[position : position + length]).decode())
            position += length
    except (struct.error, UnicodeDecodeError) as e:
        raise BadRequestError(f"input {spec.name}: the strings cannot be read: {e}") from e
    return np.array(values, dtype=object)


def to_binary(array: Array) -> bytes:
    """Return a tensor as the binary extension carries it (rule 1)."""
    if array.dtype.kind in "OSU":
        encoded = [v.encode() for v in _texts(array)]
        return b"".join(struct.pack("<I", len(e)) + e for e in encoded)
    return array.tobytes() if _IS_LITTLE else array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _texts(array: Array) -> list[str]:
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
