"""The root of every edgefleet error.

An error says what was expected, what was got and what to do next. `code` is a stable dotted word: the server maps it to an
HTTP status, the CLI to an exit code, the device reports it. Domain errors know neither HTTP nor exit codes.
"""

from __future__ import annotations

from typing import ClassVar


class EdgefleetError(Exception):
    """Anything edgefleet refuses or fails at on purpose. Subclasses set `code` and may set a default next step."""

    code: ClassVar[str] = "internal"
    default_next_step: ClassVar[str] = ""

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step or self.default_next_step

    def reason(self) -> str:
        """Return the kind of error in words, "" without any: what a user reads as the cause where nothing says more."""
        words = cause_of(type(self)).partition(". ")[0].rstrip(".")
        return f"{words[:1].lower()}{words[1:]}"


def cause_of(kind: type[EdgefleetError]) -> str:
    """Return the sentence in which a kind of error says what it is: the first line of its docstring, "" where it has none."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def error_lines(what: str, *, why: str = "", next_step: str = "", code: str = "") -> list[str]:
    """Return an error as people read it: what failed, why, what to do next and the code, a line each; what is empty has no line."""
    words = (("error", what), ("why", why), ("next", next_step), ("code", code))
    return [f"{name:>5}: {' '.join(text.split())}" for name, text in words if text]


class BadIdError(EdgefleetError):
    """A name, version or id does not match its grammar."""

    code = "id.bad"


class BadMessageError(EdgefleetError):
    """Bytes from the wire are not the message they claim to be."""

    code = "message.bad"
