"""Changing single settings in `server.toml`, the rest of the file left as a person wrote it."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TABLE: Final = re.compile(r"^\s*\[")


def changed_text(text: str, values: Mapping[str, str | None]) -> str:
    """Return the text of a settings file with other values; None takes one out. Pure."""
    lines = text.splitlines()
    end = next((place for place, line in enumerate(lines) if _TABLE.match(line)), len(lines))
    top = [line for line in lines[:end] if not any(re.match(rf"^\s*{name}\s*=", line) for name in values)]
    added = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    made = "\n".join([*top, *added, *lines[end:]]) + "\n"
    tomllib.loads(made)  # a setting over several lines would be cut in two
    return made


def write_settings(path: Path, values: Mapping[str, str | None]) -> None:
    """Change settings in a file, which is the old one or the new one at any moment, 0600. Raises OSError, tomllib.TOMLDecodeError."""
    before = path.read_text(encoding="utf-8")
    made = changed_text(before, values)
    if made == before:
        return
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
