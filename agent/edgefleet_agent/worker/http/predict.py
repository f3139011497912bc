"""`POST …/predict`: what people have (an image, CSV, JSON, an array) in, labelled answers out, by what the bundle declares.

1. The content type says what the body is: image/*, text/csv, application/json, application/octet-stream (a .npy file).
2. Samples that the model cannot take at once (first dimension 1) are run one after the other.
3. A model with one matrix of floats takes rows without a preprocess.json (`float_rows`).
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from edgefleet_agent.worker.http import float_rows
from edgefleet_agent.worker.http.float_rows import MAX_SAMPLES
from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import preprocess as pre
from edgefleet_runtime.port import Array

MEDIA_TYPES = ("image/jpeg", "image/png", "text/csv", "application/json", "application/octet-stream")


class MediaTypeError(EdgefleetError):
    """`predict` does not read this content type."""

    code = "infer.media_type"


def decode_samples(served: ServedModel, content_type: str, body: bytes) -> list[dict[str, Array]]:
    """Return the model inputs of each run. Raises MediaTypeError, BadRequestError and the errors of preprocess and image."""
    media = content_type.partition(";")[0].strip().lower()
    declared, specs = served.preprocess, served.runtime.inputs
    if media.startswith("image/"):
        return [pre.from_image(declared, body, specs)]
    if media == "text/csv":
        return _from_csv(served, body)
    if media == "application/octet-stream":
        return _array_samples(served, _npy(body))
    if media == "application/json":
        return _from_json(served, body)
    raise MediaTypeError(
        f"predict does not read {media or 'a body without a content type'}",
        next_step=f"send one of {', '.join(MEDIA_TYPES)}",
    )


def predict(served: ServedModel, samples: list[dict[str, Array]], run: Callable[..., dict[str, Array]]) -> list[Any]:
    """Return one answer per sample. run: inputs -> outputs, which also counts the inference."""
    answers: list[Any] = []
    for inputs in samples:
        answers.extend(served.postprocess.answers(run(inputs)))
    return answers


def _from_csv(served: ServedModel, body: bytes) -> list[dict[str, Array]]:
    """Read CSV rows. Without a first line of names, the declared order holds if the count fits."""
    declared, specs = served.preprocess, served.runtime.inputs
    spec = float_rows.float_matrix(declared, specs)
    if spec is not None:
        return _matrix_samples(served, float_rows.csv_matrix(body, spec), spec)
    recipes = [r for r in declared.inputs if isinstance(r, pre.ColumnsInput)]
    names = [column for recipe in recipes for column in recipe.columns]
    table = float_rows.read_csv(body, names, words=any(recipe.categories for recipe in recipes))
    head = table.names or tuple(names)
    if names and len(table.rows[0]) != len(head):
        raise BadRequestError(
            f"a row has {len(table.rows[0])} cells; the model takes the columns {', '.join(names)}",
            next_step="send every column, or a first line that names the columns",
        )
    return _rows(served, [dict(zip(head, row, strict=False)) for row in table.rows], table.places)


def _from_json(served: ServedModel, body: bytes) -> list[dict[str, Array]]:
    """Read {"rows": […]} or {"instances": […]} of objects or lists, such a list alone, one object of columns,
    {"inputs": {name: values}}, {"data": …} or values.
    """
    declared, specs = served.preprocess, served.runtime.inputs
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BadRequestError(f"the body is not JSON: {e}") from e
    if isinstance(value, dict):
        value = next((value[key] for key in ("rows", "instances") if isinstance(value.get(key), list)), value)
    if value == []:
        raise BadRequestError("there is no row to predict on", next_step="send at least one row")
    spec = float_rows.float_matrix(declared, specs)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return _rows(served, value) if spec is None else _table_samples(served, value, spec)
    if spec is not None and isinstance(value, list) and all(isinstance(item, list) for item in value):
        return _table_samples(served, value, spec)
    if isinstance(value, dict) and isinstance(value.get("inputs"), dict):
        arrays = {name: _array(item, _spec(specs, name)) for name, item in value["inputs"].items()}
        return [pre.from_arrays(declared, arrays, specs)]
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
    elif isinstance(value, dict):
        return _rows(served, [value]) if spec is None else _table_samples(served, [value], spec)
    return _array_samples(served, _array(value, specs[0] if len(specs) == 1 else None))


def _table_samples(served: ServedModel, rows: Sequence[Any], spec: TensorSpec) -> list[dict[str, Array]]:
    return _matrix_samples(served, float_rows.matrix(float_rows.read_rows(rows), spec), spec)


def _matrix_samples(served: ServedModel, values: Array, spec: TensorSpec) -> list[dict[str, Array]]:
    """Return the runs of rows of numbers: all at once where the model's first dimension is free, else one by one."""
    if len(spec.shape) == 2 and (isinstance(spec.shape[0], str) or spec.shape[0] == len(values)):
        return [pre.from_array(served.preprocess, values, [spec])]
    rows = values if len(spec.shape) == 1 else values[:, None, :]
    return [pre.from_array(served.preprocess, row, [spec]) for row in rows]


