"""Writes the API's OpenAPI document, made from the code alone: no server, no data folder.

    python -m edgefleet_server.process.openapi_file [--out FILE] [--allow-breaking]

A file that exists is replaced only when the new document breaks nothing that was written to it, unless that is said to be meant.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.container import build_parts
from edgefleet_server.process.init import report_error
from edgefleet_server.settings import load_settings
from edgefleet_server.web.openapi_diff import breaks

MAX_LISTED = 20


class BreakingChangeError(EdgefleetError):
    """The new document would break clients of the old one."""

    code = "server.breaking_change"
    default_next_step = "keep what is there and add beside it; --allow-breaking when the break is meant"


def document() -> dict[str, Any]:
    """Return the OpenAPI document of this version."""
    with tempfile.TemporaryDirectory() as folder:
        parts = build_parts(load_settings(Path(folder)), SystemClock())
        try:
            return create_app(parts).openapi()
        finally:
            parts.db.dispose()


def text_of(document: dict[str, Any]) -> str:
    """Return a document as it is written to a file."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(path: Path, made: dict[str, Any], *, allow_breaking: bool) -> None:
    """Write a document to a file. Raises BreakingChangeError."""
    if path.is_file() and not allow_breaking:
        found = breaks(json.loads(path.read_text(encoding="utf-8")), made)
        if found:
            listed = "\n".join(f"  {line}" for line in found[:MAX_LISTED])
            raise BreakingChangeError(f"{len(found)} change(s) would break programs that use {path}:\n{listed}")
    path.write_text(text_of(made), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write or print the document. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server openapi", description="Write the API's OpenAPI document.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--allow-breaking", action="store_true")
    given = parser.parse_args(arguments)
    made = document()
    if given.out is None:
        sys.stdout.write(text_of(made))
        return 0
    try:
        write(given.out, made, allow_breaking=given.allow_breaking)
    except EdgefleetError as error:
        report_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
