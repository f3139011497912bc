"""A span for each API request, part of the caller's trace where it sends `traceparent`. Plain ASGI, so that uploads stream through."""

from typing import Final

from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SERVER_ERROR: Final = 500
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask every few seconds has no spans."""


class RequestSpans:
    """Wraps an app. A span's name is the operation, or the method where there is none; no path: some hold a token."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request inside a span."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            return
        carrier = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        attributes = {"http.request.method": scope["method"], "url.scheme": scope["scheme"]}
        with self._tracer.start_as_current_span(
            scope["method"], extract(carrier), SpanKind.SERVER, attributes=attributes
        ) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
                    for key, value in message.get("headers", []):
                        if key == b"x-request-id":
                            span.set_attribute("edgefleet.request_id", value.decode("latin-1"))
                await send(message)

            try:
                await self._app(scope, receive, watched)
            finally:
                operation = getattr(scope.get("route"), "operation_id", None)
                if operation:
                    span.update_name(str(operation))
