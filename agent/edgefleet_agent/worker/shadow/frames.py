"""Samples on their way from the serving worker to a shadow, over a socket or through a file: one frame each.

1. A frame is two lengths (uint32, little-endian), a MessagePack head and the tensors' bytes one after the other.
2. The first frame of a stream is a `Hello`: how the serving version's outputs are to be read. All others are samples.
3. A stream may end in the middle of a frame, after a kill or a full disk: what is whole counts, the rest is left.
"""

import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.postprocess import Postprocess

MAX_HEAD_BYTES = 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
_LENGTHS = struct.Struct("<II")
_STRINGS = "string"


class BadFrameError(EdgefleetError):
    """The other side sent something that is not a frame."""

    code = "worker.bad_frame"


class Hello(msgspec.Struct, frozen=True, tag="hello", tag_field="t"):
    """The version that serves: its bundle, its outputs and what its bundle makes of them."""

    digest: str
    version: str
    outputs: list[TensorSpec]
    declared: Postprocess
    labels: list[str]


class _Tensor(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    shape: list[int]
    size: int


class _SampleHead(msgspec.Struct, frozen=True, tag="sample", tag_field="t"):
    run_s: float
    inputs: list[_Tensor]
    outputs: list[_Tensor]


class Sample(msgspec.Struct, frozen=True, eq=False):
    """One answered inference. run_s: seconds inside the serving runtime."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    run_s: float


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Hello | _SampleHead] = msgspec.msgpack.Decoder(Hello | _SampleHead)


def encode_hello(hello: Hello) -> list[bytes | memoryview]:
    """Return the parts of the first frame."""
    head = _encoder.encode(hello)
    return [_LENGTHS.pack(len(head), 0) + head]


def encode_sample(sample: Sample) -> list[bytes | memoryview]:
    """Return the parts of a frame; tensors are not copied where they lie in one piece."""
    tensors: list[_Tensor] = []
    parts: list[bytes | memoryview] = []
    for name, array in (*sample.inputs.items(), *sample.outputs.items()):
        dtype, data = _raw(array)
        tensors.append(_Tensor(name, dtype, list(array.shape), len(data)))
        if len(data):
            parts.append(data)
    split = len(sample.inputs)
    head = _encoder.encode(_SampleHead(sample.run_s, tensors[:split], tensors[split:]))
    return [_LENGTHS.pack(len(head), sum(tensor.size for tensor in tensors)) + head, *parts]


class FrameReader:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Hello | Sample]:
        """Return the frames that are whole now. Raises BadFrameError."""
        self._buffer += data
        frames: list[Hello | Sample] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Hello | Sample | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        head_bytes, body_bytes = _LENGTHS.unpack_from(self._buffer)
        if head_bytes > MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
            raise BadFrameError(f"a frame announces {head_bytes} and {body_bytes} bytes")
        end = _LENGTHS.size + head_bytes + body_bytes
        if len(self._buffer) < end:
            return None
        whole = bytes(memoryview(self._buffer)[:end])
        del self._buffer[:end]
        body_at = _LENGTHS.size + head_bytes
        try:
            head = _decoder.decode(memoryview(whole)[_LENGTHS.size : body_at])
            return head if isinstance(head, Hello) else _sample(head, memoryview(whole)[body_at:])
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise BadFrameError(f"a frame cannot be read: {error}") from error


def _sample(head: _SampleHead, body: memoryview) -> Sample:
    arrays: list[tuple[str, Array]] = []
    at = 0
    for tensor in (*head.inputs, *head.outputs):
        arrays.append((tensor.name, _array(tensor, body[at : at + tensor.size])))
        at += tensor.size
    split = len(head.inputs)
    return Sample(dict(arrays[:split]), dict(arrays[split:]), head.run_s)


def _raw(array: Array) -> tuple[str, bytes | memoryview]:
    if array.dtype.kind in "OSU":
        texts = [v if isinstance(v, bytes | str) else str(v) for v in array.ravel().tolist()]
        return _STRINGS, _encoder.encode(texts)
    if not array.size:
        return array.dtype.name, b""
    # through uint8: some dtypes (bfloat16) have no buffer format of their own
    return array.dtype.name, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array(tensor: _Tensor, raw: memoryview) -> Array:
    if tensor.dtype == _STRINGS:
        values = msgspec.msgpack.decode(raw, type=list[Any])  # str and bytes in one union are not for msgspec
        return np.array(values, dtype=object).reshape(tensor.shape)
    # copied: tensors begin at any byte, runtimes want them aligned
    return np.frombuffer(bytes(raw), dtype=np.dtype(tensor.dtype)).reshape(tensor.shape)
