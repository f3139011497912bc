"""Problem documents: why the server refused a request (RFC 9457), with what edgefleet adds. Loaded when something was refused."""

from __future__ import annotations

import json

from edgefleet_cli.core.errors import BadAnswerError
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import struct_of


class Wrong(Struct, frozen=True):
    """A field that the server refuses, or a finding that forbids something."""

    message: str = ""
    level: str = ""
    where: str | list[str | int] | None = None
    path: str | list[str | int] | None = None
    stage: str | int | None = None
    stratum: str | None = None

    def place(self) -> str:
        """Return where it points: a field by name, a finding by stage and stratum."""
        path = self.where or self.path or ""
        if path:
            return ".".join(map(str, path)) if isinstance(path, list) else path
        stage = f"stages[{self.stage}]" if isinstance(self.stage, int) else self.stage
        return "/".join(word for word in (stage, self.stratum) if word)


class Problem(Struct, frozen=True):
    """A problem document. errors: of fields; findings: of a rollout's lint."""

    title: str = ""
    code: str = ""
    detail: str = ""
    next: str = ""
    why: str = ""
    request_id: str = ""
    errors: list[Wrong] | None = None
    findings: list[Wrong] | None = None

    def fields(self) -> str:
        """Return `place: message` for each field that the server names, or each finding that forbids something."""
        named = [*(self.errors or ()), *(self.findings or ())]
        named_places = [(entry.place(), entry.message) for entry in named if entry.level != "warning"]
        return "; ".join(": ".join(word for word in words if word) for words in named_places)


def problem_of(content: bytes) -> Problem | None:
    """Return the problem in a refusal, None where it is no edgefleet server's."""
    try:
        found = json.loads(content)
        return struct_of(found, Problem) if {"title", "code"} & set(found) else None
    except (ValueError, TypeError, BadAnswerError):
        return None
