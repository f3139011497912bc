"""Planted faults that the gates of the profiles catch, and models without a fault that they let through, as N of M.

Each fault is a model with exactly one thing wrong for a profile; caught means that the whole pipeline refuses it with the right
code and names the profile's key. Goal: all caught, at least 20 (issue 4). Also the arena that TFLite Micro needs for a few
models. Prints one JSON object.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.converters.graphs import run
from tests.converters.int8_graphs import RELU, chain, dense
from tests.converters.planted import CONTROLS, FAULTS, Fault, written

from edgefleet_converters.check.arena import smallest_arena


def outcome(fault: Fault, folder: Path) -> str:
    """Return "" when a fault is caught as it must be, else what happened."""
    report, _ = run(written(fault.model(), folder), folder / "out", [fault.profile()], **fault.options)
    if report.bundles:
        return "a bundle was offered"
    (refused,) = report.refused
    named = all(words in refused.reason for words in (fault.key, *fault.words))
    return "" if refused.code == fault.code and named else f"{refused.code}: {refused.reason}"


def main() -> None:
    """Run all and print the result."""
    began_s = time.monotonic()
    missed, refused = {}, {}
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            problem = outcome(fault, Path(folder))
        if problem:
            missed[fault.name] = problem
    for number, (name, model) in enumerate(CONTROLS):
        with tempfile.TemporaryDirectory() as folder:
            report, _ = run(written(model(), Path(folder)), Path(folder) / "out", [name])
        if report.refused:
            refused[f"{number}-{name}"] = report.refused[0].reason
    arenas: dict[str, Any] = {
        "dense-16-4": smallest_arena(dense()),
        "dense-64-64": smallest_arena(dense(features=64, classes=64)),
        "relu-50000": smallest_arena(chain(RELU, [1, 50_000], version=2)),
    }
    answer = {
        "bench": "profile_faults",
        "faults": {"of": len(FAULTS), "caught": len(FAULTS) - len(missed), "missed": missed},
        "controls": {"of": len(CONTROLS), "passed": len(CONTROLS) - len(refused), "refused": refused},
        "arena_bytes": arenas,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
