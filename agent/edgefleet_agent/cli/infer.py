"""`edge-agent infer MODEL INPUT…`: files, folders or `-` in, labelled answers out.

1. A folder stands for all files in it that predict reads, in the order of their names; others are skipped and counted.
2. One bad file does not stop the rest; exit 1 then, 0 when all were answered, 3 when nothing answers at that address.
3. `--lines`, `--camera`, `--audio`, `--move` and `--watch` ask for what comes in and print one line an answer; with `-o json` a line is
   a JSON object.
4. `--every` runs again and again at planned times (`inputs.scheduled_run`).
5. `-o json` prints one object: `{"model", "results": [{"input", "version", "predictions" | "error"}], "failed"}`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from edgefleet_agent.cli.answers import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ask_file,
    complain,
    print_result,
)
from edgefleet_agent.client import InferenceUnreachableError, Model, media_type_of

WAIT_LOOK_S = 0.2


def run_infer(args: argparse.Namespace) -> int:
    """Ask for each input, print the answers, return the exit status."""
    name, _, version = args.model.partition("@")
    if args.wait > 0 and not _is_served(args, name, version):
        complain(
            f"{args.model} is not served here after {args.wait:.0f} s",
            "",
            "`edge-agent status` says what this device runs, `edgectl device explain ID` why it does not run this",
        )
        return EXIT_UNREACHABLE
    if args.lines or args.camera or args.audio or args.move or args.watch:
        from edgefleet_agent.inputs.streams import run_stream

        return run_stream(args)
    if args.every != "0" or args.out is not None:
        from edgefleet_agent.inputs.scheduled_run import run_scheduled

        return run_scheduled(args)
    inputs, skipped, missing = _expand(args.inputs, args.content_type)
    if missing:
        complain(f"there is no file {missing[0]}", "", "check the path")
        return EXIT_USAGE
    if not inputs:
        complain("there is nothing to ask", f"{skipped} files have a suffix that predict does not read", "")
        return EXIT_USAGE
    results: list[dict[str, Any]] = []
    with Model(name, url=args.url, socket=args.socket, version=version or None, timeout_s=args.timeout) as model:
        for path in inputs:
            try:
                results.append({"input": str(path), **ask_file(model, path, args.content_type)})
            except InferenceUnreachableError as e:
                complain(e.message, "", e.next_step)
                return EXIT_UNREACHABLE
            if args.output == "text":
                print_result(results[-1])
    failed = sum("error" in result for result in results)
    if args.output == "json":
        print(json.dumps({"model": name, "results": results, "failed": failed}))  # noqa: T201 - output of the command
    elif skipped:
        print(f"{skipped} files skipped: not an image, .csv, .json or .npy", file=sys.stderr)  # noqa: T201
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _is_served(args: argparse.Namespace, name: str, version: str) -> bool:
    end_s = time.monotonic() + args.wait
    with Model(name, url=args.url, socket=args.socket, version=version or None, timeout_s=args.timeout) as model:
        while not model.ready():
            if time.monotonic() > end_s:
                return False
            time.sleep(WAIT_LOOK_S)
    return True


def _expand(inputs: list[str], content_type: str | None) -> tuple[list[Path], int, list[Path]]:
    """Return the files to send, how many of a folder were skipped, and what does not exist."""
    files: list[Path] = []
    skipped = 0
    missing: list[Path] = []
    for text in inputs:
        path = Path(text)
        if text == "-":
            files.append(path)
        elif path.is_dir():
            for child in sorted(p for p in path.iterdir() if p.is_file()):
                if media_type_of(child) is not None or content_type is not None:
                    files.append(child)
                else:
                    skipped += 1
        elif path.exists():
            files.append(path)
        else:
            missing.append(path)
    return files, skipped, missing
