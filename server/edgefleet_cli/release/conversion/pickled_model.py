"""Pickles are refused here, before anything is sent: whatever reads a pickle runs the code of the one who made it.

1. A pickle is known by its first bytes, also inside what joblib and pickle users compress with (zlib, gzip, bzip2, xz), or by its name.
   Nothing of it is loaded.
2. The refusal has one next step: a line for the shell that exports a scikit-learn estimator to ONNX, for the environment in which it
   was trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgefleet_cli.core.errors import UsageError

PICKLE_SUFFIXES: Final = frozenset({".pkl", ".pickle", ".joblib", ".sav"})
_OTHER_MODELS: Final = frozenset({".onnx", ".tflite", ".skops", ".pt2", ".keras"})
_HEAD_BYTES: Final = 64 * 1024
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_ESTIMATOR: Final = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?(?:\x8c.|c)sklearn\.", re.DOTALL)
"""Protocol, frame, and the module of the outermost object, as protocols 2 to 5 write them."""


def refuse_pickle(source: Path, *, is_allowed: bool = False) -> None:
    """Raise UsageError when a file is a pickle, or a folder holds one and no other model. Reads 64 KiB at most.

    is_allowed: `--allow-pickle` was given, and it is the server that reads none.
    """
    found = _pickle_in(source)
    if found is None:
        return
    file, head = found
    cure = "export the model to ONNX where it was trained, and publish that file"
    if _ESTIMATOR.match(head) and file == source:
        # What was fetched from an address is gone by the time that somebody reads this.
        fetched = any(part.startswith("edgefleet-import-") for part in file.parts)
        file = Path(file.name) if fetched else file
        made = file.with_suffix(".onnx")
        cure = f"where it was trained, with `pip install skl2onnx`: {export_line(file, made)}; then publish {made}"
    why = "reading a pickle runs the code of the person who made it"
    if is_allowed:
        raise UsageError(
            f"{file.name} is a pickle, and this server reads none",
            why=f"{why}; the server's operator has not set `allow_pickle` in server.toml; nothing was uploaded",
            next_step=cure,
        )
    raise UsageError(f"{file.name} is a pickle, and pickles are not read", why=why, next_step=cure)


def export_line(source: Path, out: Path) -> str:
    """Return a line for the shell that writes an estimator as ONNX."""
    import json
    import shlex

    code = (
        f"import joblib, numpy, skl2onnx; m = joblib.load({json.dumps(str(source))}); "
        'x = numpy.zeros((1, m.n_features_in_), "float32"); '
        f'open({json.dumps(str(out))}, "wb").write(skl2onnx.to_onnx(m, x).SerializeToString())'
    )
    return f"python -c {shlex.quote(code)}"


def _pickle_in(source: Path) -> tuple[Path, bytes] | None:
    """Return the pickle that a source is or consists of, and its first bytes unpacked; None when there is none."""
    if not source.is_dir():
        head = _head(source)
        return None if head is None else (source, head)
    files = [file for file in sorted(source.rglob("*")) if file.is_file()]
    if any(file.suffix.lower() in _OTHER_MODELS for file in files):
        return None
    named = (file for file in files if file.suffix.lower() in PICKLE_SUFFIXES)
    return next(((file, head) for file in named if (head := _head(file)) is not None), None)


def _head(file: Path) -> bytes | None:
    """Return the first bytes of a pickle, unpacked; None for any other file. A file that cannot be read is reported elsewhere."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_HEAD_BYTES)
    except OSError:
        return None
    if _PICKLE.match(data):
        return data
    if data.startswith(b"PK\x03\x04") or data[4:8] == b"TFL3":
        return None
    inner = _unpacked(data)
    if _PICKLE.match(inner):
        return inner
    return data if file.suffix.lower() in PICKLE_SUFFIXES else None


def _unpacked(data: bytes) -> bytes:
    """Return the beginning of what compressed bytes hold; empty when they are not compressed."""
    import bz2
    import lzma
    import zlib

    unpackers: tuple[Callable[[], bytes], ...] = (
        lambda: zlib.decompressobj(wbits=47).decompress(data, _HEAD_BYTES),  # zlib or gzip
        lambda: bz2.BZ2Decompressor().decompress(data, _HEAD_BYTES),
        lambda: lzma.LZMADecompressor().decompress(data, _HEAD_BYTES),
    )
    for unpack in unpackers:
        try:
            return unpack()
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            continue
    return b""
