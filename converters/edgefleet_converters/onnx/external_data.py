"""External data of an ONNX model, confined to the upload.

A weight file is read only when it is a plain file with one name, inside the model's own folder, reached by no symbolic link
(onnx CVE-2022-25882, CVE-2024-27318; a hard link is refused by onnx and read by onnxruntime 1.32). All weights are then put
into the model itself, so nothing later in the pipeline, nor any device, opens a file next to it.
"""

import os
import stat
from pathlib import Path, PurePosixPath

import onnx

from edgefleet_converters.errors import ExternalDataMissingError, ExternalDataUnsafeError, ModelTooLargeError
from edgefleet_converters.onnx.walk import all_tensors


def embed_external_data(model: onnx.ModelProto, folder: Path | None, *, max_bytes: int) -> None:
    """Put external weights into `model` in place.

    folder: where the model lies; None for a single-file upload. max_bytes: limit for all external bytes.
    Raises ExternalDataMissingError, ExternalDataUnsafeError, ModelTooLargeError. Reads files.
    """
    total = 0
    for tensor in all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        data = _read(tensor.name, facts, folder, max_bytes - total)
        total += len(data)
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _read(tensor: str, facts: dict[str, str], folder: Path | None, budget: int) -> bytes:
    location = facts.get("location", "")
    if folder is None:
        raise ExternalDataMissingError(
            f"tensor {tensor!r} keeps its weights in the file {location!r}, which was not uploaded",
            next_step="publish the folder that holds the model and its weight files",
        )
    path = _confined(tensor, location, folder)
    offset, length = _number(tensor, facts, "offset", 0), _number(tensor, facts, "length", -1)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if length < 0:
            length = max(0, size - offset)
        if offset + length > size:
            raise ExternalDataMissingError(
                f"tensor {tensor!r} needs bytes {offset} to {offset + length} of {location!r}, which has {size} bytes",
                next_step="upload the complete weight file",
            )
        if length > budget:
            raise ModelTooLargeError(
                "the model's weight files are larger than the converter takes", next_step="use a smaller model"
            )
        file.seek(offset)
        return file.read(length)


def _number(tensor: str, facts: dict[str, str], key: str, default: int) -> int:
    text = facts.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ExternalDataUnsafeError(
            f"tensor {tensor!r} has {key} {text[:40]!r} for its weight file", next_step="export the model again"
        )
    return int(text)


def _confined(tensor: str, location: str, folder: Path) -> Path:
    """Return the file's path after checking each part of it. Raises ExternalDataUnsafeError, ExternalDataMissingError."""
    relative = PurePosixPath(location)
    unsafe = not location or "\0" in location or "\\" in location or relative.is_absolute() or ".." in relative.parts
    if unsafe or (relative.parts[:1] and ":" in relative.parts[0]):
        raise _unsafe(tensor, location, "is not a plain relative name")
    path = folder
    for index, part in enumerate(relative.parts):
        path = path / part
        try:
            facts = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise ExternalDataMissingError(
                f"tensor {tensor!r} keeps its weights in the file {location!r}, which is not in the upload",
                next_step="publish the folder with all weight files in it",
            ) from None
        last = index == len(relative.parts) - 1
        if stat.S_ISLNK(facts.st_mode):
            raise _unsafe(tensor, location, "is a symbolic link")
        if (not last and not stat.S_ISDIR(facts.st_mode)) or (last and not stat.S_ISREG(facts.st_mode)):
            raise _unsafe(tensor, location, "is not a plain file")
        if last and facts.st_nlink != 1:
            raise _unsafe(tensor, location, "is a hard link")
    return path


def _unsafe(tensor: str, location: str, why: str) -> ExternalDataUnsafeError:
    return ExternalDataUnsafeError(
        f"tensor {tensor!r} names the weight file {location[:120]!r}, which {why}",
        next_step="save the model with its weight files as plain files in one folder",
    )
