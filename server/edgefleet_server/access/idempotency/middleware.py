"""`Idempotency-Key`: a POST that is sent again is done once, and answered as the first time (`answers` keeps them).

Plain ASGI around the routes: it reads the body, which `BodyLimit` bounds, and hands it on. Who has no valid token is passed
on as is, and refused by the route: strangers fill no table.
"""

from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.errors import AccessError, BadIdempotencyKeyError
from edgefleet_server.access.idempotency.answers import Asked, KeptAnswer
from edgefleet_server.access.model import Principal
from edgefleet_server.access.rules import API_PREFIX, is_own_token_path
from edgefleet_server.access.service import AccessService
from edgefleet_server.web import problems
from edgefleet_server.web.attempt_limits import TooManyLoginsError

IDEMPOTENCY_KEY: Final = "Idempotency-Key"

REPLAYED: Final = b"idempotency-replayed"

MAX_KEY_CHARS: Final = 255

_KEPT_HEADERS: Final = frozenset({b"content-type", b"location", b"etag"})


class Idempotency:
    """Does a request with a key once."""

    def __init__(self, app: ASGIApp, access: AccessService) -> None:
        """Wrap `app`."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it as before."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(API_PREFIX):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        key = request.headers.get(IDEMPOTENCY_KEY)
        if key is None or is_own_token_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        token = request.headers.get("authorization", "").partition(" ")[2].strip()
        try:
            address = request.client.host if request.client is not None else ""
            principal = await run_in_threadpool(self._access.authenticate_from, address, token)
        except (AccessError, TooManyLoginsError):
            await self._app(scope, receive, send)
            return
        try:
            if not 1 <= len(key) <= MAX_KEY_CHARS:
                raise BadIdempotencyKeyError(f"{key[:80]!r} cannot be an Idempotency-Key")
            body = await _body(receive)
            asked = Asked(principal.id, token, key, _digest(scope, body))
            known = await run_in_threadpool(self._access.repeats.begin, asked)
        except EdgefleetError as error:
            await problems.domain_problem(request, error)(scope, receive, send)
            return
        except HTTPException as error:
            await problems.http_problem(request, error)(scope, receive, send)
            return
        if known is not None:
            await _replay(request, principal, known)(scope, receive, send)
            return
        await self._do(asked, scope, body, receive, send)

    async def _do(self, asked: Asked, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Do it; keep the answer when it was done, free the key when not. The answer is sent after that."""
        held: list[Message] = []
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def hold(message: Message) -> None:
            held.append(message)

        repeats = self._access.repeats
        try:
            await self._app(scope, receive_again, hold)
        except BaseException:
            await run_in_threadpool(repeats.free, asked)
            raise
        answer = _answer(held, str(getattr(scope.get("route"), "operation_id", "")))
        is_done = answer is not None and 200 <= answer.status < 300
        if is_done and answer is not None:
            await run_in_threadpool(repeats.keep, asked, answer)
        else:
            await run_in_threadpool(repeats.free, asked)
        for message in held:
            await send(message)


async def _body(receive: Receive) -> bytes:
    """Return the whole body. Raises HTTPException when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _digest(scope: Scope, body: bytes) -> str:
    head = f"{scope['method']} {scope['path']}?{scope['query_string'].decode('latin-1')}\n"
    return sha256_hex(head.encode() + body)


def _answer(held: list[Message], operation: str) -> KeptAnswer | None:
    start = next((one for one in held if one["type"] == "http.response.start"), None)
    if start is None:
        return None
    body = b"".join(one.get("body", b"") for one in held if one["type"] == "http.response.body")
    headers = [(name, value) for name, value in start.get("headers", []) if name.lower() in _KEPT_HEADERS]
    return KeptAnswer(start["status"], operation, headers, body)


def _replay(request: Request, principal: Principal, known: KeptAnswer) -> Response:
    request.state.principal = principal
    request.state.replayed_operation = known.operation
    answer = Response(known.body, status_code=known.status)
    headers = [(name, value) for name, value in answer.raw_headers if name != b"content-type"]
    answer.raw_headers = [*headers, *known.headers, (REPLAYED, b"true")]
    return answer
