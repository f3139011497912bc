"""Reading the files of `apply`, `diff` and `delete`: YAML or JSON, one or many documents, alone or as a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, read_text

MAX_BYTES = 5_000_000
_ENDINGS = (".yaml", ".yml", ".json")


def read_values(given: list[str]) -> list[tuple[str, Any]]:
    """Return (where it is from, parsed value) of every document in files, folders and standard input (`-`), in a fixed order.

    Raises UsageError, UnreadableFileError.
    """
    return [value for one in given for value in _values(one)]


def _values(given: str) -> Iterator[tuple[str, Any]]:
    if given == "-":
        yield from _documents(read_text(None, MAX_BYTES + 1), STANDARD_INPUT)
        return
    path = Path(given)
    if not path.is_dir():
        yield from _documents(read_text(path, MAX_BYTES + 1), str(path))
        return
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in _ENDINGS and file.is_file() and not _is_hidden(file.relative_to(path))
    )
    if not files:
        raise UsageError(
            f"there is no document in {path}",
            why=f"no file below it ends in {', '.join(_ENDINGS)}",
            next_step="name another folder, or start with `edgectl export > fleet.yaml`",
        )
    for file in files:
        yield from _documents(read_text(file, MAX_BYTES + 1), str(file))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _documents(text: str, origin: str) -> Iterator[tuple[str, Any]]:
    if len(text) > MAX_BYTES:
        raise UsageError(
            f"{origin} is too large", why=f"more than {MAX_BYTES} characters", next_step="split it into several files"
        )
    import yaml

    try:
        found = [json.loads(json.dumps(one, default=str, allow_nan=False)) for one in yaml.safe_load_all(text)]
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UsageError(
            f"{origin} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error
    real = [one for one in found if one is not None]  # an empty part between two `---`
    for at, one in enumerate(real, start=1):
        yield (origin if len(real) == 1 else f"{origin}, document {at}"), one
