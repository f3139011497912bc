"""Find the model in an upload and tell its kind.

An upload is a file, or a folder: plain (`model.onnx` with weight files), MLflow or Hugging Face (`importers.folder_layouts`). Nothing
outside the folder is followed. Runs in a sandboxed child: YAML, zips and file names come from outside.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefleet_converters.errors import NotAModelError
from edgefleet_converters.importers.folder_layouts import declared_lengths, has_decoders, model_in
from edgefleet_converters.importers.source_kinds import Format, Kind, format_of, kind_of
from edgefleet_protocol.digest import Sha256, folder_sha256


@dataclass(frozen=True)
class FoundSource:
    """The model file of an upload.

    folder: where its weight files may lie, None for a single-file upload. kind: what was uploaded; format: what it is after
    the import. sha256: of the whole upload. lengths: of inputs, as the folder's configuration says
    (`declared_lengths`).
    """

    path: Path
    folder: Path | None
    kind: Kind
    format: Format
    sha256: str
    lengths: Mapping[str, int] = field(default_factory=dict)


def find_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {upload}. Returns a FoundSource as `{path, folder, kind, format, sha256, lengths}`."""
    found = find_source(Path(args["upload"]))
    folder = str(found.folder) if found.folder else None
    return {
        "path": str(found.path), "folder": folder, "kind": found.kind, "format": found.format, "sha256": found.sha256,
        "lengths": dict(found.lengths),
    }  # fmt: skip


def found_from(answer: dict[str, Any]) -> FoundSource:
    """Return the FoundSource that a `find_step` answered."""
    folder = Path(answer["folder"]) if answer["folder"] else None
    return FoundSource(
        Path(answer["path"]), folder, answer["kind"], answer["format"], answer["sha256"], answer["lengths"]
    )


def find_source(upload: Path) -> FoundSource:
    """Return the model in `upload` (file or folder). Reads files.

    Raises NotAModelError, TruncatedModelError, ArchiveUnsafeError.
    """
    if not upload.exists():
        raise NotAModelError(f"there is no file or folder {upload.name!r}", next_step="check the path")
    is_folder = upload.is_dir()
    path = model_in(upload) if is_folder else upload
    # A single file may be named by a link of the user's own; a device or a pipe would be read for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotAModelError(f"{path.name!r} is not a plain file", next_step="publish plain files")
    kind = kind_of(path)
    if kind == "safetensors" and not is_folder:
        raise NotAModelError(
            f"{path.name} holds weights; the model that they belong to is in config.json",
            next_step="publish the folder that holds both",
        )
    if kind == "onnx" and is_folder and has_decoders(path):
        kind = "parts"
    return FoundSource(
        path,
        path.parent if is_folder else None,
        kind,
        format_of(kind),
        _digest(upload),
        declared_lengths(upload) if is_folder else {},
    )


def _digest(upload: Path) -> Sha256:
    """Return the sha256 of a file, or that of a folder's plain files. Links are neither followed nor counted."""
    if not upload.is_dir():
        return _file_sha256(upload)
    paths = [Path(root) / name for root, _, files in os.walk(upload, followlinks=False) for name in files]
    plain = [path for path in paths if not path.is_symlink() and path.is_file()]
    return folder_sha256((path.relative_to(upload).as_posix(), _file_sha256(path)) for path in plain)


def _file_sha256(path: Path) -> Sha256:
    with path.open("rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())
