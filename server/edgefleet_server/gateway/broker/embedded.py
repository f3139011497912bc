"""The process of the embedded broker: `python -m edgefleet_server.gateway.broker.embedded`.

stdin: one line of JSON `{tenant, ca_file, cert_file, key_file, host, port, refused}`, then kept open for further lines like `refused`
(`{serials, devices}`: whom to refuse from now on). When it closes, the server is gone and so is the broker.
stdout: one line, `{"ready": true, "port": n}` or `{"ready": false, "code", "error"}`.
Logs go to stderr from WARNING on (amqtt at DEBUG prints payloads). Ends by SIGTERM or the end of stdin.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgefleet_server.gateway.broker.errors import BrokerStartError, PortTakenError

SHUTDOWN_LIMIT_S = 3.0


def main() -> int:
    """Run the broker until asked to stop; 0 after a clean stop, 1 when it could not start."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each device that vanishes while being written to
    config = json.loads(sys.stdin.readline())
    try:
        asyncio.run(_serve(config))
    except BrokerStartError as error:
        _say({"ready": False, "code": error.code, "error": error.message})
        return 1
    return 0


async def _serve(config: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = await _started(config)
    _say({"ready": True, "port": broker.port})
    await loop.connect_read_pipe(lambda: _Orders(stop, broker.refuse), sys.stdin)
    await stop.wait()
    try:
        await asyncio.wait_for(broker.shutdown(), SHUTDOWN_LIMIT_S)
    except TimeoutError:
        logging.getLogger(__name__).warning("the broker did not close all links in %.0f s", SHUTDOWN_LIMIT_S)


async def _started(config: dict[str, Any]) -> Any:
    try:
        from amqtt.errors import BrokerError

        from edgefleet_server.gateway.broker.gated_broker import GatedBroker
    except ImportError as error:
        raise BrokerStartError(
            f"the embedded broker needs amqtt 0.12.1 ({error}); install edgefleet[embedded], or mosquitto"
        ) from error
    amqtt_log = logging.getLogger("amqtt")
    amqtt_log.setLevel(logging.CRITICAL)  # it would print a traceback; we say the cause in one line
    try:
        broker = GatedBroker(**config)
        await broker.start()
    except (BrokerError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            raise PortTakenError(f"port {config['port']} of {config['host']} is in use") from error
        raise BrokerStartError(f"the embedded broker could not start: {cause}") from error
    amqtt_log.setLevel(logging.WARNING)
    return broker


class _Orders(asyncio.Protocol):
    """Hands on whom to refuse; sets the stop event when stdin closes."""

    def __init__(self, stop: asyncio.Event, refuse: Callable[[Mapping[str, Sequence[str]]], None]) -> None:
        self._stop = stop
        self._refuse = refuse
        self._begun = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._refuse(json.loads(line))

    def eof_received(self) -> None:
        self._stop.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
