"""Keep a conversion: the same request into the same folder again gives the report that lies there, in a second.

A result counts as the same when everything that it depends on is: the bytes of source and data files, options, profiles, names,
the versions of the tools, and this package's own code. Bundles are read and hashed before they are believed.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

import edgefleet_converters
import edgefleet_profiles
import edgefleet_protocol
import edgefleet_runtime
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.request import ConversionRequest
from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.digest import sha256_hex

_TOOLS: Final = (
    "numpy", "onnx", "onnxruntime", "ai-edge-litert", "tflite-runtime", "tflite-micro", "flatbuffers", "scikit-learn", "skl2onnx",
    "skops", "joblib",
)  # fmt: skip
_CODE: Final = (edgefleet_converters, edgefleet_profiles, edgefleet_protocol, edgefleet_runtime)


def key_of(request: ConversionRequest) -> str:
    """Return a digest of all that decides a conversion's result. Reads every file of the request. Raises OSError."""
    files = {name: path for name in request.data.__struct_fields__ if (path := getattr(request.data, name))}
    facts = {
        "model": request.model,
        "version": request.version,
        "source": list(_digests(request.source)),
        "data": {name: list(_digests(Path(path))) for name, path in sorted(files.items())},
        "options": msgspec.to_builtins(request.options),
        "profiles": [profile_to_dict(profile) for profile in request.profiles],
        "tools": tools_digest(request.tools_dir),
    }
    return sha256_hex(msgspec.json.encode(facts, order="sorted"))


@functools.cache
def tools_digest(tools_dir: Path | None) -> str:
    """Return a digest of what converts here: this code, the libraries' versions, tool environments, machine. Raises OSError."""
    facts = {
        "tools": {name: _version(name) for name in _TOOLS},
        "code": [list(_code(Path(str(package.__file__)).parent)) for package in _CODE],
        "environments": [] if tools_dir is None else list(_digests(tools_dir, "*/edgefleet.json")),
        "host": [platform.machine(), platform.python_version()],
    }
    return sha256_hex(msgspec.json.encode(facts, order="sorted"))


def kept_report(folder: Path, key: str) -> ConversionReport | None:
    """Return the report in `folder` when it was made for `key` and each of its bundles is whole; else None."""
    try:
        report = msgspec.json.decode((folder / "report.json").read_bytes(), type=ConversionReport)
        whole = all(_digest(Path(bundle.path)) == bundle.sha256 for bundle in report.bundles)
    except (OSError, msgspec.MsgspecError):
        return None
    return report if report.key == key and whole else None


def _code(package: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, sha256) of a package's source files and its data, without what Python compiles."""
    return (found for found in _digests(package) if "__pycache__" not in found[0])


def _digests(path: Path, pattern: str = "**/*") -> Iterator[tuple[str, str]]:
    """Yield (name, sha256) of a file, or of each file in a folder by name; links are not followed."""
    if path.is_file():
        yield "", _digest(path)
        return
    for file in sorted(path.glob(pattern)):
        if file.is_file() and not file.is_symlink():
            yield str(file.relative_to(path)), _digest(file)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
