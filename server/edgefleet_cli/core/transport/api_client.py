"""The REST client: one connection pool, every answer checked, every failure an error of `edgefleet_cli.core.errors`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgefleet_cli.core.errors import (
    ApiError,
    BadAnswerError,
    NotLoggedInError,
    ServerUnreachableError,
    UntrustedServerError,
)
from edgefleet_cli.core.transport.reply import Page, Reply
from edgefleet_cli.core.transport.request import PAGE_SIZE

# Without its own command line, which httpx then says is not installed: that would load rich.progress and pygments at each start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402

if TYPE_CHECKING:
    from edgefleet_cli.core.api.access import IdTokenIn, PipelineToken
    from edgefleet_cli.core.structs import Body

API = "/api/v1"
_NOT_TRUSTED = "CERTIFICATE_VERIFY_FAILED"
UPLOAD_CHUNK_BYTES = 256 * 1024
DOWNLOAD_CHUNK_BYTES = 256 * 1024
DEFAULT_TIMEOUT_S = 30.0
KEEP_IDLE_S = 2.0
"""Idle connections are given up well before the server closes them (5 s), else a request can meet a closing one."""

T = TypeVar("T")


class ApiClient:
    """Talks to one server with one token. Blocking; use as a context manager or call `close`."""

    def __init__(
        self,
        server: str,
        token: str | None,
        *,
        ca_file: str | None = None,
        request_timeout_s: float | None = None,
        debug: bool = False,
        source: Callable[[ApiClient], str] | None = None,
    ) -> None:
        """Open no connection yet. source: gives the token for each request where `token` is None."""
        self.server = server.rstrip("/")
        self._token = token
        self._source = source
        self._debug = debug
        self._http = httpx.Client(
            base_url=self.server,
            verify=verification(self.server, ca_file),
            timeout=httpx.Timeout(request_timeout_s or DEFAULT_TIMEOUT_S, connect=min(request_timeout_s or 5.0, 5.0)),
            limits=httpx.Limits(keepalive_expiry=KEEP_IDLE_S),
            headers={"accept": "application/json", "user-agent": "edgectl"},
        )

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, kind: type[T], /, **params: Any) -> Reply[T]:
        """Return the object at `path` (below /api/v1). kind: its struct; `dict` for what has no schema."""
        return Reply(self._get(path, params), kind)

    def changed(self, path: str, kind: type[T], tag: str) -> tuple[Reply[T] | None, str]:
        """Return the object at `path` and its ETag; no object while it is the one with this ETag. tag: "" = return it in any case."""
        headers = {"if-none-match": tag} if tag else {}
        response = self._send("GET", path, accept=(httpx.codes.NOT_MODIFIED,), headers=headers)
        found = response.headers.get("etag", "")
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return None, found or tag
        return Reply(self._json(response), kind), found

    def page(self, path: str, kind: type[T], /, **params: Any) -> Page[T]:
        """Return one page of a list, the whole of one that has no pages."""
        return Page(self._get(path, params), kind)

    def _get(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        return self._json(self._send("GET", path, params=_present(params)))

    def read(self, path: str, /, **params: Any) -> bytes:
        """Return what is at `path` as it is: a page, a file."""
        return self._send("GET", path, params=_present(params)).content

    def post(self, path: str, body: Body | bytes, kind: type[T]) -> Reply[T]:
        """Post a body, or JSON that is written already (`NOTHING`, `written`); return the answer."""
        return self._change("POST", path, body, kind)

    def take(self, path: str, body: Body, kind: type[T]) -> Reply[T] | None:
        """Post a body; return the answer, None where there is nothing to answer (204)."""
        from msgspec.json import encode

        headers = {"content-type": "application/json"}
        response = self._send("POST", path, content=encode(body), headers=headers)
        return None if response.status_code == httpx.codes.NO_CONTENT else Reply(self._json(response), kind)

    def patch(self, path: str, body: Body, kind: type[T]) -> Reply[T]:
        """Change what is at `path`, return the answer."""
        return self._change("PATCH", path, body, kind)

    def put(self, path: str, body: Body | bytes, kind: type[T]) -> Reply[T]:
        """Set what is at `path`, return the answer."""
        return self._change("PUT", path, body, kind)

    def exchange(self, id_token: IdTokenIn) -> PipelineToken:
        """Return an operator token for the ID token of a job of CI. Raises ServerUnreachableError, ApiError, BadAnswerError."""
        from msgspec.json import encode

        from edgefleet_cli.core.api.access import PipelineToken

        headers = {"content-type": "application/json"}
        try:
            response = self._http.post(f"{API}/pipeline-tokens", content=encode(id_token), headers=headers)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise self._problem(response)
        return Reply(self._json(response), PipelineToken).value

    def _change(self, method: str, path: str, body: Body | bytes, kind: type[T]) -> Reply[T]:
        if not isinstance(body, bytes):
            from msgspec.json import encode

            body = encode(body)
        headers = {"content-type": "application/json"}
        return Reply(self._json(self._send(method, path, content=body, headers=headers)), kind)

    def delete(self, path: str, /, **params: Any) -> None:
        """Delete what is at `path`."""
        self._send("DELETE", path, params=_present(params))

    def stream(self, path: str, *, wait_s: float, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream until it ends. wait_s: so long nothing may come before the server counts as away.

        Raises ServerUnreachableError, also when the stream breaks off, ApiError, and BadAnswerError for what is no stream of JSON objects.
        """
        from edgefleet_cli.core.transport.sse import events_of

        limits = httpx.Timeout(self._http.timeout.connect, read=wait_s)
        with self._streamed(path, "text/event-stream", params=_present(params), timeout=limits) as response:
            yield from events_of(response)

    def blob(self, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a blob as they come; nobody but the caller checks them. Raises ServerUnreachableError, ApiError."""
        with self._streamed(f"/blobs/{sha256}", "application/octet-stream") as response:
            yield from response.iter_bytes(DOWNLOAD_CHUNK_BYTES)

    def download(self, path: str, accept: str, /, **params: Any) -> Iterator[bytes]:
        """Yield what is at `path` as it comes, in pieces. accept: its media type. Raises ServerUnreachableError, ApiError."""
        with self._streamed(path, accept, params=_present(params)) as response:
            yield from response.iter_bytes(DOWNLOAD_CHUNK_BYTES)

    @contextmanager
    def _streamed(self, path: str, accept: str, **request: Any) -> Iterator[httpx.Response]:
        headers = {"authorization": f"Bearer {self._given_token()}", "accept": accept}
        try:
            with self._http.stream("GET", API + path, headers=headers, **request) as response:
                if not response.is_success:
                    response.read()
                    raise self._problem(response)
                yield response
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def pages(self, path: str, kind: type[T], /, *, limit: int | None = None, **params: Any) -> Page[T]:
        """Return all items of a list, following `next_cursor`, as one `{items, next_cursor, total}`."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        total: int | None = None
        while True:
            size = PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - len(items))
            page = self.page(path, kind, limit=size, cursor=cursor, **params)
            items.extend(reply.raw for reply in page.replies)
            total = page.raw.get("total", total)
            cursor = page.next_cursor
            if not cursor or (limit is not None and len(items) >= limit):
                break
        return Page({"items": items, "next_cursor": cursor, "total": len(items) if total is None else total}, kind)

    def each(self, path: str, kind: type[T], /, *, size: int = PAGE_SIZE, **params: Any) -> Iterator[Reply[T]]:
        """Yield the items of a list, a page asked for when the one before is used up."""
        cursor: str | None = None
        while True:
            page = self.page(path, kind, limit=size, cursor=cursor, **params)
            yield from page.replies
            cursor = page.next_cursor
            if not cursor:
                return

    def has_blob(self, sha256: str) -> bool:
        """Tell whether the server already holds these bytes."""
        response = self._send("HEAD", f"/blobs/{sha256}", accept=(404,))
        return response.status_code == httpx.codes.OK

    def put_blob(self, sha256: str, file: Path, length: int, advance: Callable[[int], None]) -> None:
        """Upload a file under its digest; `advance(n)` is called for every n bytes sent."""

        def chunks() -> Iterator[bytes]:
            with file.open("rb") as stream:
                while chunk := stream.read(UPLOAD_CHUNK_BYTES):
                    yield chunk
                    advance(len(chunk))

        headers = {"content-length": str(length), "content-type": "application/octet-stream"}
        self._send("PUT", f"/blobs/{sha256}", content=chunks(), headers=headers)

    def is_ready(self) -> bool:
        """Tell whether the server says it is ready; never raises for a server that is not there."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _send(self, method: str, path: str, *, accept: tuple[int, ...] = (), **request: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._given_token()}", **request.pop("headers", {})}
        try:
            response = self._request(method, API + path, headers=headers, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if self._debug:
            request_id = response.headers.get("x-request-id", "-")
            sys.stderr.write(f"debug: {method} {response.request.url} -> {response.status_code} request {request_id}\n")
        if response.is_success or response.status_code in accept:
            return response
        raise self._problem(response)

    def _given_token(self) -> str:
        if self._token is not None:
            return self._token
        if self._source is not None:
            return self._source(self)
        from edgefleet_cli.core.ci_identity import how_to_sign_in

        raise NotLoggedInError(
            f"not logged in at {self.server}",
            why="no token is set",
            next_step=how_to_sign_in(os.environ, self.server) or f"run `edgectl login {self.server}`",
        )

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send once, and once more where reading was cut off: that changes nothing at the server."""
        try:
            return self._http.request(method, path, **request)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            if method not in {"GET", "HEAD"}:
                raise
            return self._http.request(method, path, **request)

    def _unreachable(self, error: Exception) -> ServerUnreachableError:
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return ServerUnreachableError(
                f"no answer from {self.server}",
                why=f"it took longer than {self._http.timeout.read:g} s",
                next_step="check the server's log, or raise --timeout",
            )
        if _NOT_TRUSTED in str(error):
            return UntrustedServerError(
                f"the certificate of {self.server} is not trusted",
                why=str(error),
                next_step="if the server has a new one, log in again with its CA: `edgectl login URL --ca FILE`",
            )
        return ServerUnreachableError(
            f"cannot reach the server at {self.server}",
            why=str(error) or type(error).__name__,
            next_step="start it with `edgectl server start`, or name another one with --server URL",
        )

    def _problem(self, response: httpx.Response) -> ApiError | BadAnswerError:
        from edgefleet_cli.core.transport.problem import problem_of

        problem = problem_of(response.content)
        if problem is None:
            return BadAnswerError(
                f"unexpected answer {response.status_code} from {response.request.url}",
                why=f"it is not an edgefleet server's answer: {response.text[:120]!r}",
                next_step="check the address given with --server or in `edgectl context list`",
            )
        title = problem.title or problem.code
        return ApiError(
            problem.detail or title,
            status=response.status_code,
            code=problem.code,
            request_id=problem.request_id,
            why=problem.fields() or problem.why or _why_by_status(response.status_code),
            next_step=problem.next or _next_by_status(response.status_code),
        )

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        if not response.content:
            return {}
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise BadAnswerError(
                f"unexpected answer from {response.request.url}",
                why="it is not a JSON object",
                next_step="check the address given with --server or in `edgectl context list`",
            )
        return body


def _present(params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def verification(server: str, ca_file: str | None) -> Any:
    """Return how a server's certificate is checked: against a CA file, else by those of the system. Raises ServerUnreachableError."""
    if not server.startswith("https://"):
        return False  # plain HTTP: do not load certificates for nothing
    if ca_file is None:
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ServerUnreachableError(
            f"cannot use the CA file {ca_file}", why=str(error), next_step="give the server's CA with `--ca FILE`"
        ) from error


def _why_by_status(status: int) -> str:
    return {
        401: "the server does not accept this token",
        403: "your role does not allow it",
        404: "the server has no object with this name",
        409: "the current state does not allow it",
        422: "invalid request",
        429: "too many requests in a short time",
    }.get(status, f"the server answered with HTTP status {status}")


def _next_by_status(status: int) -> str:
    return {
        401: "log in again with `edgectl login URL`",
        403: "ask an admin for a token with the role this needs; `edgectl whoami` shows yours",
        404: "list what exists, e.g. `edgectl model list` or `edgectl device list`",
    }.get(status, "run again with --debug and look for the request id in the server's log")
