"""Views that a user keeps by name: addresses of our own pages as they are narrowed. In a cookie of the browser, as preferences are.

Nothing of the fleet depends on them. What several people are to share is a group, or the address itself.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.core.login import own_page
from edgefleet_server.dashboard.core.preferences import KEPT_S

COOKIE: Final = "edgefleet_views"
MOST: Final = 20
MAX_NAME: Final = 40
MAX_CHARS: Final = 3_500
"""A browser keeps cookies of 4,096 bytes."""


class ViewRefusedError(EdgefleetError):
    """A view cannot be kept: it has no name, or there is no room for it."""

    code = "form.bad_field"


@dataclass(frozen=True, slots=True)
class SavedView:
    """A name, and the address of one of our pages."""

    name: str
    path: str


def views_of(request: Request) -> Sequence[SavedView]:
    """Return what a browser keeps; nothing for what cannot be read. An address of another site leads to the overview."""
    return _read(request.cookies.get(COOKIE, ""))


def with_view(views: Sequence[SavedView], name: str, path: str) -> Sequence[SavedView]:
    """Return the views with one more, in the order of their names; one of the same name is replaced. Raises ViewRefusedError."""
    called = " ".join(name.split())
    if not called or len(called) > MAX_NAME:
        raise ViewRefusedError(f"a view needs a name of at most {MAX_NAME} letters", next_step="go back and name it")
    kept = [one for one in views if one.name != called]
    made = sorted([*kept, SavedView(called, own_page(path))], key=lambda one: one.name.lower())
    if len(made) > MOST or len(_written(made)) > MAX_CHARS:
        raise ViewRefusedError("no room for one more view", next_step="remove one that is no longer needed")
    return made


def without_view(views: Sequence[SavedView], name: str) -> Sequence[SavedView]:
    """Return the views without one."""
    return [one for one in views if one.name != name]


def keep_views(answer: Response, views: Sequence[SavedView], *, secure: bool) -> None:
    """Set the cookie."""
    answer.set_cookie(
        COOKIE, _written(views), max_age=KEPT_S, httponly=True, samesite="strict", secure=secure, path="/"
    )


def _written(views: Sequence[SavedView]) -> str:
    pairs = [[one.name, one.path] for one in views]
    return base64.urlsafe_b64encode(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()).decode()


def _read(text: str) -> Sequence[SavedView]:
    try:
        pairs = json.loads(base64.urlsafe_b64decode(text))
    except (binascii.Error, ValueError, RecursionError):
        return []
    if not isinstance(pairs, list) or len(pairs) > MOST:
        return []
    return [
        SavedView(one[0][:MAX_NAME], own_page(one[1]))
        for one in pairs
        if isinstance(one, list) and len(one) == 2 and all(_is_text(part) for part in one) and one[0].strip()
    ]


def _is_text(part: object) -> bool:
    """Whether a page can show it: JSON may have half of a letter."""
    return isinstance(part, str) and not any("\ud800" <= letter <= "\udfff" for letter in part)
