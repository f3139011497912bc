"""`edge-agent predictions`: the prediction log of this device. A running agent is asked first to write out what it still holds."""

import argparse
import json
import sys
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgefleet_agent.captures.prediction_log import Prediction, read_predictions, text_of
from edgefleet_agent.cli.rollback import ask_agent
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.status import read_status
from edgefleet_protocol.errors import EdgefleetError


def add_predictions_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command and return its parser."""
    parser = sub.add_parser(
        "predictions", help="show the models' recent answers from the log on this device, without inputs"
    )
    parser.add_argument("model", nargs="?", default="", help="only this model")
    parser.add_argument("-n", "--last", type=int, default=20, help="number of answers, 0 = all (default: %(default)s)")
    parser.add_argument("--trace", default="", help="only the answer with this trace id")
    parser.set_defaults(run=run_predictions)
    return parser


def run_predictions(args: argparse.Namespace) -> int:
    """Print the newest predictions. Raises OSError."""
    _write_out(args.state)
    found: deque[Prediction] = deque(maxlen=args.last or None)
    found.extend(read_predictions(StatePaths(args.state).predictions, model=args.model, trace_id=args.trace))
    if args.output == "json":
        rows = [msgspec.to_builtins(one) for one in found]
        sys.stdout.write(json.dumps({"predictions": rows}, indent=2) + "\n")
    else:
        times = [
            datetime.fromtimestamp(one.at_ms / 1_000, UTC).isoformat(timespec="milliseconds")[:23] for one in found
        ]
        sys.stdout.write((text_of(list(found), times) if found else "the log holds no such prediction") + "\n")
    return 0


def _write_out(state: Path) -> None:
    """Have the answers of a moment ago in the log, too. Without a running agent there are none."""
    with suppress(EdgefleetError):
        answer = ask_agent(str(read_status(state)["control_socket"]), {"do": "flush"})
        if answer.get("whole") is False:
            sys.stderr.write("a model is busy: its newest answers may be missing; ask again in a moment\n")
