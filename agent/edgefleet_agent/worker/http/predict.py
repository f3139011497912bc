"""`POST …/predict`: what people have (an image, CSV, JSON, an array) in, labelled answers out, by what the bundle declares.

1. The content type says what the body is: image/*, text/csv, application/json, application/octet-stream (a .npy file).
2. Samples that the model cannot take at once (first dimension 1) are run one after the other.
"""

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import preprocess as pre
from edgefleet_runtime.port import Array

MAX_SAMPLES = 10_000
MEDIA_TYPES = ("image/jpeg", "image/png", "text/csv", "application/json", "application/octet-stream")


class MediaTypeError(EdgefleetError):
    """The content type is none that predict reads."""

    code = "infer.media_type"


def decode_samples(served: ServedModel, content_type: str, body: bytes) -> list[dict[str, Array]]:
    """Return the model inputs of each run. Raises MediaTypeError, BadRequestError and the errors of preprocess and image."""
    media = content_type.partition(";")[0].strip().lower()
    declared, specs = served.preprocess, served.runtime.inputs
    if media.startswith("image/"):
        return [pre.from_image(declared, body, specs)]
    if media == "text/csv":
        return _rows(served, _csv_rows(body, declared))
    if media == "application/octet-stream":
        return _array_samples(served, _npy(body))
    if media == "application/json":
        return _from_json(served, body)
    raise MediaTypeError(
        f"predict does not read {media or 'a body without a content type'}.",
        next_step=f"Send one of {', '.join(MEDIA_TYPES)}.",
    )


def predict(served: ServedModel, samples: list[dict[str, Array]], run: Callable[..., dict[str, Array]]) -> list[Any]:
    """Return one answer per sample. run: inputs -> outputs, which also counts the inference."""
    answers: list[Any] = []
    for inputs in samples:
        answers.extend(served.postprocess.answers(run(inputs)))
    return answers


def _from_json(served: ServedModel, body: bytes) -> list[dict[str, Array]]:
    """Read {"rows": [{…}]}, a list of objects, one object of columns, {"inputs": {name: values}}, {"data": …} or values."""
    declared, specs = served.preprocess, served.runtime.inputs
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BadRequestError(f"The body is not JSON: {e}.") from e
    if isinstance(value, dict) and isinstance(value.get("rows"), list):
        return _rows(served, value["rows"])
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _rows(served, value)
    if isinstance(value, dict) and isinstance(value.get("inputs"), dict):
        arrays = {name: _array(item, _spec(specs, name)) for name, item in value["inputs"].items()}
        return [pre.from_arrays(declared, arrays, specs)]
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
    elif isinstance(value, dict):
        return _rows(served, [value])
    return _array_samples(served, _array(value, specs[0] if len(specs) == 1 else None))


def _array_samples(served: ServedModel, array: Array) -> list[dict[str, Array]]:
    """Return the runs of one array: one, or one a sample where the model takes one at a time (rule 2)."""
    declared, specs = served.preprocess, served.runtime.inputs
    one_at_a_time = len(specs) == 1 and bool(specs[0].shape) and specs[0].shape[0] == 1
    if one_at_a_time and array.ndim == len(specs[0].shape) and not isinstance(declared.inputs[0], pre.ImageInput):
        if not 1 <= array.shape[0] <= MAX_SAMPLES:
            raise BadRequestError(f"{array.shape[0]} samples; send 1 to {MAX_SAMPLES} in one request.")
        return [pre.from_array(declared, array[i : i + 1], specs) for i in range(array.shape[0])]
    return [pre.from_array(declared, array, specs)]


def _rows(served: ServedModel, rows: list[Any]) -> list[dict[str, Array]]:
    declared, specs = served.preprocess, served.runtime.inputs
    if len(rows) > MAX_SAMPLES:
        raise BadRequestError(f"{len(rows)} rows are more than the {MAX_SAMPLES} of one request; send several.")
    if not all(isinstance(row, Mapping) for row in rows):
        raise BadRequestError("Each row must be an object of column names and values.")
    if len(rows) > 1 and any(spec.shape and spec.shape[0] == 1 for spec in specs):
        return [pre.from_rows(declared, [row], specs) for row in rows]
    return [pre.from_rows(declared, rows, specs)]


def _csv_rows(body: bytes, declared: pre.Preprocess) -> list[dict[str, Any]]:
    """Return the rows by column name. Without a first line of names, the declared order holds if the count fits."""
    try:
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="")) if any(line)]
    except (UnicodeDecodeError, csv.Error) as e:
        raise BadRequestError(f"The body is not CSV in UTF-8: {e}.") from e
    if not lines:
        raise BadRequestError("The CSV is empty.", next_step="Send a line of column names and at least one row.")
    names = [c for r in declared.inputs if isinstance(r, pre.ColumnsInput) for c in r.columns]
    if names and len(lines[0]) == len(names) and not set(names) & set(lines[0]):
        head = names
    else:
        head, lines = lines[0], lines[1:]
    if any(len(line) != len(head) for line in lines):
        raise BadRequestError(f"Every CSV line must have {len(head)} cells, as many as there are columns.")
    return [dict(zip(head, line, strict=True)) for line in lines]


def _npy(body: bytes) -> Array:
    try:
        array = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as e:
        raise BadRequestError(
            f"The body is not a .npy file: {e}.", next_step="Write it with numpy.save, without object arrays."
        ) from e
    if not isinstance(array, np.ndarray):
        raise BadRequestError("The body must be one .npy array, not an archive.")
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
            f"The values are not an array of {dtype}: {e}.", next_step="Send nested lists of numbers of equal length."
        ) from e
