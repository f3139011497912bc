"""Answers RabbitMQ's questions of who may do what, on loopback next to it. It keeps nothing and knows only the name of the tenant.

    python -m edgefleet_server.process.external_broker.access_service --tenant NAME [--host 127.0.0.1] [--port 8884]

Prints one line, `ready HOST PORT`, once it answers; ends by SIGTERM.
"""

import argparse
import asyncio
import socket
import sys
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edgefleet_protocol.ids import parse_tenant
from edgefleet_server.gateway.broker_files.access_rules import is_allowed

DEFAULT_PORT = 8884
BACKLOG = 512


def application(tenant: str) -> Starlette:
    """Return the ASGI application: one path a question, POST."""

    async def answer(request: Request) -> PlainTextResponse:
        fields = dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))
        allowed = is_allowed(tenant, request.path_params["question"], fields)
        return PlainTextResponse("allow" if allowed else "deny")

    return Starlette(routes=[Route("/{question}", answer, methods=["POST"])])


def main(arguments: list[str] | None = None) -> int:
    """Answer until it is stopped. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Answer RabbitMQ's questions of who may do what.")
    parser.add_argument("--tenant", type=parse_tenant, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    given = parser.parse_args(arguments)
    with socket.create_server((given.host, given.port), backlog=BACKLOG) as listener:
        host, port = listener.getsockname()[:2]
        sys.stdout.write(f"ready {host} {port}\n")
        sys.stdout.flush()
        server = uvicorn.Server(
            uvicorn.Config(application(given.tenant), log_level="warning", access_log=False, lifespan="off")
        )
        asyncio.run(server.serve(sockets=[listener]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
