"""The version of this installation."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Return the version of the `edgefleet` distribution, `unknown` when it is not installed as one."""
    try:
        return version("edgefleet")
    except PackageNotFoundError:
        return "unknown"


def facts() -> dict[str, str]:
    """Return versions and platform, as `edgectl version -o json` prints them."""
    return {
        "edgectl": own_version(),
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()}-{platform.machine()}",
    }
