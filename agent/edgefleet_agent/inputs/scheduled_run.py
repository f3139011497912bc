"""Batches at planned times: one run, which agentd starts for a schedule that came with a model, and `edge-agent infer --every`.

1. Answers of a run lie in one file, `FOLDER/20261201T060000Z.jsonl` by its planned time in UTC: whole or not at all, and once, however
   often the run is begun. The newest `keep` files stay.
2. Two runs of one folder never overlap, also of agentd and a person: the second ends at once with status 75.
3. The trace id of an answer is `NAME@20261201T060000Z` by the name of its input, so that labels that come later can name it.
4. A device that does not answer for WAIT_S fails the run; inputs that cannot be answered are in the file, and fail it, too.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgefleet_agent.batch_runs import rules
from edgefleet_agent.batch_runs.model import RunState
from edgefleet_agent.cli.answers import EXIT_OK, EXIT_SOME_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, ask_file, complain
from edgefleet_agent.client import Model, media_type_of
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import read_record, write_file, write_record
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.run_schedule import ScheduleError, plan_of

BUSY = 75
WAIT_S = 60.0
LOOK_S = 1.0
KEY_CHARS = 64


class NotServedError(EdgefleetError):
    """The model did not answer in time."""

    code = "run.not_served"
    default_next_step = "`edge-agent status` says why it does not serve"


class NoInputError(EdgefleetError):
    """What is to be asked is not there."""

    code = "run.no_input"
    default_next_step = "have it written before the planned time"


class SomeFailedError(EdgefleetError):
    """Some inputs could not be answered."""

    code = "run.some_failed"
    default_next_step = "read their `error` in the newest file of answers"


def run_batch(model: Model, inputs: list[Path], folder: Path, planned_s: int, keep: int) -> int:
    """Ask about all inputs, folders stand for their files, and write the answers; return how many files were asked.

    Raises NotServedError, NoInputError, SomeFailedError, BlockingIOError when another run is at work, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        end_s = time.monotonic() + WAIT_S
        while not model.ready():
            if time.monotonic() > end_s:
                raise NotServedError(f"the model did not answer for {WAIT_S:.0f} s")
            time.sleep(LOOK_S)
        lines, failed, stamp = [], 0, f"{datetime.fromtimestamp(planned_s, UTC):%Y%m%dT%H%M%SZ}"
        for path in _files(inputs):
            key = f"{path.stem}@{stamp}"
            key = key if len(key) <= KEY_CHARS and all("!" <= letter <= "~" for letter in key) else ""
            result: dict[str, Any] = {"input": path.name, "planned_s": planned_s, **ask_file(model, path, None, key)}
            failed += "error" in result
            lines.append(json.dumps(result | {"trace_id": model.trace_id}) + "\n")
        write_file(folder / f"{stamp}.jsonl", "".join(lines).encode(), mode=0o640)
        for old in sorted(folder.glob("[0-9]*T*Z.jsonl"))[:-keep]:
            old.unlink(missing_ok=True)
    if failed:
        raise SomeFailedError(f"{failed} of {len(lines)} inputs could not be answered")
    return len(lines)


def _files(inputs: list[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file() and media_type_of(p) and p.name[0] != ".")
        elif path.exists():
            yield path
        else:
            raise NoInputError(f"there is no {path.name} in the folder of the model")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def run_scheduled(args: argparse.Namespace) -> int:
    """`edge-agent infer MODEL INPUT … --every WHEN --out FOLDER`: run until it is stopped, or `--runs` times; return the exit status."""
    if not args.inputs or args.out is None:
        complain("--every needs INPUT and --out.", "", "name a folder or files, and where answers go")
        return EXIT_USAGE
    try:
        plan = plan_of(args.every, least_s=1)
    except ScheduleError as error:
        complain(error.message, "", error.next_step)
        return EXIT_USAGE
    state_file, clock = args.out / ".state", SystemClock()
    args.out.mkdir(parents=True, exist_ok=True)
    body = args.every.encode()
    state = read_record(RunState, state_file)
    if state is None or state.body != body:
        state = RunState(body=body)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    name, _, version = args.model.partition("@")
    first_s, began_s, runs, code = clock.monotonic_s(), None, 0, ""
    with Model(name, url=args.url, socket=args.socket, version=version or None, timeout_s=args.timeout) as model:
        while not ended.wait(min(LOOK_S, max(0.0, state.due_s - clock.now().timestamp())) if state.due_s else 0.0):
            real_s = clock.monotonic_s() - first_s
            found = rules.looked(plan, state, rules.Moment(clock.now().timestamp(), real_s, began_s), catch_up=True)
            changed, state = found.state.due_s != state.due_s or found.begin, found.state
            if changed:
                write_record(state_file, state)
            if not found.begin:
                continue
            began_s, code = real_s, ""
            result: dict[str, Any] = {"planned_s": state.run_s}
            try:
                result["answered"] = run_batch(model, [Path(text) for text in args.inputs], args.out, state.run_s, 100)
            except (EdgefleetError, OSError) as error:
                code = error.code if isinstance(error, EdgefleetError) else "run.crash"
                result |= {"code": code, "error": str(error)}
            state = rules.ended(state, code, str(result.get("error", ""))).state
            write_record(state_file, state)
            _say(args, result, state)
            runs += 1
            if runs == args.runs:
                break
    return EXIT_OK if not code else EXIT_UNREACHABLE if code == NotServedError.code else EXIT_SOME_FAILED


def _say(args: argparse.Namespace, result: dict[str, Any], state: RunState) -> None:
    counts = {"missed": state.missed, "late": state.late, "failed": state.failed}
    at = f"{datetime.fromtimestamp(result['planned_s'], UTC):%Y-%m-%d %H:%M:%SZ}"
    what = result.get("error") or f"{result['answered']} inputs answered"
    odd = "".join(f", {n} {word}" for word, n in counts.items() if n)
    text = json.dumps({**result, **counts}) if args.output == "json" else f"{at}  {what}{odd}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Do one run for agentd, which reads one JSON line about a failure."""
    parser = argparse.ArgumentParser()
    for name in ("--socket", "--model", "--input", "--folder"):
        parser.add_argument(name, required=True)
    parser.add_argument("--planned", type=int, required=True)
    parser.add_argument("--keep", type=int, required=True)
    args = parser.parse_args()
    os.nice(5)
    try:
        with Model(args.model, socket=args.socket) as model:
            run_batch(model, [Path(args.input)], Path(args.folder), args.planned, args.keep)
    except BlockingIOError:
        return BUSY
    except (EdgefleetError, OSError) as error:
        code = error.code if isinstance(error, EdgefleetError) else "run.disk"
        sys.stdout.write(json.dumps({"code": code, "reason": str(error)[:500]}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
