"""Find the model in an upload and tell its format.

A folder may be plain (`model.onnx` with weight files), an MLflow model (flavour `onnx`) or a Hugging Face layout
(`onnx/model.onnx`). Nothing outside the folder is followed.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from edgefleet_converters.errors import NotAModelError, TruncatedModelError
from edgefleet_protocol.digest import folder_sha256, sha256_hex

_FOREIGN_HINTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run `git lfs pull` first"),
    (b"\x80", "it looks like a Python pickle, which is never opened: export the model to ONNX"),
    (
        b"PK\x03\x04",
        "it is a zip (PyTorch, Keras or an archive): export the model to ONNX, or publish the unpacked folder",
    ),
    (b"\x89HDF", "it is an HDF5 file (Keras): export the model to ONNX or TFLite"),
    (b"<", "it is a web page or XML: the download did not give the model"),
)


@dataclass(frozen=True)
class FoundSource:
    """The model file of an upload. folder: where its weight files may lie, None for a single-file upload."""

    path: Path
    folder: Path | None
    format: Literal["onnx", "tflite"]
    sha256: str


def find_source(upload: Path) -> FoundSource:
    """Return the model in `upload` (file or folder). Raises NotAModelError, TruncatedModelError. Reads files."""
    if not upload.exists():
        raise NotAModelError(f"there is no file or folder {upload.name!r}", next_step="check the path")
    folder = upload if upload.is_dir() else None
    path = _in_folder(upload) if folder is not None else upload
    if not stat.S_ISREG(path.lstat().st_mode) and folder is not None:
        raise NotAModelError(f"{path.name!r} is not a plain file", next_step="publish a folder of plain files")
    with path.open("rb") as file:
        head = file.read(64)
    found_in = path.parent if folder is not None else None
    return FoundSource(path, found_in, _sniff(head, path.name), _digest(upload))


def _sniff(head: bytes, name: str) -> Literal["onnx", "tflite"]:
    """Tell the format by content, never by the file's name. ONNX begins with field 1 (IR version) in all known exporters."""
    if not head:
        raise TruncatedModelError(f"{name} is empty", next_step="copy or export the file again")
    if head[4:8] == b"TFL3":
        return "tflite"
    if name.endswith(".tflite") and len(head) < 8:
        raise TruncatedModelError(f"{name} has {len(head)} bytes: it was cut off", next_step="copy the file again")
    for start, hint in _FOREIGN_HINTS:
        if head.startswith(start):
            raise NotAModelError(
                f"{name} is neither an ONNX nor a TFLite model: {hint}", next_step=hint.split(": ")[-1]
            )
    if name.endswith(".tflite"):
        raise NotAModelError(f"{name} has no TFLite header", next_step="export the model again as .tflite")
    return "onnx"


def _in_folder(folder: Path) -> Path:
    mlmodel = folder / "MLmodel"
    if mlmodel.is_file() and not mlmodel.is_symlink():
        return _from_mlflow(folder, mlmodel)
    for name in ("model.onnx", "onnx/model.onnx", "model.tflite"):
        path = folder / name
        if path.is_file() and not path.is_symlink():
            return path
    models = sorted(
        p for p in folder.iterdir() if p.suffix in (".onnx", ".tflite") and p.is_file() and not p.is_symlink()
    )
    if len(models) == 1:
        return models[0]
    said = (
        "holds no .onnx or .tflite file" if not models else f"holds {len(models)} models and none is called model.onnx"
    )
    raise NotAModelError(
        f"the folder {folder.name!r} {said}", next_step="name the model `model.onnx` or `model.tflite`"
    )


def _from_mlflow(folder: Path, mlmodel: Path) -> Path:
    try:
        document: Any = yaml.safe_load(mlmodel.read_text(encoding="utf-8"))
        data = str(document["flavors"]["onnx"]["data"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise NotAModelError(
            "the MLflow model has no `onnx` flavour", next_step="log the model with mlflow.onnx.log_model"
        ) from error
    relative = PurePosixPath(data)
    path = folder / relative
    inside = not relative.is_absolute() and ".." not in relative.parts
    if (
        not inside
        or any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents)
        or not path.is_file()
    ):
        raise NotAModelError(
            f"the MLflow model names {data[:80]!r}, which is not in the folder", next_step="log it again"
        )
    return path


def _digest(upload: Path) -> str:
    """Return the sha256 of a file, or that of a folder's plain files. Links are neither followed nor counted."""
    if not upload.is_dir():
        return sha256_hex(upload.read_bytes())
    paths = [Path(root) / name for root, _, files in os.walk(upload, followlinks=False) for name in files]
    plain = [path for path in paths if not path.is_symlink() and path.is_file()]
    return folder_sha256((path.relative_to(upload).as_posix(), sha256_hex(path.read_bytes())) for path in plain)
