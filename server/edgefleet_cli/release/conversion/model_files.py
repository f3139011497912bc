"""A MODEL argument as the files it stands for.

Accepted: a file with one of `MODEL_SUFFIXES`, a folder (model and external data, or an MLflow or Hugging Face layout) and a
`file:` URI of those; addresses of other places are fetched first (`importing`). What a file really contains is judged by the
converter, not here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.release.conversion.pickled_model import PICKLE_SUFFIXES

MODEL_SUFFIXES = frozenset({".onnx", ".tflite", ".skops", ".pt2", ".keras", *PICKLE_SUFFIXES})
_EXPORT_TORCH = "save it with torch.export.save (.pt2) or export it to ONNX, and publish that file"
_EXPORT_KERAS = "save it as .keras or export it to ONNX or TFLite, and publish that file"
_EXPORT = "export it to ONNX and publish that file"

_OTHERS = {
    ".pt": ("PyTorch weights or TorchScript", _EXPORT_TORCH),
    ".pth": ("PyTorch weights or TorchScript", _EXPORT_TORCH),
    ".safetensors": ("safetensors weights", _EXPORT),
    ".h5": ("old Keras files", _EXPORT_KERAS),
    ".pb": ("TensorFlow graphs", _EXPORT_KERAS),
    ".gguf": ("GGUF language models", _EXPORT),
    ".mlmodel": ("Core ML models", _EXPORT),
    ".mlpackage": ("Core ML models", _EXPORT),
}

_MAX_FILES = 2000


@dataclass(frozen=True)
class SourceFile:
    """One file: where it lies here, its name in the source, its digest (lower hex) and length in bytes."""

    file: Path
    path: str
    sha256: str
    length: int

    def as_json(self) -> dict[str, Any]:
        """Return it as the API takes it."""
        return {"path": self.path, "sha256": self.sha256, "length": self.length}


@dataclass(frozen=True)
class Source:
    """A model to publish: `kind` is `file` or `folder`, `files` what it holds."""

    kind: str
    files: tuple[SourceFile, ...]


def locate(given: str) -> Path:
    """Return the file or folder that a local MODEL argument names. Raises UsageError, UnreadableFileError."""
    path = _local_path(given)
    if path.is_dir():
        return path
    if not path.exists():
        raise UnreadableFileError(
            f"there is no file or folder {given}",
            why=f"looked for {path.absolute()}",
            next_step="give the path of an .onnx or .tflite file, or of a folder that holds one",
        )
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        what, cure = _OTHERS[suffix]
        raise UsageError(
            f"{what} ({suffix}) cannot be published",
            why="they are no complete model, or one that cannot be read without running its code",
            next_step=cure,
        )
    if suffix not in MODEL_SUFFIXES:
        raise UsageError(
            f"{path.name} is not a model file",
            why=f"its name ends in {suffix or 'nothing'}; expected one of {', '.join(sorted(MODEL_SUFFIXES))}",
            next_step="export the model to ONNX and publish that file",
        )
    return path


def read_source(given: str) -> Source:
    """Return the source that a MODEL argument names, with every file hashed. Blocks for the time of reading it all."""
    path = locate(given)
    if not path.is_dir():
        return Source("file", (describe(path, path.name),))
    found = [
        entry
        for entry in sorted(path.rglob("*"))
        if entry.is_file() and not any(name.startswith(".") for name in entry.relative_to(path).parts)
    ]
    if not found:
        raise UsageError(
            f"the folder {given} is empty", why="it holds no file", next_step="give a folder with a model in it"
        )
    if len(found) > _MAX_FILES:
        raise UsageError(
            f"the folder {given} holds {len(found)} files",
            why=f"a model has at most {_MAX_FILES}",
            next_step="give the folder of one model only",
        )
    return Source("folder", tuple(describe(entry, entry.relative_to(path).as_posix()) for entry in found))


def describe(file: Path, path: str) -> SourceFile:
    """Return a file with its digest and length. Raises UnreadableFileError."""
    try:
        with file.open("rb") as stream:
            digest, length = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {file}", why=error.strerror or str(error), next_step="check the path and its permissions"
        ) from error
    return SourceFile(file, path, digest, length)


def _local_path(given: str) -> Path:
    if "://" not in given and not given.startswith("file:"):
        return Path(given)
    parts = urlsplit(given)
    if parts.scheme != "file":
        raise UsageError(
            f"{given} is not a local file",
            why=f"{parts.scheme}: addresses are fetched before",
            next_step="run `edgectl publish ADDRESS`",
        )
    if parts.netloc not in {"", "localhost"}:
        raise UsageError(
            f"{given} names another machine",
            why="a file: URI is local",
            next_step="copy the model here and write file:///path/to/model.onnx",
        )
    return Path(unquote(parts.path))
