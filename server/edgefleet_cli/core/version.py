"""The version of this installation."""

from __future__ import annotations

import os
import sys

_NAME = "edgefleet"


def own_version() -> str:
    """Return the version of the `edgefleet` distribution, `unknown` when it is not installed as one.

    What the installer wrote is read here where it lies in a folder: `importlib.metadata`, which says the same and is asked where it does
    not, takes half of the time of `edgectl --version` to load.
    """
    for folder in sys.path:
        found = _written_in(folder or ".")
        if found:
            return found
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_NAME)
    except PackageNotFoundError:
        return "unknown"


def _written_in(folder: str) -> str:
    """Return the version of the distribution that is installed in a folder, "" without one. Without pathlib, which takes long to load."""
    try:
        inside = os.listdir(folder)  # noqa: PTH208
        names = [one for one in inside if one.startswith(f"{_NAME}-") and one.endswith(".dist-info")]
        if len(names) != 1:
            return ""
        with open(f"{folder}/{names[0]}/METADATA", encoding="utf-8") as file:  # noqa: PTH123
            return next((line.partition(":")[2].strip() for line in file if line.startswith("Version:")), "")
    except OSError:
        return ""


def facts() -> dict[str, str]:
    """Return versions and platform, as `edgectl version -o json` prints them."""
    import platform

    return {
        "edgectl": own_version(),
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()}-{platform.machine()}",
    }
