"""One answer of a model for a person: ask, print, and say what went wrong."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefleet_agent.client import InferenceError, Model, media_type_of

EXIT_OK = 0

EXIT_SOME_FAILED = 1

EXIT_USAGE = 2

EXIT_UNREACHABLE = 3

NOT_FOUND = 404

_MAX_TEXT = 100


def ask_file(model: Model, path: Path, content_type: str | None, key: str = "") -> dict[str, Any]:
    """Return what `ask` does of a file, or of standard input for `-`; a file that cannot be read is an error of its own."""
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as e:
        return {"error": str(e)}
    return ask(model, body, content_type or media_type_of(path) or "application/json", key)


def ask(model: Model, body: bytes, content_type: str, key: str = "") -> dict[str, Any]:
    """Return `version`, `predictions` and, where there are some, `nonfinite` of one answer; or `error`. key: its trace id, if not "".

    Raises InferenceUnreachableError.
    """
    try:
        answer = model.post("predict", body, content_type, key)
    except InferenceError as e:
        next_step = e.next_step or (
            "`edge-agent models` lists the models on this device" if e.status == NOT_FOUND else ""
        )
        return {"error": e.message, "next": next_step} if next_step else {"error": e.message}
    result = {"version": answer.get("model_version"), "predictions": answer["predictions"]}
    if answer.get("parameters", {}).get("nonfinite"):
        result["nonfinite"] = answer["parameters"]["nonfinite"]
    return result


def print_result(result: dict[str, Any]) -> None:
    """Print one answer for people, an error to standard error."""
    if "error" in result:
        print(f"{result['input']}: {result['error']}", file=sys.stderr)  # noqa: T201
        if result.get("next"):
            print(f"next: {result['next']}", file=sys.stderr)  # noqa: T201
        return
    for row, prediction in enumerate(result["predictions"]):
        label = result["input"] if len(result["predictions"]) == 1 else f"{result['input']}[{row}]"
        print(f"{label}: {'; '.join(_words(prediction))}")  # noqa: T201 - output of the command


def _words(prediction: dict[str, Any]) -> Iterator[str]:
    for name, answer in prediction.items():
        prefix = f"{name} " if len(prediction) > 1 else ""
        items = answer if isinstance(answer, list) else [answer]
        if items and all(isinstance(item, dict) and "score" in item for item in items):
            has_scores = any(item["score"] is not None for item in items)
            yield prefix + (
                ", ".join(_class_words(item) for item in items) if has_scores else "not finite (NaN or infinity)"
            )
        else:
            text = json.dumps(answer)
            yield prefix + (text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …")


def _class_words(item: dict[str, Any]) -> str:
    label = item.get("label") or ("yes" if item.get("positive") else "no")
    score = "NaN" if item["score"] is None else f"{item['score']:.3f}"
    return f"{label} {score}"


def complain(what: str, why: str, next_step: str) -> None:
    """Write an error to standard error."""
    for prefix, text in (("error", what), ("why", why), ("next", next_step)):
        if text:
            print(f"{prefix}: {text}", file=sys.stderr)  # noqa: T201
