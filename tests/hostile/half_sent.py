"""Requests that never end, against the real listeners: `./dev soak half-sent --n N`, N of them against each listener.

A third of them stops in the TLS handshake (device listener) or before the first byte, a third within the head, a third within the body.
They come from an address of their own, and then again from the address of the others. Others keep asking both listeners, each time on
a new connection; their latency is measured before, during and after.
"""

import resource
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.servers import ServerProcess, copy_server, server_process

ATTACKER = "127.0.0.66"
OTHERS = "127.0.0.1"
ASKS = 20
LIMIT_S = 5.0
HEAD = b"POST /api/v1/releases HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
PARTS = (b"", HEAD, HEAD + b'Content-Length: 5000\r\n\r\n{"model"')


def port_of(server: ServerProcess, listener: str) -> int:
    """Return the port of a listener: `api` or `device`."""
    return int(server.run[f"{listener}_url"].rpartition(":")[2])


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(server: ServerProcess, listener: str) -> float:
    """Ask a listener whether it is there, on a new connection; return the seconds. Raises OSError or ValueError."""
    begin_s = time.perf_counter()
    path = "/healthz" if listener == "api" else "/device/v1/healthz"
    with socket.create_connection((OTHERS, port_of(server, listener)), LIMIT_S) as plain:
        connection = plain if listener == "api" else _context().wrap_socket(plain)
        with closing(connection):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"answered {answer[:60]!r}")
    return time.perf_counter() - begin_s


def latencies(server: ServerProcess, asks: int) -> dict[str, Any]:
    """Ask both listeners in turn; return median and worst in ms, and how often there was no answer."""
    found: dict[str, Any] = {}
    for listener in ("api", "device"):
        times, failed = [], 0
        for _ in range(asks):
            try:
                times.append(ask(server, listener) * 1000)
            except (OSError, ValueError):
                failed += 1
        median = statistics.median(times) if times else None
        found[listener] = {"median_ms": median, "worst_ms": max(times, default=None), "failed": failed}
    return found


@contextmanager
def half_sent(server: ServerProcess, listener: str, n: int, address: str) -> Iterator[list[socket.socket]]:
    """Hold `n` connections that never finish a request until the block ends."""
    context = _context()
    with ExitStack() as stack:
        held: list[socket.socket] = []
        for number in range(n):
            part = PARTS[number % len(PARTS)]
            try:
                connection = socket.create_connection((OTHERS, port_of(server, listener)), LIMIT_S, (address, 0))
                stack.callback(connection.close)
                if part and listener == "device":
                    connection = context.wrap_socket(connection)
                    stack.callback(connection.close)
                if part:
                    connection.sendall(part)
            except OSError:
                continue  # refused or ended by the server
            held.append(connection)
        yield held


def still_open(held: list[socket.socket]) -> int:
    """Return how many connections the server has not ended."""
    n = 0
    for connection in held:
        connection.settimeout(0)
        try:
            while connection.recv(65536):  # the answer to a request whose body was not needed
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            n += 1
        except OSError:
            continue
    return n


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run the attack on a real server with the settings it has by itself. seed: nothing is drawn."""
    del seed
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * n + 1024), hard))
    with tempfile.TemporaryDirectory(prefix="ef-half-") as folder:
        token = copy_server(Path(folder, "server"))
        with server_process(Path(folder, "server"), token, "--broker", "embedded", is_cold=True) as server:
            process = psutil.Process(server.process.pid)
            figures: dict[str, Any] = {"before": latencies(server, ASKS), "rss_before": process.memory_info().rss}
            for listener in ("api", "device"):
                for address, name in ((ATTACKER, "other_address"), (OTHERS, "same_address")):
                    with half_sent(server, listener, n, address) as held:
                        during = latencies(server, ASKS)
                        time.sleep(12)
                        figures[f"{listener}_{name}"] = {
                            "during": during,
                            "sent": len(held),
                            "open_after_12_s": still_open(held),
                        }
            figures |= {"after": latencies(server, ASKS), "rss_after": process.memory_info().rss}
        figures["log_bytes"] = Path(folder, "server.log").stat().st_size
    return figures | {"ok": _is_well(figures)}


def _is_well(figures: Mapping[str, Any]) -> bool:
    """Return whether everybody was answered within a second."""
    rounds = [figures["before"], figures["after"], *(one["during"] for one in figures.values() if _has_round(one))]
    each = [listener for one in rounds for listener in one.values()]
    return all(one["failed"] == 0 and one["worst_ms"] < 1000 for one in each) and figures["log_bytes"] < 100_000


def _has_round(one: object) -> bool:
    return isinstance(one, dict) and "during" in one
