"""How large the body of a request may be: a JSON body is held in memory whole, so it must stay small.

Uploads are streams to disk with a limit of their own (`max_blob_bytes`) behind the check of the token; `unlimited` names them.
"""

from collections.abc import Sequence
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_server.web import problems

API_BODY_BYTES: Final = 4 * 1024 * 1024
"""Holds the longest list of source files (4096) with room to spare."""
DEVICE_BODY_BYTES: Final = 128 * 1024


class BodyLimit:
    """Answers 413 to a body above `limit_bytes`, announced or not. Plain ASGI; reads nothing itself."""

    def __init__(self, app: ASGIApp, limit_bytes: int, unlimited: Sequence[tuple[str, str]] = ()) -> None:
        """Wrap `app`; unlimited: methods and path prefixes of the requests that stream."""
        self._app = app
        self._limit = limit_bytes
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or self._streams(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limit:
            answer = problems.problem(
                request,
                413,
                "request.too_large",
                self._too_large(),
                next_step="send less",
                headers={"connection": "close"},
            )
            await answer(scope, receive, send)
            return
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise HTTPException(413, self._too_large(), headers={"connection": "close"})
            return message

        await self._app(scope, receive_some, send)

    def _streams(self, scope: Scope) -> bool:
        return any(scope["method"] == method and scope["path"].startswith(prefix) for method, prefix in self._unlimited)

    def _too_large(self) -> str:
        return f"the body is larger than the {self._limit} bytes that this address takes"
