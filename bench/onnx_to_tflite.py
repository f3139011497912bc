"""ONNX to TFLite: how many of onnx's own backend tests our compiler answers rightly, by runtime.

Prints one JSON object: for each runtime {pass, of, refused, failed, wrong, aborted} and the same by kind of test. refused: the
runtime itself lacks an operator or type; failed: anything else without an answer.

    python -m bench.onnx_to_tflite [--shard I/N] [--runtime litert-2.3]… [--details FILE] [--passing FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.converters.tflite.board import KINDS, OUTCOMES, Result, load_cases, passing_lines, run_board

from edgefleet_converters.tflite.runtimes import RUNTIMES


def main() -> int:
    """Run the board and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="I/N: only each N-th test, from the I-th on")
    parser.add_argument("--runtime", action="append", choices=sorted(RUNTIMES), help="default: both")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--match", default="", help="only tests whose name holds this text")
    parser.add_argument("--details", type=Path, help="write one JSON line a result that is not a pass")
    parser.add_argument("--passing", type=Path, help="write the list of passing names")
    args = parser.parse_args()
    index, _, count = args.shard.partition("/")
    runtimes = args.runtime or list(RUNTIMES)
    cases = [case for case in load_cases((int(index), int(count or 1))) if args.match in case.name]
    results = list(run_board(cases, runtimes, args.jobs))
    if args.details:
        rows = sorted((r for r in results if r.outcome != "pass"), key=lambda r: (r.runtime, r.outcome, r.name))
        args.details.write_text("".join(json.dumps(vars(r)) + "\n" for r in rows))
    if args.passing:
        args.passing.write_text(passing_lines(results))
    print(
        json.dumps({"bench": "onnx-to-tflite", "shard": args.shard, "runtimes": _figures(results, runtimes)}, indent=2)
    )
    return 0


def _figures(results: list[Result], runtimes: list[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for runtime in runtimes:
        own = [r for r in results if r.runtime == runtime]
        figures[runtime] = _row(own) | {"by_kind": {kind: _row([r for r in own if r.kind == kind]) for kind in KINDS}}
    return figures


def _row(results: list[Result]) -> dict[str, int]:
    counts = Counter(r.outcome for r in results)
    return {"pass": counts["pass"], "of": len(results)} | {o: counts[o] for o in OUTCOMES if o != "pass"}


if __name__ == "__main__":
    sys.exit(main())
