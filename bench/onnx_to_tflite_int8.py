"""Full-integer int8: how many of onnx's backend tests that pass in float32 stay within two steps of the output's scale.

Each test is quantized on its own inputs. Prints one JSON object: for each runtime {within, of, by_outcome} and the same by kind of
test. `of` counts the tests that pass in float32. Those within are counted by kind: `int8` computes in int8, `moved` only moves int8
(reshapes, joins, slices), `float` was left in float32 as a whole (no int8 kernel, a range without end, or values that become
indices), `integers` has no float32 tensor. `wrong` is further off, `aborted` ended the process.

    python -m bench.onnx_to_tflite_int8 [--shard I/N] [--runtime litert-2.3]… [--match TEXT] [--details FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.converters.tflite.board import KINDS, Result, load_cases, run_board
from tests.converters.tflite.int8_board import INT8_OUTCOMES, judge_int8

from edgefleet_converters.tflite.runtimes import RUNTIMES


def main() -> int:
    """Run the board and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="I/N: only each N-th test, from the I-th on")
    parser.add_argument("--runtime", action="append", choices=sorted(RUNTIMES), help="default: both")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--match", default="", help="only tests whose name holds this text")
    parser.add_argument(
        "--details", type=Path, help="write one JSON line for each test that is wrong, failed or aborted"
    )
    args = parser.parse_args()
    index, _, count = args.shard.partition("/")
    runtimes = args.runtime or list(RUNTIMES)
    cases = [case for case in load_cases((int(index), int(count or 1))) if args.match in case.name]
    results = list(run_board(cases, runtimes, args.jobs, judged=judge_int8))
    if args.details:
        bad = [r for r in results if r.outcome in ("wrong", "failed", "aborted")]
        rows = sorted(bad, key=lambda r: (r.runtime, r.outcome, r.name))
        args.details.write_text("".join(json.dumps(vars(r)) + "\n" for r in rows))
    figures: dict[str, Any] = {}
    for runtime in runtimes:
        own = [r for r in results if r.runtime == runtime]
        figures[runtime] = _row(own) | {"by_kind": {kind: _row([r for r in own if r.kind == kind]) for kind in KINDS}}
    print(json.dumps({"bench": "onnx-to-tflite-int8", "shard": args.shard, "runtimes": figures}, indent=2))
    return 0


def _row(results: list[Result]) -> dict[str, Any]:
    counts = Counter(r.outcome for r in results)
    return {
        "within": counts["int8"] + counts["moved"] + counts["float"] + counts["integers"],
        "of": len(results) - counts["not_float_passing"],
        "by_outcome": {outcome: counts[outcome] for outcome in INT8_OUTCOMES},
    }


if __name__ == "__main__":
    sys.exit(main())