def _array_samples(served: ServedModel, array: Array) -> list[dict[str, Array]]:
    """Return the runs of one array: one, or one a sample where the model takes one at a time (rule 2)."""
    declared, specs = served.preprocess, served.runtime.inputs
    one_at_a_time = len(specs) == 1 and bool(specs[0].shape) and specs[0].shape[0] == 1
    if one_at_a_time and array.ndim == len(specs[0].shape) and not isinstance(declared.inputs[0], pre.ImageInput):
        if not 1 <= array.shape[0] <= MAX_SAMPLES:
            raise BadRequestError(f"{array.shape[0]} samples; send 1 to {MAX_SAMPLES} in one request")
        return [pre.from_array(declared, array[i : i + 1], specs) for i in range(array.shape[0])]
    return [pre.from_array(declared, array, specs)]


def _rows(served: ServedModel, rows: list[Any], places: Sequence[str] = ()) -> list[dict[str, Array]]:
    """Return the runs of table rows by column name. places: where each row stands, for errors."""
    declared, specs = served.preprocess, served.runtime.inputs
    float_rows.check_count(len(rows))
    named = places or [f"row {i + 1}" for i in range(len(rows))]
    if len(rows) > 1 and any(spec.shape and spec.shape[0] == 1 for spec in specs):
        return [pre.from_rows(declared, [row], specs, [place]) for row, place in zip(rows, named, strict=True)]
    return [pre.from_rows(declared, rows, specs, named)]


def _npy(body: bytes) -> Array:
    try:
        array = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as e:
        raise BadRequestError(
            f"the body is not a .npy file: {e}", next_step="write it with numpy.save, without object arrays"
        ) from e
    if not isinstance(array, np.ndarray):
        raise BadRequestError("the body must be one .npy array, not an archive")
    return array


def _spec(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec | None:
    return next((s for s in specs if s.name == name), None)


def _array(value: Any, spec: TensorSpec | None) -> Array:
    """Return nested lists as an array of the model's dtype where it is a plain number type, else as float32."""
    dtype = spec.dtype if spec is not None and spec.quantization is None else "float32"
    try:
        array = np.asarray(value)
        if dtype == "string":
            return array.astype(object)
        if array.dtype.kind not in "iufb":
            raise ValueError("not numbers")
        if array.dtype.kind == "f" and np.dtype(dtype).kind in "iu" and not (array == np.rint(array)).all():
            raise ValueError("not whole numbers")
        return array.astype(dtype)
    except (ValueError, TypeError, OverflowError) as e:
        raise BadRequestError(
            f"the values are not an array of {dtype}: {e}", next_step="send nested lists of numbers of equal length"
        ) from e
