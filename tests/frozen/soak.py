"""`./dev soak frozen`: the wheels of each frozen commit, built again, have the recorded digests."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.frozen import archive
from tests.frozen.make import build_wheels
from tests.release import artefacts
from tests.release.refusal import RefusalError


def main(n: int, _seed: int) -> dict[str, Any]:
    """Build the newest n frozen versions again. Not ok when a commit is not in this clone, as in a shallow one."""
    found = {version: rebuilt(version) for version in archive.versions()[-n:]}
    return {"versions": found, "ok": bool(found) and set(found.values()) == {"same wheels"}}


def rebuilt(version: str) -> str:
    """Return "same wheels", or what keeps a frozen version from being built to them."""
    about = archive.record(version)
    if metadata.version("hatchling") != about["hatchling"]:
        return f"built with hatchling {about['hatchling']}; here is {metadata.version('hatchling')}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheels = build_wheels(about["commit"], Path(folder))
        except RefusalError as refusal:
            return f"commit {about['commit'][:12]} is not in this clone, which may be shallow: {refusal.why}"
        wrong = [name for name, digest in artefacts.digests(wheels).items() if about["wheels"].get(name) != digest]
    return f"other bytes: {', '.join(wrong)}" if wrong else "same wheels"
