"""Find the model in a folder: plain, MLflow or Hugging Face layout. Nothing outside the folder is named or followed.

1. A file `MLmodel` makes it an MLflow model: flavour `onnx` first, else `sklearn`; `python_function` alone is code and refused.
2. Else `model.onnx`, `onnx/model.onnx` (Hugging Face) or `model.tflite`, in this order.
3. Else `encoder_model.onnx` with its decoders next to it, in the folder or in its `onnx/` (Hugging Face's optimum).
4. Else the only model file in the folder, or in its `onnx/`.
5. Else `model.safetensors` next to `config.json` (Hugging Face).
"""

import json
import stat
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeGuard

import yaml

from edgefleet_converters.errors import NotAModelError

_KNOWN_NAMES: Final = ("model.onnx", "onnx/model.onnx", "model.tflite")
_SUFFIXES: Final = ((".onnx", ".tflite"), (".skops", ".pt2", ".keras", ".pkl", ".pickle", ".joblib", ".sav"))
ENCODER: Final = "encoder_model.onnx"
DECODER: Final = "decoder_model.onnx"
DECODERS: Final = (DECODER, "decoder_with_past_model.onnx")
MERGED: Final = "decoder_model_merged.onnx"
_HF_MODEL: Final = "model.safetensors"
_HF_WEIGHTS: Final = (".safetensors", ".bin", ".h5", ".msgpack")
MAX_TOKENS: Final = 512
"""A longer text is not what a device is timed with unless its owner says so."""
MAX_PIXELS: Final = 4096
MAX_SETTINGS_BYTES: Final = 4 * 1024 * 1024
MAX_MLMODEL_BYTES: Final = 256 * 1024
"""An MLmodel file has 1 to 20 kB; the YAML reader takes a second for 256 kB."""


def model_in(folder: Path) -> Path:
    """Return the model file of a folder: a plain file below it. Reads the folder. Raises NotAModelError."""
    if (folder / "MLmodel").exists():
        return _from_mlflow(folder)
    for name in _KNOWN_NAMES:
        if is_plain(folder, name):
            return folder / name
    for place in ("", "onnx/"):
        if is_plain(folder, place + ENCODER) and has_decoders(folder / place / ENCODER):
            return folder / place / ENCODER
    for suffixes in _SUFFIXES:
        for place in ("", "onnx"):
            models = _models(folder, place, suffixes)
            if len(models) == 1:
                return folder / models[0]
            if models:
                raise NotAModelError(
                    f"the folder {folder.name!r} holds {len(models)} models and none is called model.onnx: "
                    f"{', '.join(models[:6])}",
                    next_step="name the wanted one `model.onnx` or `model.tflite`, or publish that file alone",
                )
    if is_plain(folder, "config.json") and is_plain(folder, _HF_MODEL):
        return folder / _HF_MODEL
    raise _nothing(folder)


def has_decoders(path: Path) -> bool:
    """Return whether an ONNX file is an encoder with a decoder next to it. Looks at the folder."""
    return path.name == ENCODER and any(is_plain(path.parent, name) for name in (DECODER, MERGED))


def declared_lengths(folder: Path) -> dict[str, int]:
    """Return what a Hugging Face folder's configuration says of its inputs: `tokens` of a text at most, `channels`, `height` and
    `width` of an image. Reads files.
    """
    config, image = _settings(folder, "config.json"), _settings(folder, "preprocessor_config.json")
    texts = (
        _settings(folder, "sentence_bert_config.json").get("max_seq_length"),
        _settings(folder, "tokenizer_config.json").get("model_max_length"), config.get("max_position_embeddings"),
        config.get("n_positions"),
    )  # fmt: skip
    pixels = next((one for one in (config.get("image_size"), image.get("crop_size"), image.get("size")) if one), None)
    if isinstance(pixels, dict):
        pixels = [pixels.get("height"), pixels.get("width")]
    height, width = pixels if isinstance(pixels, list) and len(pixels) == 2 else (pixels, pixels)
    found = {
        "tokens": next((length for length in texts if _is_length(length, MAX_TOKENS)), 0),
        "channels": config.get("num_channels"), "height": height, "width": width,
    }  # fmt: skip
    return {name: length for name, length in found.items() if _is_length(length, MAX_PIXELS)}


