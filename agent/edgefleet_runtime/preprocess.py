"""From what a caller has (an image file, CSV, JSON, an array) to the model's inputs, by the steps that the bundle declares.

1. `preprocess.json` is data, versioned; every step is one struct below, chosen by `op`. Unknown keys are refused.
2. The steps give *real* values in the source model's terms. What the bundle's own model needs beyond them is done last and by the
   manifest alone (`to_model`): batch axis, channel order, float width, quantization. So one file serves fp32 and int8 bundles.
3. A bad declaration is a PreprocessError (the bundle's fault), bad data a subclass of EdgefleetError from here or `image`
   (the caller's fault) that says what was expected.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import image as images
from edgefleet_runtime.port import Array, InputError, check_array, format_shape, is_batched
from edgefleet_runtime.quantization import quantize_array

PREPROCESS_MEMBER = "preprocess.json"


class PreprocessError(EdgefleetError):
    """The bundle's preprocess.json is not valid, or does not give what its model takes."""

    code = "preprocess.bad_declaration"


class BadPayloadError(EdgefleetError):
    """The caller's data does not fit what the bundle declares."""

    code = "preprocess.bad_payload"


class _Step(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """Root of the steps."""


class Decode(_Step, frozen=True, tag="decode"):
    """Image file or array → uint8 [height, width, 1 or 3]. First step of an image input."""

    mode: images.ColourMode = "rgb"


class Resize(_Step, frozen=True, tag="resize"):
    """To width × height; keep_aspect: the largest size of the same proportions inside that box (follow it with pad)."""

    width: int
    height: int
    method: images.ResizeMethod = "bilinear"
    keep_aspect: bool = False


class CentreCrop(_Step, frozen=True, tag="centre_crop"):
    """The middle width × height."""

    width: int
    height: int


class Pad(_Step, frozen=True, tag="pad"):
    """Onto a canvas of width × height filled with value."""

    width: int
    height: int
    value: float = 0.0
    position: Literal["centre", "top_left"] = "centre"


class Scale(_Step, frozen=True, tag="scale"):
    """x · factor + offset, in float32."""

    factor: float = 1.0
    offset: float = 0.0


class Normalise(_Step, frozen=True, tag="normalise"):
    """(x - mean) / std, in float32; one number, or one for each element of the last axis."""

    mean: float | list[float]
    std: float | list[float]


class Layout(_Step, frozen=True, tag="layout"):
    """[h, w, c] → this order. A leading N adds the batch axis."""

    to: Literal["HWC", "CHW", "NHWC", "NCHW"]


class Reshape(_Step, frozen=True, tag="reshape"):
    """To this shape; one -1 at most."""

    shape: list[int]


class Cast(_Step, frozen=True, tag="cast"):
    """To this dtype; real → integer rounds and clips."""

    dtype: Literal["float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]


Step = Decode | Resize | CentreCrop | Pad | Scale | Normalise | Layout | Reshape | Cast


class ImageInput(msgspec.Struct, frozen=True, tag_field="from", tag="image", forbid_unknown_fields=True):
    """One model input made from an image."""

    name: str
    steps: list[Step]


class ColumnsInput(msgspec.Struct, frozen=True, tag_field="from", tag="columns", forbid_unknown_fields=True):
    """One model input made from table columns: one row = one sample, [rows, columns] before the steps.

    categories: column -> its words; a word becomes its index. missing: what an empty cell becomes (None: refused).
    """

    name: str
    columns: list[str]
    categories: dict[str, list[str]] = {}
    missing: float | None = None
    steps: list[Step] = []


class ArrayInput(msgspec.Struct, frozen=True, tag_field="from", tag="array", forbid_unknown_fields=True):
    """One model input taken from an array of numbers."""

    name: str
    steps: list[Step] = []


InputRecipe = ImageInput | ColumnsInput | ArrayInput


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole preprocess.json."""

    inputs: list[InputRecipe]
    v: Literal[1] = 1


def parse_preprocess(data: bytes) -> Preprocess:
    """Return the declaration. Raises PreprocessError."""
    try:
        declared = msgspec.json.decode(data, type=Preprocess)
    except msgspec.MsgspecError as e:
        raise PreprocessError(
            f"preprocess.json is not valid: {e}", next_step="correct it and publish a new version"
        ) from e
    names = [recipe.name for recipe in declared.inputs]
    if not names or len(set(names)) != len(names):
        raise PreprocessError("preprocess.json must describe each input once, and at least one")
    for recipe in declared.inputs:
        _check_recipe(recipe)
    return declared


def check_against(declared: Preprocess, specs: Sequence[TensorSpec]) -> None:
    """Raise PreprocessError unless the declaration describes exactly the model's inputs."""
    wanted, given = {s.name for s in specs}, {r.name for r in declared.inputs}
    if wanted != given:
        raise PreprocessError(
            f"preprocess.json describes the inputs {sorted(given)}, the model takes {sorted(wanted)}",
            next_step="describe every input of the model once",
        )


def default_preprocess(specs: Sequence[TensorSpec]) -> Preprocess:
    """Return what holds without a preprocess.json: arrays as they are."""
    return Preprocess(inputs=[ArrayInput(name=s.name) for s in specs])


def from_image(declared: Preprocess, data: bytes | Array, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the inputs made from one image file, or from an image array [h, w] or [h, w, c].

    Raises BadPayloadError when the model does not take an image, BadImageError, ImageSupportMissingError, PreprocessError.
    """
    recipe = declared.inputs[0]
    if len(declared.inputs) != 1 or not isinstance(recipe, ImageInput):
        raise BadPayloadError(
            f"this model does not take an image; it takes {describe(declared, specs)}",
            next_step="send that instead, or publish the model with a preprocess.json for images",
        )
    return {recipe.name: _made(recipe, data, specs)}


def from_array(declared: Preprocess, array: Array, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the inputs made from one array: pixels for an image input, rows for columns, values otherwise.

    Raises BadPayloadError, PreprocessError.
    """
    recipe = declared.inputs[0]
    if len(declared.inputs) != 1:
        raise BadPayloadError(
            f"this model takes {len(declared.inputs)} inputs: {describe(declared, specs)}",
            next_step="send JSON with an array for each input",
        )
    if isinstance(recipe, ImageInput):
        return from_image(declared, array, specs)
    if isinstance(recipe, ColumnsInput):
        rows = array if array.ndim == 2 else array.reshape(1, -1)
        if rows.shape[1] != len(recipe.columns):
            raise BadPayloadError(
                f"a row has the {len(recipe.columns)} columns {', '.join(recipe.columns)}; got {rows.shape[1]}"
            )
        array = rows.astype(np.float32)
    return {recipe.name: _made(recipe, array, specs)}


def from_arrays(declared: Preprocess, arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the inputs made from one array per input. Raises BadPayloadError, PreprocessError."""
    if set(arrays) != {r.name for r in declared.inputs}:
        raise BadPayloadError(
            f"this model takes {describe(declared, specs)}; got values for {', '.join(sorted(arrays)) or 'nothing'}",
            next_step="send an array for each input, under its name",
        )
    return {
        recipe.name: from_array(Preprocess(inputs=[recipe]), arrays[recipe.name], specs)[recipe.name]
        for recipe in declared.inputs
    }


def from_rows(
    declared: Preprocess, rows: Sequence[Mapping[str, Any]], specs: Sequence[TensorSpec], places: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the inputs made from table rows (column -> text or number). Raises BadPayloadError, PreprocessError.

    places: where each row stands, as errors name it; `row 1` … else.
    """
    if not rows:
        raise BadPayloadError("there is no row to predict on", next_step="send at least one row")
    inputs = {}
    for recipe in declared.inputs:
        if not isinstance(recipe, ColumnsInput):
            raise BadPayloadError(
                f"this model does not take table rows; it takes {describe(declared, specs)}",
                next_step="send that instead, or publish the model with a preprocess.json for columns",
            )
        named = places or [f"row {i + 1}" for i in range(len(rows))]
        table = np.array(
            [
                [_cell(recipe, row, column, place) for column in recipe.columns]
                for row, place in zip(rows, named, strict=True)
            ]
        )
        inputs[recipe.name] = _made(recipe, table.astype(np.float32), specs)
    return inputs


def from_samples(declared: Preprocess, raw: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the model's inputs made from many raw samples, by the same steps as from one; first axis = samples.

    raw: input -> images [n, h, w] or [n, h, w, c], table rows [n, columns], or arrays [n, …]. This is how a converter gets from the
    data that a device will see to the data that a model is judged on. Raises BadPayloadError, BadImageError, PreprocessError.
    """
    inputs = {}
    for recipe in declared.inputs:
        if recipe.name not in raw:
            raise BadPayloadError(f"there are no raw samples for the input {recipe.name}")
        only = Preprocess(inputs=[recipe])
        made = [from_array(only, sample, specs)[recipe.name] for sample in raw[recipe.name]]
        if not made:
            raise BadPayloadError(f"there are no samples for the input {recipe.name}")
        spec = next(s for s in specs if s.name == recipe.name)
        inputs[recipe.name] = np.concatenate(made) if is_batched(spec) else np.stack(made)
    return inputs


def probe(declared: Preprocess, specs: Sequence[TensorSpec]) -> None:
    """Raise PreprocessError when the steps cannot give what the model takes, whatever is sent.

    Checked with one made-up sample, where its size does not matter: a table row, or an image that a step brings to a fixed size.
    """
    for recipe in declared.inputs:
        if isinstance(recipe, ColumnsInput):
            sample = np.zeros((1, len(recipe.columns)), np.float32)
        elif isinstance(recipe, ImageInput) and any(
            isinstance(step, Pad | CentreCrop) or (isinstance(step, Resize) and not step.keep_aspect)
            for step in recipe.steps
        ):
            crops = [s for s in recipe.steps if isinstance(s, Pad | CentreCrop)]
            height, width = max([8, *(s.height for s in crops)]), max([8, *(s.width for s in crops)])
            sample = np.zeros((height, width, 3), np.uint8)
        else:
            continue
        try:
            from_array(Preprocess(inputs=[recipe]), sample, specs)
        except BadPayloadError as e:
            raise PreprocessError(
                f"preprocess.json does not give what the model takes. {e.message}",
                next_step="correct its steps (size, layout, cast) and publish a new version",
            ) from e


def describe(declared: Preprocess, specs: Sequence[TensorSpec]) -> str:
    """Return in words what a caller has to send."""
    by_name = {s.name: s for s in specs}
    words = []
    for recipe in declared.inputs:
        if isinstance(recipe, ImageInput):
            words.append(f"{recipe.name}: an image")
        elif isinstance(recipe, ColumnsInput):
            words.append(f"{recipe.name}: rows with the columns {', '.join(recipe.columns)}")
        else:
            spec = by_name.get(recipe.name)
            words.append(f"{recipe.name}: {spec.dtype} {format_shape(spec.shape)}" if spec else recipe.name)
    return "; ".join(words)


def to_model(array: Array, spec: TensorSpec) -> Array:
    """Return real values as the model's own tensor: batch axis, channel order, quantization, float width (rule 2).

    Raises InputError when they still do not fit.
    """
    if array.ndim == len(spec.shape) - 1 and is_batched(spec):
        array = array[None]
    if array.dtype.name != spec.dtype:
        if spec.quantization is not None:
            array = quantize_array(array, spec.quantization, spec.dtype)
        elif np.can_cast(array.dtype, spec.dtype, "same_kind") and array.dtype.kind == np.dtype(spec.dtype).kind:
            array = array.astype(spec.dtype)
    check_array(spec, array)
    return np.ascontiguousarray(array)


def _check_recipe(recipe: InputRecipe) -> None:
    if isinstance(recipe, ImageInput) and not (recipe.steps and isinstance(recipe.steps[0], Decode)):
        raise PreprocessError(f"input {recipe.name} comes from an image, so its first step must be decode")
    if isinstance(recipe, ColumnsInput):
        unknown = sorted(set(recipe.categories) - set(recipe.columns))
        if not recipe.columns or len(set(recipe.columns)) != len(recipe.columns) or unknown:
            raise PreprocessError(
                f"input {recipe.name} must name each column once; categories for unknown columns: {unknown or 'none'}"
            )
    for step in recipe.steps:
        if isinstance(step, Resize | CentreCrop | Pad) and not (1 <= step.width <= 16384 and 1 <= step.height <= 16384):
            raise PreprocessError(f"input {recipe.name}: width and height are 1 to 16384, got {step}")
        if isinstance(step, Normalise) and np.any(np.asarray(step.std) == 0):
            raise PreprocessError(f"input {recipe.name}: std must not be 0")


def _run_steps(steps: Sequence[Step], data: bytes | Array) -> Array:
    value: Array
    if isinstance(data, np.ndarray):
        value, rest = data, steps
    else:
        first = steps[0]
        assert isinstance(first, Decode)
        value, rest = images.decode_image(data, first.mode), steps[1:]
    for step in rest:
        try:
            value = _apply(step, value)
        except (ValueError, IndexError, TypeError) as e:
            raise PreprocessError(
                f"step {step} of preprocess.json cannot be applied to values of shape {list(value.shape)}: {e}",
                next_step="correct the step and publish a new version",
            ) from e
    return value


def _apply(step: Step, value: Array) -> Array:
    match step:
        case Decode(mode=mode):
            return images.to_colour(value, mode)
        case Resize(width=width, height=height, method=method, keep_aspect=keep):
            if keep:
                width, height = images.fit_within(value, width, height)
            return images.resize(value, width, height, method)
        case CentreCrop(width=width, height=height):
            return images.centre_crop(value, width, height)
        case Pad(width=width, height=height, value=fill, position=position):
            return images.pad(value, width, height, fill, centred=position == "centre")
        case Scale(factor=factor, offset=offset):
            return value.astype(np.float32) * np.float32(factor) + np.float32(offset)
        case Normalise(mean=mean, std=std):
            return (value.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        case Layout(to=to):
            ordered = np.transpose(value, (2, 0, 1)) if to.endswith("CHW") else value
            return ordered[None] if to.startswith("N") else ordered
        case Reshape(shape=shape):
            return value.reshape(shape)
        case Cast(dtype=dtype):
            return _cast(value, dtype)


def _cast(value: Array, dtype: str) -> Array:
    target = np.dtype(dtype)
    if target.kind in "iu" and value.dtype.kind == "f":
        limits = np.iinfo(target)
        return np.asarray(np.clip(np.rint(value), limits.min, limits.max), dtype=target)
    return value.astype(target)


def _made(recipe: InputRecipe, data: bytes | Array, specs: Sequence[TensorSpec]) -> Array:
    value = _run_steps(recipe.steps, data)
    spec = next((s for s in specs if s.name == recipe.name), None)
    if spec is None:
        raise PreprocessError(f"preprocess.json describes the input {recipe.name}, which the model does not have")
    try:
        return to_model(value, spec)
    except InputError as e:
        raise BadPayloadError(
            f"after preprocessing, the values do not fit the model. {e.message}", next_step=e.next_step
        ) from e


def _cell(recipe: ColumnsInput, row: Mapping[str, Any], column: str, place: str) -> float:
    if column not in row:
        raise BadPayloadError(
            f"{place} lacks the column {column}; it has {', '.join(map(str, row))}; expected {', '.join(recipe.columns)}",
            next_step="send every column; CSV needs a first line with the column names",
        )
    cell = row[column]
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        if recipe.missing is None:
            raise BadPayloadError(f"{place}: the column {column} is empty, and the model has no value for that")
        return recipe.missing
    words = recipe.categories.get(column)
    if words is not None:
        if str(cell) not in words:
            raise BadPayloadError(f"{place}: {column} must be one of {', '.join(words)}; got {str(cell)[:40]!r}")
        return float(words.index(str(cell)))
    try:
        return float(cell)
    except (TypeError, ValueError) as e:
        raise BadPayloadError(f"{place}: {column} must be a number, got {str(cell)[:40]!r}") from e
