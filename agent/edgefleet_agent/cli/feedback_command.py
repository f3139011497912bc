"""`edge-agent feedback MODEL [TRACE]`: what was right about an earlier answer, or a whole CSV file of such, to this device's agent."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgefleet_agent.cli.answers import EXIT_OK, EXIT_SOME_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, complain
from edgefleet_agent.client import InferenceError, InferenceUnreachableError, Model
from edgefleet_agent.worker.control.protocol import LABELS_AHEAD, LABELS_PER_S
from edgefleet_protocol.feedback_csv import BadFeedbackFileError, Row, read_rows

AT_ONCE = 500
SHOWN = 10


def run_feedback(args: argparse.Namespace) -> int:
    """Send it, print how many were taken, name what was not, return the exit status."""
    try:
        rows = list(_rows(args))
    except (BadFeedbackFileError, OSError, UnicodeDecodeError) as error:
        complain(getattr(error, "message", str(error)), "", getattr(error, "next_step", "") or "check the file")
        return EXIT_USAGE
    bad = [(row.line, row.error) for row in rows if row.error]
    good = [row for row in rows if not row.error]
    if not rows:
        complain("there is nothing to send", "", "give --label, --value or --kpi, or a --file")
        return EXIT_USAGE
    taken = 0
    with Model(args.model, url=args.url, socket=args.socket) as model:
        try:
            for at in range(0, len(good), AT_ONCE):
                if at >= LABELS_AHEAD:
                    time.sleep(AT_ONCE / LABELS_PER_S)
                n, refused = _sent(model, good[at : at + AT_ONCE])
                taken += n
                bad += refused
        except InferenceUnreachableError as error:
            complain(error.message, "", error.next_step)
            return EXIT_UNREACHABLE
        except InferenceError as error:
            complain(error.message, "", error.next_step)
            return EXIT_SOME_FAILED
    _print(args, taken, sorted(bad))
    return EXIT_SOME_FAILED if bad else EXIT_OK


def _sent(model: Model, rows: list[Row]) -> tuple[int, list[tuple[int, str]]]:
    """Return how many were taken, and lines with what is wrong with them. Raises InferenceError, InferenceUnreachableError."""
    try:
        answer = model.send_feedback([row.item for row in rows])
    except InferenceError as error:
        if error.status != 400:
            raise
        if len(rows) == 1:
            return 0, [(rows[0].line, error.message.removeprefix("item 0: "))]
        each = [_sent(model, [row]) for row in rows]  # none can be taken: each says why
        return sum(n for n, _ in each), [one for _, bad in each for one in bad]
    return answer["accepted"], [(rows[one["index"]].line, one["error"]) for one in answer.get("refused", ())]


def _rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield what is to be sent. Raises BadFeedbackFileError, OSError, UnicodeDecodeError."""
    if args.file:
        for row in read_rows(Path(args.file).read_text("utf-8")):
            yield Row(row.line, {name: one for name, one in row.item.items() if name != "device"}, row.error)
        return
    item: dict[str, Any] = {"trace_id": args.trace, "label": args.label, "value": args.value, "segment": args.segment}
    item = {name: one for name, one in item.items() if one not in ("", None)}
    item |= _kpi(args.kpi)
    if item.keys() & {"label", "value", "kpi"}:
        yield Row(1, item, "")


def _kpi(written: list[str]) -> Mapping[str, Any]:
    """Return NAME=NUMBER as the API takes it; a word that is no number is left to the API to refuse."""
    found: dict[str, Any] = {}
    for one in written:
        name, _, text = one.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = text
    return {"kpi": found} if found else {}


def _print(args: argparse.Namespace, taken: int, bad: list[tuple[int, str]]) -> None:
    if args.output == "json":
        print(json.dumps({"accepted": taken, "refused": [{"line": line, "error": why} for line, why in bad]}))  # noqa: T201
        return
    for line, why in bad[:SHOWN]:
        print(f"line {line}: {why}" if args.file else why, file=sys.stderr)  # noqa: T201
    if len(bad) > SHOWN:
        print(f"and {len(bad) - SHOWN} more", file=sys.stderr)  # noqa: T201
    print(f"{taken} taken, {len(bad)} refused; the agent pairs them with its answers: `edge-agent status`")  # noqa: T201