def _is_length(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 < value <= most


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of a file below a folder, empty where there is none."""
    if not is_plain(folder, name) or (folder / name).stat().st_size > MAX_SETTINGS_BYTES:
        return {}
    try:
        document: Any = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def is_plain(folder: Path, name: str) -> bool:
    """Return whether `name` (a relative POSIX path) is a plain file below `folder`, reached by no symbolic link."""
    path = folder
    parts = PurePosixPath(name).parts
    for index, part in enumerate(parts):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError):
            return False
        if not (stat.S_ISREG(mode) if index == len(parts) - 1 else stat.S_ISDIR(mode)):
            return False
    return bool(parts)


def _models(folder: Path, place: str, suffixes: tuple[str, ...]) -> list[str]:
    inside = folder / place
    if place and (inside.is_symlink() or not inside.is_dir()):
        return []
    names = sorted(entry.relative_to(folder).as_posix() for entry in inside.iterdir() if entry.suffix in suffixes)
    return [name for name in names if is_plain(folder, name)]


def _nothing(folder: Path) -> NotAModelError:
    """Return the refusal of a folder without a model, with the likeliest reason."""
    links = [name for name in _KNOWN_NAMES if (folder / name).is_symlink() or (folder / name).parent.is_symlink()]
    links = [name for name in links if (folder / name).exists()]
    if links:
        return NotAModelError(
            f"the model file {links[0]!r} is reached by a symbolic link, and links are not followed",
            next_step=f"copy the folder with its files first: cp -rL {folder.name} COPY",
        )
    weights = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _HF_WEIGHTS)
    if (folder / "config.json").is_file() and any(name.endswith(".bin") for name in weights):
        return NotAModelError(
            f"the folder {folder.name!r} is a Hugging Face model whose weights are a pickle, which is never read",
            next_step="load it where you trust it, call save_pretrained(FOLDER), which writes model.safetensors, and publish that",
        )
    if (folder / "config.json").is_file() and (folder / f"{_HF_MODEL}.index.json").is_file():
        files = f"{len(weights)} file{'s' if len(weights) != 1 else ''}"
        return NotAModelError(
            f"the folder {folder.name!r} is a Hugging Face model whose weights are in {files} with an index; one file is taken",
            next_step='load it, call save_pretrained(FOLDER, max_shard_size="100GB"), which writes one file, and publish that',
        )
    if (folder / "config.json").is_file() and weights:
        return NotAModelError(
            f"the folder {folder.name!r} is a Hugging Face model with weights ({weights[0]}) and no ONNX model",
            next_step=f"export it first: optimum-cli export onnx --model {folder.name} {folder.name}/onnx",
        )
    return NotAModelError(
        f"the folder {folder.name!r} holds no .onnx or .tflite file",
        next_step="name the model `model.onnx` or `model.tflite`",
    )


def _from_mlflow(folder: Path) -> Path:
    flavours = _flavours(folder)
    if "onnx" in flavours:
        key, named = "onnx", flavours["onnx"].get("data", "model.onnx")
    elif "sklearn" in flavours:
        key, named = "sklearn", flavours["sklearn"].get("pickled_model")
    else:
        others = sorted(name for name in flavours if name != "python_function")
        only = "python_function, which is code and never run" if not others else ", ".join(others)[:80]
        raise NotAModelError(
            f"the MLflow model has no `onnx` flavour; it has {only}",
            next_step="log the model with mlflow.onnx.log_model, or publish the model file itself",
        )
    if not isinstance(named, str) or not _is_inside(folder, named):
        raise NotAModelError(
            f"the MLflow flavour {key} names {str(named)[:80]!r}, which is not in the folder"
            if isinstance(named, str)
            else f"the MLflow flavour {key} names no file",
            next_step="log it again",
        )
    return folder / named


def _is_inside(folder: Path, name: str) -> bool:
    relative = PurePosixPath(name)
    return not relative.is_absolute() and ".." not in relative.parts and "\0" not in name and is_plain(folder, name)


def _flavours(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the flavours that `MLmodel` lists. Only plain YAML is read; a YAML tag that would make an object is an error."""
    mlmodel = folder / "MLmodel"
    cure = "log the model with mlflow.onnx.log_model"
    if not is_plain(folder, "MLmodel"):
        raise NotAModelError("the file MLmodel is not a plain file", next_step=cure)
    if mlmodel.stat().st_size > MAX_MLMODEL_BYTES:
        raise NotAModelError(f"the file MLmodel has more than {MAX_MLMODEL_BYTES} bytes", next_step=cure)
    try:
        document: Any = yaml.safe_load(mlmodel.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        # PyYAML lets the errors of int(), datetime() and its own bugs through; each is a broken file.
        message = " ".join(str(error).split())[:120]
        raise NotAModelError(f"the file MLmodel is no plain YAML: {message}", next_step=cure) from error
    flavours = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavours, dict):
        raise NotAModelError("the file MLmodel lists no flavours", next_step=cure)
    return {str(name): value for name, value in flavours.items() if isinstance(name, str) and isinstance(value, dict)}
