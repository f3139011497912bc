"""Posted forms: read with bounds, taken from our own pages only.

The browser says where a request comes from (Sec-Fetch-Site, else Origin); a form that changes something carries the key of its
session as well.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from fastapi import Request
from starlette.exceptions import HTTPException

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.errors import ForgedFormError
from edgefleet_server.access.model import BrowserSession

MAX_FORM_BYTES: Final = 8 * 1024
MAX_ACTION_BYTES: Final = 512 * 1024
MAX_ACTION_FIELDS: Final = 2_000
_MAX_FIELDS: Final = 16


class NothingSelectedError(EdgefleetError):
    """A form was sent with nothing selected. `back`: the page to select on."""

    code = "form.nothing_selected"

    def __init__(self, back: str) -> None:
        """Say that nothing was done."""
        super().__init__("Nothing is selected", next_step="Nothing was done. Go back and select at least one.")
        self.back = back


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a posted form, each with all its values in their order."""

    fields: Mapping[str, Sequence[str]]

    def __getitem__(self, name: str) -> str:
        """Return the last value of a field; a field that was not sent is empty."""
        values = self.fields.get(name)
        return values[-1] if values else ""


async def form_of(request: Request) -> Form:
    """Return a small form (a dependency). Raises HTTPException when it is too large or not a form of ours."""
    return await _read(request, MAX_FORM_BYTES, _MAX_FIELDS)


async def action_of(request: Request) -> Form:
    """Return the form of an action (a dependency): a plan or a list of devices is longer than a login. Raises as `form_of`."""
    return await _read(request, MAX_ACTION_BYTES, MAX_ACTION_FIELDS)


def check_origin(request: Request) -> None:
    """Raise ForgedFormError for a form that a page of another site sent. `Origin` is `null` from our own pages in browsers
    that do not send Sec-Fetch-Site, because our pages send no referrer."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "null")
    is_ours = (
        site in ("same-origin", "none") if site is not None else origin in ("null", "") or _is_host(origin, request)
    )
    if not is_ours:
        raise ForgedFormError("this form was sent by a page on another site", next_step="use the form on this page")


def check_key(session: BrowserSession, form: Form) -> None:
    """Raise ForgedFormError unless the form carries the key of the session."""
    if not hmac.compare_digest(session.form_key.encode(), form["form_key"].encode()):
        raise ForgedFormError(
            "this form belongs to another session", next_step="go back, reload the page and repeat it"
        )


def _is_host(origin: str, request: Request) -> bool:
    return urlsplit(origin).netloc == request.headers.get("host")


async def _read(request: Request, max_bytes: int, max_fields: int) -> Form:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the form is larger than {max_bytes} bytes")
    try:
        parsed = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=max_fields)
    except ValueError as error:
        raise HTTPException(400, "the form has more fields than any of ours") from error
    return Form(parsed)
