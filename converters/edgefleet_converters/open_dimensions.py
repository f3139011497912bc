"""How long the open dimensions of a model's inputs are where no data shows it. Pure.

1. The leading dimension is that of the batch: 1. So is any other with the same name, such as that of a state; `?` is no name.
2. Golden or reference data shows lengths as well as evaluation data does.
3. A folder's configuration says how long a text is, for inputs of tokens, and how large an image.
4. The graph decides where a single length runs (`onnx.open_lengths`).
5. What is left is asked. A length that was guessed would give latency and answers of an input that nobody has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_converters.errors import DynamicShapeError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import format_shape

Place = tuple[str, int]
"""An input and the index of one of its dimensions."""
BY_RECIPE: Final = "as the recipe says"
BY_DATA: Final = "as the golden or reference data shows"
BY_FOLDER: Final = "as the folder's configuration says"
BY_GRAPH: Final = "the only length with which the graph runs"
_NO_NAMES: Final = frozenset(("none", "unk", "unknown", "dynamic", "any"))
_EXAMPLES: Final = {2: 128, 3: 100, 4: 224}
"""Lengths of the examples in questions, by the number of dimensions: tokens, a series, an image."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of open dimensions, and how each became known."""

    known: Mapping[Place, int]
    why: Mapping[Place, str]

    def and_of(self, more: Mapping[Place, int], why: str) -> "Lengths":
        """Return these lengths and those of `more` that are not known yet."""
        fresh = {place: length for place, length in more.items() if place not in self.known}
        return Lengths({**self.known, **fresh}, {**self.why, **dict.fromkeys(fresh, why)})

    def shapes(self, inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
        """Return the shape of one sample of each input that has open dimensions behind the first; all of them must be known."""
        places = set(open_places(inputs))
        if not self.known:
            return {}
        return {
            spec.name: tuple(self._length(spec, index) for index in range(1, len(spec.shape)))
            for spec in inputs
            if any((spec.name, index) in places for index in range(len(spec.shape)))
        }

    def _length(self, spec: TensorSpec, index: int) -> int:
        dim = spec.shape[index]
        return self.known.get((spec.name, index), 1) if isinstance(dim, str) else dim

    def told(self, inputs: Sequence[TensorSpec]) -> dict[str, str]:
        """Return by input what its open dimensions were taken for, and why: `1x256, as the folder's configuration says`."""
        found = {}
        for name, shape in self.shapes(inputs).items():
            whys = dict.fromkeys(why for (input_, _), why in self.why.items() if input_ == name)
            found[name] = f"{'x'.join(map(str, (1, *shape)))}, {' and '.join(whys)}"
        return found


NO_LENGTHS: Final = Lengths({}, {})


def is_named(dim: int | str) -> bool:
    """Return whether an open dimension has a name that says something: exporters write one word for all whose length they do not know."""
    return isinstance(dim, str) and any(map(str.isalpha, dim)) and dim.lower() not in _NO_NAMES


def open_places(inputs: Sequence[TensorSpec]) -> Iterator[Place]:
    """Yield the open dimensions whose length has to be known (rule 1)."""
    batch = {spec.shape[0] for spec in inputs if spec.shape and is_named(spec.shape[0])}
    for spec in inputs:
        for index, dim in enumerate(spec.shape):
            if index and isinstance(dim, str) and dim not in batch:
                yield spec.name, index


def declared(inputs: Sequence[TensorSpec], lengths: Mapping[str, int]) -> dict[Place, int]:
    """Return what a folder's configuration says of open dimensions. lengths: `tokens`, `channels`, `height`, `width` as far as known.

    Tokens are whole numbers, one row a text; an image is [n, channels, height, width].
    """
    found: dict[Place, int] = {}
    for spec in inputs:
        names: tuple[str, ...] = ()
        if spec.dtype in ("int64", "int32") and len(spec.shape) == 2:
            names = ("tokens",)
        elif spec.dtype.startswith("float") and len(spec.shape) == 4:
            names = ("channels", "height", "width")
        found |= {(spec.name, index): lengths[name] for index, name in enumerate(names, 1) if name in lengths}
    return {place: length for place, length in found.items() if place in set(open_places(inputs))}


def missing(inputs: Sequence[TensorSpec], found: Mapping[Place, int]) -> list[Place]:
    """Return the open dimensions whose length is not known."""
    return [place for place in open_places(inputs) if place not in found]


def question(inputs: Sequence[TensorSpec], unknown: Sequence[Place], *, is_fixable: bool) -> DynamicShapeError:
    """Return the question for lengths that nothing says. is_fixable: `--shape` can fix them (not in a TFLite file)."""
    asked = [spec for spec in inputs if any(name == spec.name for name, _ in unknown)]
    names = " and ".join(f"{spec.name!r} {format_shape(spec.shape)}" for spec in asked)
    open_dims = list(
        dict.fromkeys(_called(spec, index) for spec in asked for name, index in unknown if name == spec.name)
    )
    what = (
        f"the open dimension {open_dims[0]}" if len(open_dims) == 1 else f"the open dimensions {', '.join(open_dims)}"
    )
    message = (
        f"input {names} has {what}, and nothing shows how long {'it is' if len(open_dims) == 1 else 'they are'} on the device"
        if len(asked) == 1
        else f"inputs {names} have {what}, and nothing shows how long they are on the device"
    )
    if not is_fixable:
        return DynamicShapeError(message, next_step="give data of the usual shape with --calibration or --eval")
    example = " ".join(f"--shape {spec.name}={','.join(map(str, _example(spec)))}" for spec in asked)
    return DynamicShapeError(
        message,
        next_step=f"give data of the usual shape with --calibration or --eval, or fix the shape, for example {example}",
    )


def _called(spec: TensorSpec, index: int) -> str:
    dim = spec.shape[index]
    return f"{dim!r}" if is_named(dim) else f"number {index + 1}"


def _example(spec: TensorSpec) -> list[int]:
    usual = _EXAMPLES.get(len(spec.shape), 32)
    return [dim if isinstance(dim, int) else usual if index else 1 for index, dim in enumerate(spec.shape)]
