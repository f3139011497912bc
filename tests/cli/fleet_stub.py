"""A small HTTP server that answers as the fleet's API does: what each path says is set by the test, request by request."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from edgefleet_cli.core.clock import SystemClock
from tests.broker.pki import Authority

Json = dict[str, Any]

NOON = datetime(2026, 1, 3, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Asked:
    """One request: `GET /rollouts`, its query and its JSON body."""

    what: str
    query: dict[str, str]
    body: Any


@dataclass
class Stub:
    """Answers by `METHOD /path` (below /api/v1): the next of a list at each request, the last one again and again.

    An answer is a JSON object, a `(status, JSON object)`, the bytes of a stream (`told`), or None for a connection that is cut.
    """

    url: str = ""
    answers: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def says(self, what: str, *answers: Any) -> None:
        """Set what a path answers."""
        self.answers[what] = list(answers)

    def bodies(self, what: str) -> list[Any]:
        """Return the bodies that were sent to a path."""
        return [asked.body for asked in self.asked if asked.what == what]

    def queries(self, what: str) -> list[dict[str, str]]:
        """Return the queries of the requests to a path."""
        return [asked.query for asked in self.asked if asked.what == what]

    def answer(self, asked: Asked) -> Any:
        """Note a request and return its answer."""
        with self.lock:
            self.asked.append(asked)
            found = self.answers.get(asked.what)
            if not found:
                return problem(404, "stub.unknown", f"nothing at {asked.what}")
            return found.pop(0) if len(found) > 1 else found[0]


def problem(status: int, code: str, detail: str, **more: Any) -> tuple[int, Json]:
    """Return a refusal as the server writes it."""
    return status, {"title": "Refused", "status": status, "code": code, "detail": detail, "next": "", **more}


def page(items: list[Json]) -> Json:
    """Return a list of one page."""
    return {"items": items, "next_cursor": None, "total": len(items)}


def told(items: list[Json]) -> bytes:
    """Return events as a stream tells them, with the comments that a server sends too."""
    frames = [f"id: {one['id']}\nevent: edgefleet.test\ndata: {json.dumps(one)}\n\n" for one in items]
    return "".join(["retry: 2000\n: hello\n\n", *frames, ": still here\n\n"]).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        what = f"{self.command} {parts.path.removeprefix('/api/v1')}"
        answer = self.stub.answer(Asked(what, dict(parse_qsl(parts.query, keep_blank_values=True)), body))
        if answer is None:
            self.close_connection = True
            return
        if isinstance(answer, bytes):
            self._stream(answer)
            return
        status, document = answer if isinstance(answer, tuple) else (200, answer)
        raw = b"" if status == 204 else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _stream(self, text: bytes) -> None:
        """Answer with a stream that ends."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(text)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _respond  # noqa: N815 - names of the standard library

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the standard library
        """Stay silent."""


@contextmanager
def serving(stub: Stub | None = None) -> Iterator[Stub]:
    """Serve a stub (a fresh one) on a free port of the loopback while the block runs."""
    stub = stub or Stub()
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


def counts(**changes: int) -> Json:
    """Return COUNTS, zero where nothing is said."""
    names = (
        "members",
        "offered",
        "exposed",
        "pending",
        "healthy",
        "failed",
        "unreachable",
        "incompatible",
        "rolled_back",
    )
    return {**dict.fromkeys(names, 0), **changes}


def cell(stratum: str, **changes: Any) -> Json:
    """Return one stratum of a stage."""
    plain = {
        "stratum": stratum,
        "state": "pending",
        "verdict": None,
        "reason": "",
        "rule": "all_healthy",
        "strength": None,
        "bound": "",
        "population": 4,
        "cut": "0",
        "members": 0,
        "opened_at": None,
        "soak_until": None,
        "ended_at": None,
        "e_abort": None,
        "e_promote": None,
        "counts": counts(),
    }
    return {**plain, **changes}


