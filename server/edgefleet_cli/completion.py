"""Completion of names that the server knows. Silent and quick: a shell must not hang or print errors for a TAB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgefleet_cli.options import resolve
from edgefleet_cli.session import Session
from edgefleet_protocol.errors import EdgefleetError

_TIMEOUT_S = 2.0
_LIMIT = 200


def names_of(path: str, key: str) -> Callable[[str], list[str]]:
    """Return a completer that offers `key` of each item listed at `path`; nothing when the server cannot be asked."""

    def complete(incomplete: str) -> list[str]:
        try:
            session = Session(replace(resolve({}), timeout_s=_TIMEOUT_S))
            items = session.api.pages(path, limit=_LIMIT)["items"]
        except EdgefleetError:
            return []
        return [str(item[key]) for item in items if str(item.get(key, "")).startswith(incomplete)]

    return complete


devices = names_of("/devices", "id")
models = names_of("/models", "name")
profiles = names_of("/profiles", "name")
releases = names_of("/releases", "ref")
rollouts = names_of("/rollouts", "id")
groups = names_of("/groups", "name")
pending = names_of("/enrollments/pending", "id")
