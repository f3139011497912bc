"""The files of the clone, as git lists them; what the tests of the house read."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "agent/edgefleet_protocol",
    "agent/edgefleet_runtime",
    "agent/edgefleet_agent",
    "server/edgefleet_server",
    "server/edgefleet_cli",
    "server/edgefleet_sim",
    "server/edgefleet_terms",
    "server/edgefleet_ceremony",
    "converters/edgefleet_converters",
    "firmware-profiles/edgefleet_profiles",
)


@cache
def tracked() -> tuple[Path, ...]:
    """Return every tracked file that is there, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file())


def python_sources() -> tuple[Path, ...]:
    """Return the tracked Python files of the packages, relative to the root."""
    return tuple(path for path in tracked() if path.suffix == ".py" and str(path).startswith(PACKAGES))


def text_of(path: Path) -> str | None:
    """Return a tracked file's text, None when it is not UTF-8 text."""
    data = (ROOT / path).read_bytes()
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
