"""Routes that ask who calls before they read the body: a stranger's JSON is not parsed.

FastAPI reads and parses the body first and solves dependencies then. The app says in `app.state.guard` what has to be asked; the
dependency that asks the same finds the answer on the request.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from edgefleet_server.web.deferred_route import DeferredRoute


class GuardedRoute(DeferredRoute):
    """A route whose body is parsed after its caller was let in."""

    def guard(self, request: Request) -> None:
        """Raise when the caller is refused. May block."""
        request.app.state.guard(request)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request: the guard first, where there is a body to parse."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def guarded(request: Request) -> Response:
            await run_in_threadpool(self.guard, request)
            return await handle(request)

        return guarded
