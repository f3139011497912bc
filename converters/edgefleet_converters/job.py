"""Process entry: one conversion, or one run of a bundle's golden vectors; JSON in on stdin, JSON lines out on stdout.

    python -m edgefleet_converters.job < request.json

Lines: first `tools` (a digest of what converts here, before any byte of the model is read), then `progress`, `candidate`,
`bundle`, `refused`, and last `result` (exit 0) or `error` (exit 2). A request with `golden` is answered by `golden` and `result`
(`check.golden_vectors`). Descriptor 1 is moved
away before anything is imported, so that no native library can print between the lines; whatever they print goes to stderr.
"""

import contextlib
import json
import os
import sys
from typing import IO, Any

_MAX_REQUEST_BYTES = 4 * 1024 * 1024


def main() -> int:
    """Run the conversion described on stdin. Returns the exit code."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from edgefleet_converters.errors import BadRequestError
    from edgefleet_protocol.errors import EdgefleetError

    try:
        data = sys.stdin.buffer.read(_MAX_REQUEST_BYTES + 1)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the conversion request is no JSON: {error}", next_step="send one object") from error
        if isinstance(document, dict) and "golden" in document:
            _check_golden(document, lines)
        else:
            _run(document, lines)
        return 0
    except EdgefleetError as error:
        told = {"code": error.code, "message": error.message, "why": error.reason(), "next": error.next_step}
        _tell(lines, {"type": "error", **told})
        return 2
    except Exception as error:  # noqa: BLE001 - the outermost frame: the parent must get a last line whatever happens
        import traceback

        traceback.print_exc()
        _tell(
            lines,
            {
                "type": "error", "code": "convert.internal", "message": f"{type(error).__name__}: {error}",
                "next": "this is a bug of the converter; the log has the details",
            },
        )  # fmt: skip
        return 2


def _run(document: Any, lines: IO[str]) -> None:
    import msgspec

    from edgefleet_converters.request import parse_request
    from edgefleet_converters.result_cache import tools_digest

    request = parse_request(document)
    with contextlib.suppress(
        OSError
    ):  # without it nobody can tell whether the same was done before, so it is done again
        _tell(lines, {"type": "tools", "digest": tools_digest(request.tools_dir)})
    # Only now: the reader of the result ends this process at the line above, without waiting for numpy.
    from edgefleet_converters.pipeline import convert

    report = convert(request, lambda event: _tell(lines, event))
    _tell(
        lines,
        {
            "type": "result",
            "bundles": msgspec.to_builtins(report.bundles),
            "refused": msgspec.to_builtins(report.refused),
            "report_path": str(request.out_dir / "report.json"),
            "report_html_path": str(request.out_dir / "report.html"),
        },
    )


def _check_golden(document: Any, lines: IO[str]) -> None:
    from edgefleet_converters.check.golden_vectors import golden_answer

    _tell(lines, {"type": "golden", **golden_answer(document)})
    _tell(lines, {"type": "result"})


def _tell(lines: IO[str], event: dict[str, Any]) -> None:
    lines.write(json.dumps(event, allow_nan=False) + "\n")
    lines.flush()


if __name__ == "__main__":
    sys.exit(main())
