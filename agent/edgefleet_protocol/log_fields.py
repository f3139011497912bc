"""How the fields of a log line are written, the same for agent and server. Pure."""

from collections.abc import Mapping


def with_fields(line: str, fields: Mapping[str, object]) -> str:
    """Return the line with its fields as key=value behind its first line: what follows is a traceback, and stays whole."""
    if not fields:
        return line
    text = " ".join(f"{name}={_printable(value)}" for name, value in fields.items())
    first, newline, rest = line.partition("\n")
    return f"{first} {text}{newline}{rest}"


def _printable(value: object) -> str:
    """Return a field's text with control characters escaped: what a stranger sent never looks like a line of ours."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