def stage(idx: int, name: str, strata: list[Json], **changes: Any) -> Json:
    """Return one stage of a rollout."""
    plain = {
        "idx": idx,
        "name": name,
        "state": "pending",
        "verdict": None,
        "reason": "",
        "strength": None,
        "devices": [],
        "size_text": "1 per stratum",
        "soak_s": 30,
        "promote": "auto",
        "opened_at": None,
        "ended_at": None,
        "counts": counts(),
        "strata": strata,
    }
    return {**plain, **changes}


SPEC: Json = {
    "release": "digits@1.1.0",
    "selector": "demo=yes",
    "stages": [
        {"name": "canary", "size": {"count": 1}, "soak": "30s", "promote": "auto"},
        {"name": "rest", "size": {"percent": 100}, "soak": "0s", "promote": "auto"},
    ],
    "gates": {"install": {"max_failure": 0.03, "promote_below": 0.05, "alpha_abort": 0.01, "alpha_promote": 0.05}},
    "promote": "auto",
    "on_fail": "rollback",
}


def rollout(**changes: Any) -> Json:
    """Return a rollout: the canary has passed on one profile and soaks on the other."""
    small = cell(
        "generic-x86_64-ort-small",
        state="passed",
        verdict="advance",
        strength="weak",
        reason="every exposed device is healthy past its soak",
        bound="1 of 1 healthy: failure below 95 % at 95 %",
        members=1,
        e_abort=0.87,
        e_promote=1.04,
        counts=counts(members=1, exposed=1, healthy=1),
    )
    large = cell(
        "generic-x86_64-ort",
        state="soaking",
        verdict="hold",
        reason="1 of 1 exposed devices has not been healthy for 30 s yet",
        members=1,
        e_abort=0.87,
        soak_until="2026-01-03T12:00:25+00:00",
        counts=counts(members=1, exposed=1, pending=1),
    )
    canary = stage(
        0,
        "canary",
        [small, large],
        state="soaking",
        reason="generic-x86_64-ort: 1 of 1 exposed devices has not been healthy for 30 s yet",
        devices=["device-01", "device-02"],
        counts=counts(members=2, exposed=2, healthy=1, pending=1),
    )
    rest = stage(1, "rest", [cell("generic-x86_64-ort-small"), cell("generic-x86_64-ort")], size_text="100 %", soak_s=0)
    plain = {
        "id": "r-7f3a9c",
        "name": "digits-1-1-0",
        "release": "digits@1.1.0",
        "model": "digits",
        "version": "1.1.0",
        "state": "running",
        "reason": "stage canary is soaking",
        "stage": "canary",
        "selector": "demo=yes",
        "spec": SPEC,
        "is_partial": False,
        "is_braked": False,
        "created_at": "2026-01-03T11:59:00+00:00",
        "created_by": "ana",
        "started_at": "2026-01-03T11:59:01+00:00",
        "finished_at": None,
        "counts": counts(members=2, exposed=2, healthy=1, pending=1),
        "pooled": {"exposed": 2, "failed": 0, "e_abort": 0.76, "abort_at": 100.0},
        "stages": [canary, rest],
    }
    return {**plain, **changes}


