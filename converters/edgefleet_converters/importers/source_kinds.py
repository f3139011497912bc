"""The kinds of source, and how a file is recognised as one: by its first bytes and, for a zip, by what it holds.

The name of a file decides nothing, except that a compressed pickle looks like any compressed file, and an old one like any text.
"""

from pathlib import Path
from typing import Final, Literal

from edgefleet_converters.errors import NotAModelError, TruncatedModelError
from edgefleet_converters.importers.archive import checked_members
from edgefleet_converters.importers.folder_layouts import is_plain

Kind = Literal["onnx", "tflite", "skops", "pickle", "pt2", "keras", "safetensors", "parts"]
"""parts: an encoder in ONNX with its decoders next to it."""
Format = Literal["onnx", "tflite"]

_FOREIGN_HINTS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run `git lfs pull` first"),
    (b"\x89HDF", "it is an HDF5 file (old Keras): save it again as .keras, or export the model to ONNX or TFLite"),
    (b"<", "it is a web page or XML: the download did not give the model"),
    (b"GGUF", "it is a GGUF language model, which is not served: export a model to ONNX"),
)
MAX_HEADER_BYTES: Final = 100_000_000
"""Of a .safetensors file: the format's own limit."""
_PICKLE_NAMES: Final = (".pkl", ".pickle", ".joblib", ".sav")


def format_of(kind: Kind) -> Format:
    """Return what a source is after its import: all but TFLite become ONNX."""
    return "tflite" if kind == "tflite" else "onnx"


def kind_of(path: Path) -> Kind:
    """Return the kind of a model file. Reads it.

    Raises NotAModelError with what it is instead, TruncatedModelError, ArchiveUnsafeError. `onnx` means only that it is nothing
    else: the ONNX import looks closer.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise TruncatedModelError(f"{path.name} is empty", next_step="copy or export the file again")
    if head[4:8] == b"TFL3":
        return "tflite"
    if path.name.endswith(".tflite") and len(head) < 8:
        raise TruncatedModelError(f"{path.name} has {len(head)} bytes: it was cut off", next_step="copy the file again")
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        return _kind_of_safetensors(path)
    if path.suffix == ".safetensors":
        raise TruncatedModelError(f"{path.name} ends too early or is damaged", next_step="copy the folder again")
    if head[0] == 0x80 or path.suffix.lower() in _PICKLE_NAMES:
        return "pickle"
    for start, hint in _FOREIGN_HINTS:
        if head.startswith(start):
            raise NotAModelError(f"{path.name} is no model that can be read: {hint}", next_step=hint.split(": ")[-1])
    if path.name.endswith(".tflite"):
        raise NotAModelError(f"{path.name} has no TFLite header", next_step="export the model again as .tflite")
    return "onnx"


def _kind_of_safetensors(path: Path) -> Kind:
    """Weights are a model only with the config.json of a Hugging Face folder next to them."""
    if not is_plain(path.parent, "config.json") or path.name != "model.safetensors":
        raise NotAModelError(
            f"{path.name} holds weights without the model they belong to",
            next_step="publish the Hugging Face folder that holds config.json and model.safetensors",
        )
    return "safetensors"


def _kind_of_zip(path: Path) -> Kind:
    """Tell a zip by its members. skops: `schema.json`; Keras 3: two JSON files; PyTorch: as `torch.export` and `torch.save` write."""
    names = checked_members(path)
    inner = {name.partition("/")[2] for name in names} | names
    if "schema.json" in names:
        return "skops"
    if {"config.json", "metadata.json"} <= names:
        return "keras"
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return "pt2"
    raise _not_a_model(path.name, names, inner)


def _not_a_model(name: str, names: set[str], inner: set[str]) -> NotAModelError:
    """Return the refusal of a zip that holds no model, with what it seems to be."""
    export = "export it with torch.export.export and save it with torch.export.save (.pt2)"
    if any(member.startswith("code/") for member in inner):
        return NotAModelError(f"{name} is TorchScript, which is a program: it is never run", next_step=export)
    if "data.pkl" in inner:
        return NotAModelError(f"{name} holds PyTorch weights without the model they belong to", next_step=export)
    if names and all(member.endswith(".npy") for member in names):
        return NotAModelError(
            f"{name} is an .npz of sample data",
            next_step="give the model first, and the data with --calibration or --eval",
        )
    return NotAModelError(
        f"{name} is a zip of something else (it holds {', '.join(sorted(names)[:3]) or 'nothing'})",
        next_step="unpack it and publish the folder, or export the model to ONNX",
    )
