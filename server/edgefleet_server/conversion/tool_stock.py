"""Which tools the converters of this process can use: seen by what lies on the disk, since the server imports none of them.

A tool environment that is whole has a stamp, which is written last (`edgefleet_converters.tools.environment`). What reads scikit-learn
models may also be installed next to edgefleet itself.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STAMP: Final = "edgefleet.json"
SKLEARN: Final = "sklearn"
SKLEARN_PACKAGES: Final = ("sklearn", "skl2onnx", "skops", "joblib")
"""As `edgefleet_converters.importers.sklearn_model` asks for them (a test compares)."""


@dataclass(frozen=True)
class ToolStock:
    """names: of the tools that can be used, None where it cannot be known. folder: of the environments."""

    names: frozenset[str] | None
    folder: Path
    reads_pickles: bool


def look(folder: Path, *, converts: bool, reads_pickles: bool) -> ToolStock:
    """Return the stock as it is now. converts: whether this process runs our converters. Reads the folder."""
    if not converts:
        return ToolStock(None, folder, reads_pickles)
    names = {stamp.parent.name for stamp in folder.glob(f"*/{STAMP}") if (stamp.parent / "bin" / "python").exists()}
    if all(importlib.util.find_spec(package) is not None for package in SKLEARN_PACKAGES):
        names.add(SKLEARN)
    return ToolStock(frozenset(names), folder, reads_pickles)
