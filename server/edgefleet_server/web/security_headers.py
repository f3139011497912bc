"""What a browser may do with an answer, said on every one of both listeners: documents, streams, redirects and refusals alike.

An answer that is a page brings the policy that it needs; every other answer is data, and its policy allows nothing. The headers are
added outside of all other middleware, so that the answer to a bug has them too.
"""

from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SECURITY_HEADERS: Final = {
    "content-security-policy": DATA_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class GuardedApp(FastAPI):
    """A FastAPI whose every answer has SECURITY_HEADERS."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the headers around everything, the handler of bugs included."""
        return _SecurityHeaders(super().build_middleware_stack())


class _SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_guarded)
