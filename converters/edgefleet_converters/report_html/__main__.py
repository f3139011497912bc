"""Process entry: a report as JSON on stdin, its page on stdout.

    python -m edgefleet_converters.report_html < report.json > report.html

The server starts it, because it imports no converter. Exit 2 when what comes in is no report.
"""

import sys

import msgspec

from edgefleet_converters.report import ConversionReport
from edgefleet_converters.report_html.page import render

MAX_BYTES = 64 * 1024 * 1024


def main() -> int:
    """Render one report. Returns the exit code."""
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        report = msgspec.json.decode(data, type=ConversionReport)
    except (msgspec.MsgspecError, ValueError) as error:
        sys.stderr.write(f"this is no conversion report: {error}\n")
        return 2
    sys.stdout.buffer.write(render(report).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
