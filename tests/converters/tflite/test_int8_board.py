"""A part of the int8 scoreboard: nothing ends the process or cannot be loaded, and most answers are within two steps."""

from __future__ import annotations

import sys
from collections import Counter

from edgefleet_converters.tflite.runtimes import RUNTIMES
from tests.converters.tflite.board import load_cases, run_board
from tests.converters.tflite.int8_board import judge_int8

SHARD = (3, 40)
LEAST_WITHIN = 0.85
"""Of the whole board 0.933 on LiteRT 2.3 and 0.925 on tflite-runtime 2.14."""


def test_no_int8_form_crashes_and_most_are_within_two_steps() -> None:
    runtimes = [name for name in RUNTIMES if name != "tflite-2.14" or sys.version_info < (3, 12)]
    results = list(run_board(load_cases(SHARD), runtimes, judged=judge_int8))
    bad = [f"{r.runtime} {r.name}: {r.detail}" for r in results if r.outcome in ("aborted", "failed")]
    assert not bad, "\n".join(bad)
    counts = Counter(r.outcome for r in results)
    within = counts["int8"] + counts["moved"] + counts["float"] + counts["integers"]
    assert counts["int8"] > 0
    assert within >= LEAST_WITHIN * (len(results) - counts["not_float_passing"])
