"""What this device is: read from the system, without importing a runtime."""

import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from edgefleet_agent import __version__
from edgefleet_agent.identity.store import KEY_FILE
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.collector import disk_free_bytes, memory_total_bytes
from edgefleet_agent.reporting.thermal_zone import ThermalZone

RUNTIME_DISTRIBUTIONS = {"ort": "onnxruntime", "litert": "ai-edge-litert", "tflite": "tflite-runtime"}
"""A profile's runtime word → the distribution that brings it."""
_BOARD_FILES = ("/proc/device-tree/model", "/sys/class/dmi/id/product_name")


def runtimes() -> dict[str, str]:
    """Return the installed runtimes, word → version.

    The names of the metadata folders say it all; `importlib.metadata` would bring zip, csv and mail parsers into agentd.
    """
    found: dict[str, str] = {}
    for folder in map(Path, sys.path):
        for word, distribution in RUNTIME_DISTRIBUTIONS.items():
            for match in _metadata_folders(folder, distribution.replace("-", "_")):
                found.setdefault(word, match)
    return found


def _metadata_folders(folder: Path, name: str) -> list[str]:
    """Return the versions of a distribution installed in one folder of `sys.path`: `<name>-<version>[-py…].{dist,egg}-info`."""
    names = [
        entry.name.removesuffix(f".{kind}-info")
        for kind in ("dist", "egg")
        for entry in sorted(folder.glob(f"{name}-*.{kind}-info"))
    ]
    return [found.removeprefix(f"{name}-").split("-")[0] for found in names]


def board() -> str:
    """Return the board's name as its firmware gives it, "" when it gives none."""
    for name in _BOARD_FILES:
        with suppress(OSError):
            return Path(name).read_bytes().rstrip(b"\0\n ").decode("ascii", "replace")[:120]
    return ""


def facts() -> dict[str, Any]:
    """Return what is sent at enrolment. ram_mb: MiB."""
    return {
        "arch": platform.machine(),
        "board": board(),
        "ram_mb": max(0, memory_total_bytes()) // (1024 * 1024),
        "runtimes": [{"name": name, "version": version} for name, version in runtimes().items()],
        "python": platform.python_version(),
        "glibc": _glibc(),
        "agent_version": __version__,
        "hostname": socket.gethostname()[:64],
    }


def key_storage(file: Path) -> str:
    """Return where the key in a PEM file is: "tpm", wrapped under a secret of it, or "file"; "" when the file cannot be read."""
    with suppress(OSError):
        return "tpm" if b"ENCRYPTED" in file.read_bytes() else "file"
    return ""


class Models(Protocol):
    """How the models of the device do."""

    @property
    def trouble(self) -> str:
        """Why records cannot be written, "" when they can."""
        ...

    def modes(self) -> Mapping[str, StrEnum]:
        """Return the mode of each."""
        ...


def device_now(
    root: Path,
    runtimes: Mapping[str, str],
    models: Models,
    drift: Mapping[str, Sequence[str]],
    logs: Mapping[str, Sequence[object]],
) -> dict[str, Any]:
    """Return the facts of a state. drift: by model, the signals that do. logs: by model, id, parts and head of its prediction log."""
    found: dict[str, Any] = {"disk_free_bytes": disk_free_bytes(root), "runtimes": runtimes}
    found["key_storage"] = key_storage(StatePaths(root).identity / KEY_FILE)
    found |= ThermalZone().limits()
    found["modes"] = {model: mode.value for model, mode in models.modes().items()}
    if drift:
        found["drift"] = drift
    if logs:
        found["prediction_log"] = logs
    if models.trouble:
        found["disk_error"] = models.trouble
    return found


def _glibc() -> str:
    with suppress(OSError, ValueError):
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    return ""
