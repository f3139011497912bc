"""Inference requests and answers of one model: `wire` with a memory for what a caller repeats.

1. A caller that sends binary tensors sends the same JSON before them each time. What `wire` made of it once is kept by its bytes; the
   tensors are then read where they lie. What is kept was fully checked, and depends on those bytes and the model alone.
2. The JSON of a binary answer depends on the outputs' shapes and on which are wanted: it is kept by these.
3. Kept are `MAX_KEPT` of each, none with an id, strings or numbers in the JSON; when it is full, all are forgotten.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgefleet_agent.worker.http import wire
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array

MAX_KEPT = 64
MAX_KEPT_BYTES = 4096


class Slice(msgspec.Struct, frozen=True):
    """Where one tensor lies behind the JSON. dtype: little-endian; count: elements; begin: bytes from the start of the body."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    begin: int


class Layout(msgspec.Struct, frozen=True):
    """What a JSON head says. request: without its inputs."""

    slices: tuple[Slice, ...]
    body_bytes: int
    request: wire.InferRequest


class InferCodec:
    """Decodes requests for one model and encodes its answers."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        output_names: Sequence[str],
        head: Mapping[str, Any],
        labels: Sequence[str] = (),
    ) -> None:
        """head: what stands before the outputs of every answer; its `parameters` get `nonfinite` where there is a need."""
        self._labels = tuple(labels)
        self._specs = tuple(inputs)
        self._output_names = tuple(output_names)
        self._head = dict(head)
        self._layouts: dict[bytes, Layout] = {}
        self._documents: dict[tuple[object, ...], bytes] = {}

    def decode(self, body: bytes, header_length: int | None) -> wire.InferRequest:
        """Return the request in `body`, as `wire.decode_request`. Raises BadRequestError."""
        key = body[:header_length] if header_length is not None and 0 < header_length <= MAX_KEPT_BYTES else None
        layout = self._layouts.get(key) if key is not None else None
        if layout is not None and layout.body_bytes == len(body):
            arrays = {each.name: _taken(body, each) for each in layout.slices}
            known = layout.request
            return wire.InferRequest(known.id, arrays, known.outputs, known.binary_all, known.timeout_s, known.classes)
        request = wire.decode_request(body, header_length, self._specs, self._output_names)
        if key is not None:
            self._keep(key, body, request)
        return request

    def known(self, body: bytes, header_length: int) -> wire.InferRequest | None:
        """Return the request in `body` when its JSON came before and says nothing that takes a look of its own, else None."""
        layout = self.layout(body[:header_length], len(body))
        if layout is None:
            return None
        known = layout.request
        arrays = {each.name: _taken(body, each) for each in layout.slices}
        return wire.InferRequest(known.id, arrays, known.outputs, known.binary_all)

    def layout(self, document: bytes, body_bytes: int) -> Layout | None:
        """Return where the tensors lie behind JSON that came before and says nothing that takes a look of its own, else None."""
        layout = self._layouts.get(document)
        if layout is None or layout.body_bytes != body_bytes:
            return None
        return None if layout.request.classes or layout.request.timeout_s is not None else layout

    def known_answer(
        self, request: wire.InferRequest, outputs: Mapping[str, Array]
    ) -> tuple[bytes, list[Array]] | None:
        """Return the JSON of an answer that came before and the tensors behind it, None when there was none like it."""
        if request.outputs is None:
            names, arrays = tuple(outputs), list(outputs.values())
            if not request.binary_all:
                return None
        else:
            names, arrays = tuple(request.outputs), [outputs[name] for name in request.outputs]
            if not all(request.outputs.values()):
                return None
        if sys.byteorder != "little" or not all(array.flags.c_contiguous for array in arrays):
            return None  # the wire has them in another order
        document = self._documents.get((*names, *[(a.dtype, a.shape) for a in arrays]))
        return None if document is None else (document, arrays)

    def encode(
        self, request: wire.InferRequest, outputs: Mapping[str, Array], nonfinite: int = 0
    ) -> tuple[bytes, int | None]:
        """Return the body and, when it holds binary tensors, the length of its JSON part."""
        if request.classes:
            outputs = {**outputs, **{n: _classified(outputs[n], k, self._labels) for n, k in request.classes.items()}}
        wanted = request.outputs if request.outputs is not None else dict.fromkeys(outputs, request.binary_all)
        arrays = [outputs[name] for name in wanted]
        is_plain = (
            not (request.id or nonfinite) and all(wanted.values()) and not any(a.dtype.kind in "OSU" for a in arrays)
        )
        if not is_plain:
            return wire.encode_response(self._begun(request, nonfinite), outputs, request)
        key = (*wanted, *((a.dtype, a.shape) for a in arrays))
        document = self._documents.get(key)
        if document is None:
            body, length = wire.encode_response(self._begun(request, nonfinite), outputs, request)
            if length is not None:
                _make_room(self._documents)
                self._documents[key] = body[:length]
            return body, length
        return b"".join([document, *(wire.to_binary(a) for a in arrays)]), len(document)

    def _begun(self, request: wire.InferRequest, nonfinite: int) -> dict[str, Any]:
        head = dict(self._head)
        parameters = head.pop("parameters", {})
        if request.id:
            head["id"] = request.id
        head["parameters"] = {**parameters, "nonfinite": nonfinite} if nonfinite else parameters
        return head

    def _keep(self, key: bytes, body: bytes, request: wire.InferRequest) -> None:
        position, slices = len(key), []
        for name, array in request.inputs.items():
            if array.dtype.kind == "O" or array.size == 0:
                return
            slices.append(Slice(name, array.dtype.newbyteorder("<"), array.shape, array.size, position))
            position += array.nbytes
        # numbers that stood in the JSON would make the sum too large
        if position == len(body) and not request.id:
            _make_room(self._layouts)
            self._layouts[key] = Layout(tuple(slices), len(body), msgspec.structs.replace(request, inputs={}))


def _taken(body: bytes, each: Slice) -> Array:
    flat = np.frombuffer(body, each.dtype, each.count, each.begin)
    if not (flat.flags.aligned and each.dtype.isnative):
        flat = flat.astype(each.dtype.newbyteorder("="))  # a copy: runtimes want aligned values of their own order
    return flat.reshape(each.shape)


def _classified(scores: Array, count: int, labels: Sequence[str]) -> Array:
    """Return the best classes of the last axis as `score:index:label`, best first (Triton's classification extension)."""
    rows = scores.reshape(-1, scores.shape[-1]) if scores.ndim else scores.reshape(1, 1)
    best = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[:, :count]
    words = [
        [f"{row[i]:f}:{i}" + (f":{labels[i]}" if i < len(labels) else "") for i in order]
        for row, order in zip(rows, best.tolist(), strict=True)
    ]
    return np.array(words, dtype=object).reshape(*scores.shape[:-1], best.shape[1])


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= MAX_KEPT:
        kept.clear()