def plan(**changes: Any) -> Json:
    """Return a plan with one warning, a profile without a bundle and an excluded device."""
    small = {
        "stratum": "generic-x86_64-ort-small",
        "rule": "all_healthy",
        "why": "4 devices are fewer than the 73 that evidence needs",
        "new": 1,
        "cumulative": 1,
        "devices": [{"device": "device-01", "why": "rank 1 of 4"}],
    }
    plain = {
        "release": "digits@1.1.0",
        "selector": "demo=yes",
        "matched": 6,
        "ok": True,
        "findings": [
            {
                "level": "warning",
                "code": "lint.weak",
                "stage": 0,
                "stratum": "generic-x86_64-ort-small",
                "message": "one device tells little",
                "next": "take at least 2",
            }
        ],
        "cost": {"downloads": 4, "kept": 1, "bytes": 4_000_000, "strata": []},
        "strata": [
            {"stratum": "generic-x86_64-ort-small", "population": 4, "bundle": "digits/1.1.0/generic-x86_64-ort-small"},
            {"stratum": "raspberry-pi-4-ort", "population": 1, "bundle": None},
        ],
        "stages": [
            {"idx": 0, "name": "canary", "size_text": "1 per stratum", "soak_s": 30, "strata": [small]},
            {
                "idx": 1,
                "name": "rest",
                "size_text": "100 %",
                "soak_s": 0,
                "strata": [
                    {**small, "new": 3, "cumulative": 4, "devices": [{"device": "device-03", "why": "rank 2 of 4"}]}
                ],
            },
        ],
        "excluded": [
            {
                "device": "pi-1",
                "profile": "raspberry-pi-4-ort",
                "reason": "digits@1.1.0 has no bundle for this profile",
                "next": "publish one with --profile raspberry-pi-4-ort",
            }
        ],
    }
    return {**plain, **changes}


def device(name: str, **changes: Any) -> Json:
    """Return one device of a rollout."""
    plain = {
        "device": name,
        "profile": "generic-x86_64-ort-small",
        "stage": "canary",
        "stratum": "generic-x86_64-ort-small",
        "state": "healthy",
        "phase": "committed",
        "error_class": "",
        "reason": "",
        "attempt": 1,
        "offered_at": "2026-01-03T11:59:02+00:00",
        "exposed_at": "2026-01-03T11:59:03+00:00",
        "switched_at": "2026-01-03T11:59:30+00:00",
        "ended_at": None,
        "deadline": None,
        "running": "digits@1.1.0",
        "online": "online",
        "is_joiner": False,
        "is_accepted": False,
        "is_back": False,
    }
    return {**plain, **changes}


def decision(number: int, **changes: Any) -> Json:
    """Return one decision that its evidence confirms."""
    figures = {"exposed": 1, "healthy": 1, "failed": 0, "e_abort": 0.87}
    reason = "every exposed device is healthy past its soak"
    plain = {
        "id": number,
        "at": "2026-01-03T12:00:00+00:00",
        "stage": "canary",
        "stratum": "generic-x86_64-ort-small",
        "verdict": "advance",
        "rule": "all_healthy",
        "rule_version": 1,
        "reason": reason,
        "figures": figures,
        "evidence": {"counts": counts(exposed=1, healthy=1)},
        "actor": "engine",
        "recomputed": {"verdict": "advance", "code": "", "reason": reason, "figures": figures, "rule_version": 1},
        "agrees": True,
    }
    return {**plain, **changes}


def event(number: int, **changes: Any) -> Json:
    """Return one event of a stage."""
    plain = {
        "id": number,
        "device": "",
        "at": f"2026-01-03T12:00:{number % 60:02}+00:00",
        "received_at": f"2026-01-03T12:00:{number % 60:02}+00:00",
        "kind": "stage",
        "model": "digits",
        "rollout": "r-7f3a9c",
        "detail": {
            "from": "soaking",
            "to": "passed",
            "reason": f"reason {number}",
            "actor": "engine",
            "stage": "canary",
            "stratum": "generic-x86_64-ort-small",
        },
    }
    return {**plain, **changes}


class SteppedClock(SystemClock):
    """A clock whose time passes only while somebody sleeps; each sleep may call `at_sleep` with the time it is then."""

    def __init__(self, at_sleep: Callable[[float], None] = lambda _now_s: None) -> None:
        self.elapsed_s = 0.0
        self._at_sleep = at_sleep

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.elapsed_s)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds
        self._at_sleep(self.elapsed_s)


@contextmanager
def unknown_server(folder: Path) -> Iterator[str]:
    """Yield the address of a server that shows a certificate which nobody trusts."""
    identity = Authority(folder).server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert_file, identity.key_file)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
