"""Reads the public API inside this process in the name of a caller, from a thread: evidence is what the API answers, and nothing else.

The caller is given under a key of the ASGI scope that no request can set, as pages do it.
"""

import json
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import anyio.from_thread
from starlette.types import ASGIApp, Message, Scope

from edgefleet_server.access.dependency import CALLER_KEY
from edgefleet_server.access.model import Principal
from edgefleet_server.access.rules import API_PREFIX
from edgefleet_server.governance.errors import EvidenceIncompleteError, EvidenceTooLargeError
from edgefleet_server.web.pagination import MAX_LIMIT

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_ITEMS: Final = 20_000
"""Of one list: the newest ones."""
_TOO_MANY: Final = 429
_OK: Final = 200
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered: status, body, and seconds to wait where it was asked too often."""

    status: int
    body: bytes
    wait_s: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Tell whether it is what was asked for."""
        return self.status == _OK

    def why(self) -> str:
        """Return why it is not, in a few words."""
        try:
            code = json.loads(self.body).get("code", "")
        except (ValueError, AttributeError):
            code = ""
        return f"{self.status} {code}".strip()


class ApiReader:
    """GET requests of one caller to one app, from a worker thread of its event loop. scope: of the caller's own request."""

    def __init__(
        self, app: ASGIApp, scope: Scope, caller: Principal, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._app, self._caller, self._sleep = app, caller, sleep
        self._note: Callable[[], None] = lambda: None
        self._kept = {key: scope[key] for key in ("asgi", "http_version", "scheme", "server", "client") if key in scope}
        self._host = dict(scope["headers"]).get(b"host", b"localhost")

    def noting(self, note: Callable[[], None]) -> "ApiReader":
        """Return a reader that calls this before each wait: who waits is not gone."""
        made = copy(self)
        made._note = note
        return made

    def get(self, path: str, **query: str | int) -> Answer:
        """Return what is at a path below the API's prefix; waits where the caller's requests are used up. Raises EvidenceTooLargeError."""
        for _ in range(_TRIES):
            found = anyio.from_thread.run(self._ask, path, urlencode(query))
            if found.status != _TOO_MANY:
                return found
            self._note()
            self._sleep(min(60.0, max(1.0, found.wait_s)))
        return found

    def items(self, path: str, **query: str | int) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, all its pages. Raises EvidenceIncompleteError, EvidenceTooLargeError."""
        cursor, count = "", 0
        paged: dict[str, str | int] = {**query, "limit": MAX_LIMIT}
        while True:
            found = self.get(path, **paged, **({"cursor": cursor} if cursor else {}))
            if not found.is_ok:
                raise EvidenceIncompleteError(f"{API_PREFIX}{path} answered {found.why()}")
            page = json.loads(found.body)
            for one in page["items"]:
                count += 1
                if count > MAX_ITEMS:
                    raise EvidenceTooLargeError(f"{API_PREFIX}{path} has more than {MAX_ITEMS} entries")
                yield one
            cursor = page.get("next_cursor") or ""
            if not cursor:
                return

    async def _ask(self, path: str, query: str) -> Answer:
        status, wait_s, body, sent = 500, 0.0, bytearray(), False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, wait_s
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.lower(): value for name, value in message.get("headers", [])}
                wait_s = float(headers.get(b"retry-after", b"0") or 0)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if len(body) > MAX_ANSWER_BYTES:
                    raise EvidenceTooLargeError(f"{path} has more than {MAX_ANSWER_BYTES} bytes")

        whole = API_PREFIX + path
        scope = self._kept | {
            "type": "http",
            "method": "GET",
            "path": whole,
            "raw_path": quote(whole, safe="/:@+").encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [(b"accept", b"*/*"), (b"host", self._host)],
            CALLER_KEY: self._caller,
        }
        await self._app(scope, receive, send)
        return Answer(status, bytes(body), wait_s)
