"""Arguments of `edge-agent infer`. Apart from `infer_cli`, so that `edge-agent run` does not carry the inference client."""

import argparse

DESCRIPTION = "`edge-agent infer MODEL INPUT…`: files, folders or `-` in, labelled answers out."


def add_infer_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to a parser's subcommands and return its own parser.

    The caller adds how to find the device and puts `url` or `socket` into the namespace given to `run_infer`.
    """
    parser = sub.add_parser("infer", help="ask a model on this device", description=DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="name of the model, or name@version")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="image, .csv, .json, .npy, a folder of them, or -")
    parser.add_argument("--url", help="address of the device's inference API (default: this device's)")
    parser.add_argument("--socket", help="unix socket of the inference API")
    parser.add_argument("--content-type", help="what the input is, for - and for files without a known suffix")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one answer (default 30)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print the answers")
    return parser
