"""Arguments of `edge-agent infer`. Apart from `cli.infer`, so that `edge-agent run` does not carry the inference client."""

import argparse
from pathlib import Path

DESCRIPTION = "Ask a model on this device about files, folders or standard input (-), and print its labelled answers."


def add_infer_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to a parser's subcommands and return its own parser.

    The caller adds how to find the device and puts `url` or `socket` into the namespace given to `run_infer`.
    """
    usage = "%(prog)s [options] MODEL [INPUT ...]"
    parser = sub.add_parser("infer", help="ask a model on this device", description=DESCRIPTION, usage=usage)
    parser.add_argument("model", metavar="MODEL", help="name of the model, or name@version")
    inputs = parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", default=[], help="image, .csv, .json, .npy, a folder of them, or -"
    )
    # none is needed (--lines, --camera). Said here and not by "*": before Python 3.12 that takes no inputs behind an option
    inputs.required = False
    parser.add_argument("--url", help="address of the device's inference API (default: this device's)")
    parser.add_argument("--socket", help="unix socket of the inference API")
    parser.add_argument("--content-type", help="what the input is, for - and for files without a known suffix")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="timeout of one answer (default: %(default)g)"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait this long at most until the model is served here",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--lines", action="store_true", help="one JSON body per line of standard input; one answer per line"
    )
    how.add_argument(
        "--move",
        action="store_true",
        help="of one folder: write answers to results.jsonl, move files to done/ and failed/",
    )
    how.add_argument("--watch", action="store_true", help="like --move, and keep processing new files")
    how.add_argument("--camera", metavar="SOURCE", help="/dev/video0, a video, rtsp://…, a .mjpeg file, or -")
    how.add_argument("--audio", metavar="SOURCE", help="ALSA device (default, hw:1), a .wav file, or - for raw S16_LE")
    parser.add_argument(
        "--every",
        default="0",
        metavar="WHEN",
        help="run the batch each 15m, 6h, 1d, or at the times of five cron fields in UTC; camera: seconds between two frames",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="with --every: where answers go, a file for each run"
    )
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="with --every: stop after this many runs")
    parser.add_argument(
        "--frames", type=int, default=0, metavar="N", help="camera, audio: stop after this many (default: never)"
    )
    parser.add_argument(
        "--size", default="640x480", metavar="WxH", help="camera: requested frame size (default: %(default)s)"
    )
    _add_sound(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print the answers")
    return parser


def _add_sound(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hop", type=float, default=0.0, metavar="SECONDS", help="audio: between windows (default: one window)"
    )
    parser.add_argument(
        "--rate", type=int, default=16000, metavar="HZ", help="audio: samples a second (default: %(default)s)"
    )
