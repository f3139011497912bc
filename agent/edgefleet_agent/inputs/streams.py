"""`edge-agent infer MODEL` for what comes in one by one: lines of standard input, frames of a camera, windows of sound, files of a folder.

1. One answer a line, as soon as it is there. JSON lines: `{"line" | "frame" | "window" | "file", "version", "predictions" | "error"}`.
2. Exit 1 when one of them failed, 0 when none did, 3 when the device cannot be reached, 2 for arguments that do not go together.
"""

import argparse
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefleet_agent.cli.answers import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ask,
    ask_file,
    complain,
    print_result,
)
from edgefleet_agent.client import InferenceUnreachableError, Model, media_type_of
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.inputs.batch import Batch
from edgefleet_agent.inputs.camera import CameraError, Frame, Newest, frames, is_live
from edgefleet_agent.inputs.microphone import AudioError, windows
from edgefleet_protocol.errors import EdgefleetError

MAX_LINE_BYTES = 32 * 1024 * 1024


def run_stream(args: argparse.Namespace) -> int:
    """Ask for what comes until it ends; returns the exit status."""
    folders = [Path(text) for text in args.inputs]
    if (args.move or args.watch) and not (len(folders) == 1 and folders[0].is_dir()):
        complain("--move and --watch work on one folder.", "", "name the folder")
        return EXIT_USAGE
    if (args.lines or args.camera or args.audio) and args.inputs:
        complain("--lines, --camera and --audio take no other inputs.", "", "leave the inputs out")
        return EXIT_USAGE
    failed = 0
    name, _, version = args.model.partition("@")
    try:
        with Model(name, url=args.url, socket=args.socket, version=version or None, timeout_s=args.timeout) as model:
            for result in _results(args, model, folders):
                failed += "error" in result
                _print(args, result)
    except EdgefleetError as error:
        complain(error.message, "", error.next_step)
        return EXIT_UNREACHABLE if isinstance(error, InferenceUnreachableError) else EXIT_SOME_FAILED
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _results(args: argparse.Namespace, model: Model, folders: list[Path]) -> Iterator[dict[str, Any]]:
    if args.lines:
        return _lines(model)
    if args.camera:
        return _camera(args, model)
    if args.audio:
        return _sound(args, model)
    batch = Batch(folders[0], lambda path: media_type_of(path) is not None or args.content_type is not None)

    def ask_one(path: Path) -> dict[str, Any]:
        return ask_file(model, path, args.content_type)

    if args.move:
        return batch.run(ask_one)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    return batch.watch(ask_one, ended.wait, lambda: SystemClock().now().timestamp())


def _lines(model: Model) -> Iterator[dict[str, Any]]:
    number = 0
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
        number += 1
        if line.strip():
            yield {"line": number, **ask(model, line, "application/json")}


def _camera(args: argparse.Namespace, model: Model) -> Iterator[dict[str, Any]]:
    width, _, height = args.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise CameraError(f"{args.size!r} is no size", next_step="give it as 640x480")
    source = frames(args.camera, int(width), int(height))
    return _newest(args, model, source, _seconds(args.every))


def _sound(args: argparse.Namespace, model: Model) -> Iterator[dict[str, Any]]:
    shapes = [one["shape"] for one in model.metadata()["inputs"]]
    length = shapes[0][-1] if len(shapes) == 1 and shapes[0] else 0
    if not (1 < length == math.prod(map(abs, shapes[0])) and 0 <= args.hop <= 3600 and args.rate > 0):
        raise AudioError(
            f"{args.model} takes {shapes}, at a hop of {args.hop:g} s and {args.rate} Hz",
            next_step="name a model of one input [N, samples], a hop of 0 to 3600 s and a rate above 0",
        )
    hop = round(args.hop * args.rate) or length
    return _newest(args, model, windows(args.audio, length, hop, args.rate), 0.0)


def _newest(
    args: argparse.Namespace, model: Model, source: Iterator[Frame], every_s: float
) -> Iterator[dict[str, Any]]:
    newest = Newest(source) if is_live(args.audio or args.camera) else None
    taken = iter(newest.take, None) if newest is not None else source
    for number, (media, frame) in enumerate(taken, 1):
        began = time.monotonic()
        dropped = newest.dropped if newest is not None else 0
        yield {"window" if args.audio else "frame": number, **ask(model, frame, media), "dropped": dropped}
        if number == args.frames:
            return
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise CameraError(f"{text!r} is no number of seconds", next_step="give --every as 0.5") from error


def _print(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.output == "json":
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        label = next(
            f"{key} {result[key]}" if key != "file" else result[key]
            for key in ("line", "frame", "window", "file")
            if key in result
        )
        print_result({"input": label, **result})
    sys.stdout.flush()
