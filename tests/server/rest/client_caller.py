"""What the suites of the generated client share: calling an operation by its id, and waiting. Imports nothing of this house."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

PATIENCE_S = 30.0


class Caller:
    """Calls operations by id and remembers which."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        package = import_module("edgefleet_client")
        self.client = package.AuthenticatedClient(base_url=url, token=token)
        self.models = import_module("edgefleet_client.models")
        self.types = import_module("edgefleet_client.types")
        self.calls = 0
        self.operations: set[str] = set()
        self.last: Any = None
        """The whole last answer, with its headers and bytes."""

    def __call__(self, tag: str, operation: str, *path: str, **given: Any) -> Any:
        """Return (status, parsed answer) of one operation."""
        module = import_module(f"edgefleet_client.api.{tag}.{operation}")
        self.last = module.sync_detailed(*path, client=self.client, **given)
        self.calls += 1
        self.operations.add(operation)
        return int(self.last.status_code), self.last.parsed

    def as_another(self, name: str, role: Any) -> "Caller":
        """Return a caller with a new token of another person."""
        _, made = self("access", "create_token", body=self.models.TokenIn(name=name, roles=[role]))
        other = Caller(self.url, made.token)
        other.operations = self.operations  # what any of them called was called
        return other

    def until(self, is_so: Callable[[Any], bool], tag: str, operation: str, *path: str, **given: Any) -> Any:
        """Ask again until the answer is so, and return it: devices and the engine work beside the suite."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            status, found = self(tag, operation, *path, **given)
            if status == 200 and is_so(found):
                return found
            assert time.monotonic() < end_s, f"{operation} still answers {status} {found}"[:2_000]
            time.sleep(0.05)
