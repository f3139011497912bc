"""Arguments of `edge-agent feedback`. Apart from `cli.feedback_command`, so that other commands do not carry the inference client."""

import argparse

DESCRIPTION = """Tell the agent what was right about an earlier answer of a model, or business figures. The agent pairs labels with
the answers in its log and counts how many were right; single labels never leave the device."""


def add_feedback_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command and return its parser. The caller adds how to find the device."""
    parser = sub.add_parser("feedback", help="say what was right about an earlier answer", description=DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("trace", nargs="?", default="", metavar="TRACE", help="trace id of the answer")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--label", help="the right class, by name or by number")
    what.add_argument("--value", type=float, help="the right number, of a model that answers numbers")
    what.add_argument(
        "--file", metavar="FILE.csv", help="many: columns trace_id, label or value, segment, at, kpi.NAME"
    )
    parser.add_argument(
        "--kpi", action="append", default=[], metavar="NAME=NUMBER", help="business figure; may be repeated"
    )
    parser.add_argument("--segment", default="", help="where this counts: a line, a shift")
    parser.add_argument("--url", help="address of the device's inference API (default: this device's)")
    parser.add_argument("--socket", help="unix socket of the inference API")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print the result")
    return parser
