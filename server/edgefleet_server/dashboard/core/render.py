"""Rendering: one Jinja environment that escapes everything, and the headers of every page.

The headers allow no script, style or picture but our own files, no frame around us and no address in a referrer. They hold for
error pages too.
"""

import gzip
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, meta
from markupsafe import Markup

from edgefleet_profiles.accuracy_plot import keys as plot_keys
from edgefleet_protocol.manifest import RANDOM_DATA
from edgefleet_server.dashboard.core import filters
from edgefleet_server.dashboard.core.glossary import glossary
from edgefleet_server.dashboard.core.qr_code import qr
from edgefleet_server.dashboard.live.own_parts import END, OTHERWISE, own_parts, second_person
from edgefleet_server.dashboard.operations.form_state import FormState
from edgefleet_server.web.security_headers import SECURITY_HEADERS
from edgefleet_terms.feature_importance import interval_text, length_of, measured_text, worth_text
from edgefleet_terms.parent_verdict import comparison_text
from edgefleet_terms.rollout_states import shown_state

HEADERS: Final = {
    **SECURITY_HEADERS,
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "cache-control": "no-store",
}
LIVE_PARTS_KEY: Final = "edgefleet.live_parts"
"""In the scope of a request: a dictionary that takes the live parts of the page by id. No request can set it (`internal_client`)."""

_SMALL_BYTES: Final = 800
_MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def environment() -> Environment:
    """Return the templates, with the functions of `filters.py` as filters."""
    made = Environment(
        loader=PackageLoader("edgefleet_server.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        filters.tone,
        shown_state,
        filters.severity_kind,
        filters.label,
        filters.moment,
        filters.machine_time,
        filters.ago,
        filters.duration,
        filters.number,
        filters.size,
        filters.share,
        filters.evidence,
        filters.times,
        filters.figure,
        filters.assignment,
        filters.trend_line,
        filters.wait_text,
        filters.epoch,
        filters.sentence,
        qr,
    ):
        made.filters[filter_.__name__] = filter_
    made.globals["asset"] = asset_url
    made.globals["plot_keys"] = plot_keys
    made.globals |= {
        one.__name__: one for one in (comparison_text, interval_text, length_of, measured_text, worth_text)
    }
    made.globals["random_data"] = RANDOM_DATA
    made.globals["form_state"] = FormState
    made.globals["glossary"] = glossary
    made.globals["second_person"] = lambda makers: Markup(second_person(makers))  # noqa: S704 -- base64 in a comment
    made.globals["otherwise"] = Markup(OTHERWISE)  # noqa: S704 -- our own mark
    made.globals["end_of_own"] = Markup(END)  # noqa: S704 -- our own mark
    return made


@cache
def compile_ahead(*templates: str) -> None:
    """Compile these templates and those that they use: most of the time that the first look at a page takes."""
    made, left = environment(), list(templates)
    loader, done = made.loader, set[str]()
    while left and loader is not None:
        name = left.pop()
        if name in done:
            continue
        done.add(name)
        made.get_template(name)
        left += [one for one in meta.find_referenced_templates(made.parse(loader.get_source(made, name)[0])) if one]


def render(template: str, status: int = 200, **values: Any) -> Response:
    """Return a page with its headers."""
    text = environment().get_template(template).render(values)
    if (session := values.get("session")) is not None:
        text = own_parts(text, session.principal)
    return HTMLResponse(text, status_code=status, headers=dict(HEADERS))


def live_part_of(parts: dict[str, str]) -> Callable[..., Markup]:
    """Return `live_part` for a template: called around an element with `id` and `data-live`, it keeps the text of that element by id.

    Not a block that is rendered by its name: that would not see the imports and variables of its template, nor those of a loop.
    """

    def live_part(name: str, is_live: bool = True, *, caller: Callable[[], Markup]) -> Markup:
        text = caller()
        if is_live:
            parts[name] = str(text.strip())
        return text

    return live_part


def compressed(request: Request, answer: Response) -> Response:
    """Return a page as the browser takes it: gzipped when it says so, and when that is worth it."""
    if isinstance(answer, StreamingResponse):
        return answer
    body = answer.body
    takes = "gzip" in request.headers.get("accept-encoding", "")
    text = str(answer.headers.get("content-type", "")).startswith(("text/", "image/svg", "application/json"))
    if not (takes and text) or len(body) < _SMALL_BYTES or "content-encoding" in answer.headers:
        return answer
    answer.body = gzip.compress(bytes(body), compresslevel=5, mtime=0)
    answer.headers["content-length"] = str(len(answer.body))
    answer.headers["content-encoding"] = "gzip"
    answer.headers.append("vary", "accept-encoding")
    return answer


@cache
def assets() -> dict[str, tuple[bytes, str, str]]:
    """Return the files that pages use, by name: bytes, media type, first half of their SHA-256."""
    found: dict[str, tuple[bytes, str, str]] = {}
    static = files("edgefleet_server.dashboard").joinpath("static")
    for file in (*static.iterdir(), *static.joinpath("vendor").iterdir()):
        media_type = next((kind for ending, kind in _MEDIA_TYPES.items() if file.name.endswith(ending)), None)
        if media_type is not None:
            data = file.read_bytes()
            found[file.name] = (data, media_type, sha256(data).hexdigest()[:32])
    return found


def asset_url(name: str) -> str:
    """Return the address of a file; it changes with the file, so browsers may keep what they have."""
    return f"/static/{name}?v={assets()[name][2][:12]}"
