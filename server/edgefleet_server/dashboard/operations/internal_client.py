"""Calls the public API from a page, inside this process: the same route, validation, roles and audit as from outside.

The caller is given in the ASGI scope under a key that no request can set: a server makes the scope, and fills only the keys of
the ASGI specification.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope

from edgefleet_server.access.dependency import CALLER_KEY
from edgefleet_server.access.model import Principal
from edgefleet_server.dashboard.operations.catalog import Call

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered. `value`: the JSON body, None without one."""

    status: int
    headers: Mapping[str, str]
    value: Any

    @property
    def is_ok(self) -> bool:
        """Say whether it did what was asked."""
        return 200 <= self.status < 300


async def ask(app: ASGIApp, scope: Scope, caller: Principal, call: Call, receive: Receive | None = None) -> Answer:
    """Return what the API answers this caller. scope: of the page's request, for the addresses and the scheme.

    receive: where the body comes from when it is that of the page's request, which is passed through as it comes.
    """
    status, headers, body = 500, dict[str, str](), bytearray()
    sent = False

    async def own_body() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": call.body or b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.update({k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message.get("headers", [])})
        elif message["type"] == "http.response.body" and len(body) < MAX_ANSWER_BYTES:
            body.extend(message.get("body", b""))

    await app(_scope_of(scope, caller, call), receive or own_body, send)
    is_json = "json" in headers.get("content-type", "")
    return Answer(status, headers, json.loads(bytes(body)) if is_json and body else None)


def _scope_of(outer: Scope, caller: Principal, call: Call) -> Scope:
    headers = [(b"accept", b"application/json"), (b"host", dict(outer["headers"]).get(b"host", b"localhost"))]
    if call.body is not None:
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(call.body)).encode())]
    if call.if_match:
        headers.append((b"if-match", call.if_match.encode("latin-1", "replace")))
    kept = {key: outer[key] for key in ("asgi", "http_version", "scheme", "server", "client") if key in outer}
    return kept | {
        "type": "http",
        "method": call.method,
        "path": call.path,
        "raw_path": call.raw_path.encode("ascii"),
        "query_string": call.query.encode("ascii"),
        "root_path": "",
        "headers": headers,
        CALLER_KEY: caller,
    }
