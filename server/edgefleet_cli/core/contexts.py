"""Saved contexts: which servers this user talks to, and with which token.

One JSON file, readable by its owner only, written whole and renamed into place. It lies at
`$XDG_CONFIG_HOME/edgefleet/edgectl.json` (or the platform's counterpart), or where `EDGECTL_CONFIG` says.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.files import write_private


class ConfigError(CliError):
    """The file of contexts cannot be read or written."""

    code = "cli.config"


@dataclass(frozen=True)
class Context:
    """One saved server: base URL, operator token (None after logout), CA file for private TLS."""

    name: str
    server: str
    token: str | None = None
    ca_file: str | None = None


@dataclass
class ContextFile:
    """All saved contexts and the name of the current one."""

    path: Path
    current: str | None = None
    contexts: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str | None) -> Context | None:
        """Return the named context, or the current one where `name` is None. Raises UsageError for an unknown name."""
        wanted = name or self.current
        if wanted is None:
            return None
        found = self.contexts.get(wanted)
        if found is None and name is not None:
            known = ", ".join(sorted(self.contexts)) or "none yet"
            raise UsageError(
                f"there is no context {name!r}", why=f"known contexts: {known}", next_step="run `edgectl context list`"
            )
        return found

    def put(self, context: Context, *, make_current: bool) -> None:
        """Add or replace a context and write the file."""
        self.contexts[context.name] = context
        if make_current or self.current is None:
            self.current = context.name
        self.save()

    def remove(self, name: str) -> None:
        """Forget a context and write the file."""
        self.contexts.pop(name, None)
        if self.current == name:
            self.current = None
        self.save()

    def save(self) -> None:
        """Write the file with mode 0600, whole or not at all. Raises ConfigError."""
        document = {
            "v": 1,
            "current": self.current,
            "contexts": [asdict(context) for _, context in sorted(self.contexts.items())],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self.path, json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(
                f"cannot save {self.path}", why=str(error), next_step="set EDGECTL_CONFIG to a file you may write"
            ) from error


def config_path() -> Path:
    """Return where the contexts are kept."""
    named = os.environ.get("EDGECTL_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_path("edgefleet")) / "edgectl.json"


def load_contexts(path: Path | None = None) -> ContextFile:
    """Read the saved contexts; an absent file is an empty one. Raises ConfigError."""
    where = path or config_path()
    try:
        raw = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ContextFile(where)
    except OSError as error:
        raise ConfigError(f"cannot read {where}", why=str(error), next_step="check its owner and mode") from error
    try:
        document = json.loads(raw)
        contexts = {
            entry["name"]: Context(entry["name"], entry["server"], entry.get("token"), entry.get("ca_file"))
            for entry in document["contexts"]
        }
        return ContextFile(where, document.get("current"), contexts)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where} is not a file of contexts",
            why=str(error),
            next_step="move it elsewhere and run `edgectl login URL`",
        ) from error
