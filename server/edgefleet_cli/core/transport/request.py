"""What a request is made of besides structs: segments of its path, the size of a page, and bodies without a schema."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

PAGE_SIZE = 200
NOTHING = b"{}"
"""The body of a request whose path says it all."""


def part(text: str) -> str:
    """Return `text` escaped for one segment of a path; `@` and `+` of references stay readable."""
    return quote(text, safe="@+")


def written(document: Mapping[str, Any]) -> bytes:
    """Return a document of the user as JSON, as it is: the server names the mistakes in it."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
