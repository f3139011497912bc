"""Completion of names that the server knows. Silent and quick: a shell must not hang or print errors for a TAB.

What the server said is kept for a minute in a file of the cache folder (`$XDG_CACHE_HOME/edgefleet/completion`, readable by its owner
only), one for each server, token and list: the second TAB asks nobody. The file's name is a digest, no secret is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgefleet_cli.contexts import write_private
from edgefleet_cli.options import resolve
from edgefleet_cli.session import Session
from edgefleet_protocol.errors import EdgefleetError

TIMEOUT_S = 2.0
FRESH_S = 60.0
_LIMIT = 200


def names_of(path: str, key: str) -> Callable[[str], list[str]]:
    """Return a completer that offers `key` of each item listed at `path`; nothing when the server cannot be asked."""

    def complete(incomplete: str) -> list[str]:
        try:
            session = Session(replace(resolve({}), timeout_s=TIMEOUT_S))
            names = _names(session, path, key)
        except EdgefleetError:
            return []
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _names(session: Session, path: str, key: str) -> list[str]:
    """Return the names in the cache when they are fresh, else those that the server says now."""
    file = cache_file(session.server, session.token, path, key)
    now_s = session.clock.now().timestamp()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if 0 <= now_s - float(kept["at"]) < FRESH_S:
            return [str(name) for name in kept["names"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or none that can be read: then it is made anew
    names = [str(item[key]) for item in session.api.pages(path, limit=_LIMIT, fields=key)["items"] if item.get(key)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, json.dumps({"at": now_s, "names": names}))
    except OSError:
        pass  # a cache that cannot be kept costs only time
    return names


def cache_file(server: str, token: str | None, path: str, key: str) -> Path:
    """Return where the names of one list are kept."""
    import hashlib

    import platformdirs

    digest = hashlib.sha256("\0".join((server, token or "", path, key)).encode()).hexdigest()[:32]
    return Path(platformdirs.user_cache_path("edgefleet")) / "completion" / f"{digest}.json"


devices = names_of("/devices", "id")
models = names_of("/models", "name")
profiles = names_of("/profiles", "name")
releases = names_of("/releases", "ref")
rollouts = names_of("/rollouts", "id")
groups = names_of("/groups", "name")
pending = names_of("/enrollments/pending", "id")
webhooks = names_of("/webhooks", "id")
tokens = names_of("/tokens", "id")
bundles = names_of("/bundles", "sha256")
keys = names_of("/keys", "name")
experiments = names_of("/experiments", "id")
strategies = names_of("/rollout-strategies", "name")


def contexts(incomplete: str) -> list[str]:
    """Return the saved contexts that begin so."""
    from edgefleet_cli.contexts import load_contexts

    try:
        return [name for name in sorted(load_contexts().contexts) if name.startswith(incomplete)]
    except EdgefleetError:
        return []
