"""Find open dimensions that the graph leaves no choice for: an input of features in front of a matrix, channels in front of a Conv.

A length is decided where the model runs with it and with none of its neighbours (one less, one more, twice as much). Tried are the
lengths of the weights' dimensions, shortest first: the first two that run show that the length is free. Runs in a sandboxed child.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from edgefleet_converters.onnx.load import parse
from edgefleet_converters.onnx.walk import all_tensors
from edgefleet_converters.open_dimensions import is_named
from edgefleet_protocol.manifest import TensorSpec

Place = tuple[str, int]
Runs = Callable[[Mapping[Place, int]], bool]
MOST_LENGTH: Final = 4096
MOST_TRIED: Final = 48
OTHERS: Final = (7, 32, 224)
"""Lengths that the other open dimensions have meanwhile."""


def lengths_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, inputs, places}. Returns `{lengths: [[input, index, length], …]}` of the places that are decided."""
    inputs = [TensorSpec(name=one["name"], dtype=one["dtype"], shape=one["shape"]) for one in args["inputs"]]
    data = Path(args["model"]).read_bytes()
    groups = _groups(inputs, [(name, index) for name, index in args["places"]])
    runs = _runner(data, inputs)
    known = decided(groups, _weight_lengths(parse(data)), runs)
    return {"lengths": [[name, index, length] for (name, index), length in known.items()]}


def decided(groups: list[list[Place]], lengths: list[int], runs: Runs) -> dict[Place, int]:
    """Return the lengths of the dimensions that have no choice. groups: dimensions of one name have one length."""
    known: dict[Place, int] = {}
    left, is_new = list(groups), True
    while left and is_new:
        is_new = False
        for group in list(left):
            length = next(filter(None, (_only(group, groups, known, lengths, runs, other) for other in OTHERS)), None)
            if length is not None:
                known |= dict.fromkeys(group, length)
                left.remove(group)
                is_new = True
    return known


def _only(
    group: list[Place], groups: list[list[Place]], known: Mapping[Place, int], lengths: list[int], runs: Runs, other: int
) -> int | None:  # fmt: skip
    """Return the only length of a group, None where none or several run. other: of the groups that are not known."""
    base = {place: known.get(place, other) for one in groups for place in one}

    def does(length: int) -> bool:
        return runs(base | dict.fromkeys(group, length))

    works = next((length for length in lengths if does(length)), None)
    if works is None:
        return 1 if does(1) and not (does(2) or does(3)) else None
    return None if any(does(near) for near in (works - 1, works + 1, 2 * works) if near > 1) else works


def _groups(inputs: list[TensorSpec], places: list[Place]) -> list[list[Place]]:
    """Return the places by the name of their dimension; one without a name of its own is alone."""
    shapes = {spec.name: spec.shape for spec in inputs}
    groups: dict[object, list[Place]] = {}
    for name, index in places:
        dim = shapes[name][index]
        groups.setdefault(dim if is_named(dim) and dim != f"dim{index}" else (name, index), []).append((name, index))
    return list(groups.values())


def _weight_lengths(model: onnx.ModelProto) -> list[int]:
    """Return the lengths that weights have, shortest first."""
    found = {int(dim) for tensor in all_tensors(model) for dim in tensor.dims}
    return sorted(length for length in found if 1 < length <= MOST_LENGTH)[:MOST_TRIED]


def _runner(data: bytes, inputs: list[TensorSpec]) -> Runs:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def runs(lengths: Mapping[Place, int]) -> bool:
        feeds = {spec.name: np.zeros(tuple(_dims(spec, lengths)), np.dtype(spec.dtype)) for spec in inputs}
        try:
            answers = session.run(None, feeds)
        except Exception:  # noqa: BLE001 - onnxruntime raises what it likes for a shape that does not fit
            return False
        return all(np.size(answer) for answer in answers)

    return runs


def _dims(spec: TensorSpec, lengths: Mapping[Place, int]) -> Iterator[int]:
    for index, dim in enumerate(spec.shape):
        yield dim if isinstance(dim, int) else lengths.get((spec.name, index), 1)
