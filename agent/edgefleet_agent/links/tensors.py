"""What an inference says in JSON around its binary tensors, for callers: made once for arrays of one kind and kept.

A caller sends arrays of the same names, types and shapes again and again, and the answers differ in nothing but their values. So the JSON
of a request is kept by what its arrays are, and what the JSON of an answer meant by its bytes. `MAX_KEPT` of each; then all are forgotten.
"""

import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgefleet_agent.datatypes import DATATYPES
from edgefleet_protocol.memory_frames import ALIGNMENT

MAX_KEPT = 64
MAX_KEPT_BYTES = 4096
_NUMPY_NAMES = {datatype: name for name, datatype in DATATYPES.items() if name != "string"}
_FOREIGN_ORDER = ">" if sys.byteorder == "little" else "<"


class RequestPlan(NamedTuple):
    """A request but for its values. as_is: each array can be sent where it lies.

    document: its JSON, filled up so that the tensors behind it are aligned. head: of HTTP, with the JSON. body_bytes: JSON and tensors.
    """

    document: bytes
    head: bytes
    body_bytes: int
    as_is: bool


class Place(NamedTuple):
    """Where one output lies: `begin` bytes behind the JSON. make: `numpy.ndarray`."""

    name: str
    make: Any
    dtype: Any
    shape: tuple[int, ...]
    begin: int


class Tensor(NamedTuple):
    """An array that lies in a buffer which is used again."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    place: Any


def put(inputs: Mapping[str, Any], tensors: Sequence[Tensor]) -> bool:
    """Copy arrays to their places; False when they are not of the same names, types and shapes."""
    if len(inputs) != len(tensors):
        return False
    for name, dtype, shape, place in tensors:
        array = inputs.get(name)
        if array is None or array.dtype is not dtype or array.shape != shape:
            return False
        place[...] = array
    return True


def taken(tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Return copies of arrays by their names."""
    found = {}
    for name, _, _, place in tensors:
        found[name] = place.copy()
    return found


def laid_out(inputs: Mapping[str, Any], buffer: Any, begin: int) -> list[Tensor]:
    """Return the places of such arrays in a buffer, one behind the other. Needs numpy."""
    import numpy as np

    tensors = []
    for name, array in inputs.items():
        tensors.append(Tensor(name, array.dtype, array.shape, np.ndarray(array.shape, array.dtype, buffer, begin)))
        begin += array.nbytes
    return tensors


def answered(places: Sequence[Place], buffer: Any, begin: int) -> list[Tensor]:
    """Return the outputs of an answer whose tensors begin there in a buffer."""
    return [
        Tensor(name, dtype, shape, make(shape, dtype, buffer, begin + offset))
        for name, make, dtype, shape, offset in places
    ]


class RequestPlans:
    """The plans of one caller."""

    def __init__(self, http_head: str) -> None:
        """http_head: of each request; it takes the length of the JSON and that of the body."""
        self._http_head = http_head
        self._kept: dict[tuple[object, ...], RequestPlan] = {}
        # one attribute: several threads may ask, and must not meet the arrays of one request with the plan of another
        self._last: tuple[list[tuple[str, Any, tuple[int, ...]]], RequestPlan] | None = None

    def plan(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None) -> RequestPlan:
        """Return the plan for such arrays. outputs: which are wanted, None = all."""
        last = self._last
        if outputs is None and last is not None and len(inputs) == len(last[0]):
            # mostly they are what they were; a look at each costs less than a key of all
            for (name, array), (last_name, dtype, shape) in zip(inputs.items(), last[0], strict=True):
                if name != last_name or array.dtype is not dtype or array.shape != shape:
                    break
            else:
                return last[1]
        arrays = [(name, array.dtype, array.shape) for name, array in inputs.items()]
        key = (*arrays, None if outputs is None else tuple(outputs))
        plan = self._kept.get(key)
        if plan is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            plan = self._kept[key] = _planned(self._http_head, inputs, outputs)
        if outputs is None and arrays:
            self._last = arrays, plan
        return plan


def tensors_of(inputs: Mapping[str, Any], *, as_is: bool) -> list[Any]:
    """Return the values of arrays as the binary extension carries them: an array itself where it lies so already."""
    arrays = list(inputs.values())
    for place, array in enumerate(arrays):
        if not (as_is and array.flags.c_contiguous):
            arrays[place] = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return arrays


class AnswerPlans:
    """What the JSON of answers meant. Needs numpy."""

    def __init__(self) -> None:
        self._kept: dict[bytes, list[Place]] = {}

    def places(self, document: bytes) -> list[Place] | None:
        """Return where the outputs lie behind the JSON of an answer that came before, None when it must be read."""
        return self._kept.get(document)

    def arrays(self, document: bytes, tails: bytearray | memoryview) -> dict[str, Any]:
        """Return output name -> array. document: the JSON of an answer; tails: the tensors behind it, which the arrays go on using."""
        places = self._kept.get(document)
        if places is not None:
            found = {}
            for name, make, dtype, shape, begin in places:
                found[name] = make(shape, dtype, tails, begin)
            return found
        found, places = _read(document, tails)
        if places and len(document) <= MAX_KEPT_BYTES:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[document] = places
        return found


def _planned(http_head: str, inputs: Mapping[str, Any], outputs: Sequence[str] | None) -> RequestPlan:
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES.get(array.dtype.name, array.dtype.name),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    request: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        request["outputs"] = [{"name": name} for name in outputs]
    document = json.dumps(request).encode()
    document += b" " * (-len(document) % ALIGNMENT)
    arrays = inputs.values()
    as_is = all(a.dtype.kind in "biufc" and a.dtype.byteorder != _FOREIGN_ORDER and a.size for a in arrays)
    body_bytes = len(document) + sum(a.nbytes for a in arrays)
    head = (http_head % (len(document), body_bytes)).encode("latin-1") + document
    return RequestPlan(document, head, body_bytes, as_is and sys.byteorder == "little")


def _read(document: bytes, tails: bytearray | memoryview) -> tuple[dict[str, Any], list[Place]]:
    """Return the outputs, and where each lies when all are numbers behind the JSON, else no places."""
    import numpy as np

    found: dict[str, Any] = {}
    places: list[Place] = []
    is_plain, position = True, 0
    described = json.loads(document)
    for output in described["outputs"]:
        name, shape, datatype = output["name"], tuple(output["shape"]), output["datatype"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            is_plain = False
            found[name] = np.array(output.get("data", []), dtype=object).reshape(shape)
            continue
        if datatype == "BYTES":
            is_plain = False
            found[name] = np.array(_strings(tails[position : position + size]), dtype=object).reshape(shape)
        else:
            dtype = np.dtype(_NUMPY_NAMES[datatype]).newbyteorder("<")
            found[name] = np.frombuffer(tails, dtype, math.prod(shape), position).reshape(shape)
            places.append(Place(name, np.ndarray, dtype, shape, position))
        position += size
    # NaN and infinities are counted in the JSON of an answer, an id is its own: such a document does not come twice
    return found, places if is_plain and "id" not in described else []


def _strings(raw: bytearray | memoryview) -> list[str]:
    values, position = [], 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4 + length
        values.append(bytes(raw[position - length : position]).decode())
    return values
