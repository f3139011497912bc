"""A House behind its real device listener: uvicorn with TLS on a free port."""

import asyncio
import base64
import json
import socket
import threading
from types import SimpleNamespace
from typing import Any

import uvicorn

from tests.server.fleet.house import House
from tests.support.apps import shared_device_app


class Listener:
    """A House behind its device listener."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        signing = self.house.signing
        parts = SimpleNamespace(fleet=self.house.fleet, signing=signing, registry=self.house.registry)
        device_app = shared_device_app(parts)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.asked.append(scope.get("path", ""))
            await device_app(scope, receive, send)

        config = uvicorn.Config(
            app,
            ssl_certfile=str(signing.server_cert_file),
            ssl_keyfile=str(signing.server_key_file),
            log_level="error",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    def token(self, **order: Any) -> str:
        """Return a claim token for this listener."""
        made: str = self.house.fleet.enrolment.create_claims(**order)[0].token
        return at_url(made, self.url)

    def close(self) -> None:
        """Stop."""
        self._server.should_exit = True
        self._thread.join()


def at_url(token: str, url: str, **changes: str) -> str:
    """Return the claim token with another address or other fields."""
    body = json.loads(base64.urlsafe_b64decode(token[5:] + "=" * (-len(token[5:]) % 4))) | {"url": url} | changes
    return "efc1." + base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
