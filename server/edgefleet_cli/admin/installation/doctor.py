"""What stands between this user and a server: saved contexts, the address, TLS, the token, versions, clocks, completion.

Each check looks at one thing and says what it found and what to do; one that cannot be made because an earlier one failed is left out.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgefleet_cli.admin.access.grant_options import grants_text
from edgefleet_cli.core.api.access import WhoAmI
from edgefleet_cli.core.errors import ApiError, BadAnswerError, CliError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct, field
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.core.version import own_version
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    import httpx

OK, WARN, FAIL = "ok", "warn", "fail"
SKEW_WARN_S = 30.0
EXPIRY_WARN = timedelta(days=14)
TIMEOUT_S = 5.0
SLOW_S = 60.0
"""For answers that a server works for: what it checks, and its description where it makes that itself."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_RC_FILES = {"bash": (".bashrc", ".bash_profile"), "zsh": (".zshrc",), "fish": (".config/fish/config.fish",)}


class Finding(Struct, frozen=True):
    """What one check found. status: ok, warn or fail; next: what to do, "" when nothing."""

    check: str
    status: str
    detail: str
    next: str = ""


class _Check(Struct, frozen=True):
    ok: bool = False
    detail: str = ""
    next: str = ""


class _Readiness(Struct, frozen=True):
    """What `/readyz` says: each check by its name."""

    checks: dict[str, _Check] = field(default_factory=dict)


FINDINGS: Sheet[Finding] = Sheet(
    "checks",
    [
        Column("check", lambda f: text(f.check), keep=True),
        Column("status", lambda f: text(f.status), keep=True),
        Column("detail", lambda f: text(f.detail), fold=True),
        Column("next", lambda f: text(f.next), fold=True),
    ],
    lambda f: text(f.check),
)


def examine(session: Session) -> Iterator[Finding]:
    """Yield what each check found, in the order in which things depend on each other."""
    yield from _config(session)
    try:
        server = session.server
    except CliError as error:
        yield Finding("server", FAIL, error.message, error.next_step)
        yield _completion()
        return
    yield Finding("server", OK, f"{server}, {_source(session)}")
    yield from _transport(session, server)
    yield from _talk(session, server)
    yield _completion()


def _config(session: Session) -> Iterator[Finding]:
    try:
        file = session.contexts
    except CliError as error:
        yield Finding("config", FAIL, f"{error.message}: {error.why}", error.next_step)
        return
    if not file.path.exists():
        yield Finding("config", OK, f"no context is saved yet ({file.path})")
        return
    mode = stat.S_IMODE(file.path.stat().st_mode)
    if mode & 0o077:
        advice = f"chmod 600 {file.path}, and revoke the tokens in it when others may have read them"
        yield Finding("config", FAIL, f"others can read {file.path} (mode {mode:o}), and it holds tokens", advice)
        return
    yield Finding("config", OK, f"{file.path}: {len(file.contexts)} contexts, current {file.current or 'none'}")


def _source(session: Session) -> str:
    if session.options.server:
        return "from --server or EDGECTL_SERVER"
    return f"from the context {session.context.name}" if session.context else "not set"


def _transport(session: Session, server: str) -> Iterator[Finding]:
    parts = urlsplit(server)
    if parts.scheme != "https":
        if (parts.hostname or "") in LOOPBACK:
            yield Finding("tls", OK, "plain HTTP on this machine")
        else:
            advice = "give the server a certificate (--tls-cert), or put it behind a proxy"
            yield Finding("tls", FAIL, "plain HTTP: anyone on the network path can read the token", advice)
        return
    try:
        certificate = _certificate(parts.hostname or "", parts.port or 443, session.ca_file)
    except ssl.SSLError as error:
        yield Finding(
            "tls", FAIL, f"the certificate is not trusted: {error.reason or error}", "`edgectl login URL --ca FILE`"
        )
        return
    except OSError as error:
        yield Finding("tls", FAIL, f"no connection: {error}", "is the address right, and does the server run?")
        return
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    left = ends - session.clock.now()
    message = f"trusted, until {moment(ends.isoformat())}"
    if left < EXPIRY_WARN:
        yield Finding("tls", WARN, f"{message}: {left.days} days", "renew the server's certificate")
    else:
        yield Finding("tls", OK, message)


def _certificate(host: str, port: int, ca_file: str | None) -> dict[str, object]:
    import socket

    trust = ssl.create_default_context(cafile=ca_file)
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
        trust.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return dict(secured.getpeercert() or {})


def _talk(session: Session, server: str) -> Iterator[Finding]:
    """Ask the server itself: is it there, is it ready, who am I, which version, what time is it."""
    import httpx

    from edgefleet_cli.core.transport.api_client import verification

    try:
        trust = verification(server, session.ca_file)
    except CliError as error:
        yield Finding("reachable", FAIL, error.message, error.next_step)
        return
    with httpx.Client(base_url=server, timeout=TIMEOUT_S, verify=trust) as http:
        began_s = session.clock.monotonic_s()
        try:
            alive = http.get("/healthz")
        except httpx.HTTPError as error:
            message = f"no answer from {server}: {error or type(error).__name__}"
            yield Finding(
                "reachable", FAIL, message, "start it with `edgectl server start`, or name another with --server"
            )
            return
        took_ms = (session.clock.monotonic_s() - began_s) * 1000
        if not alive.is_success:
            yield Finding("reachable", FAIL, f"/healthz answers {alive.status_code}", "is this an edgefleet server?")
            return
        yield Finding("reachable", OK, f"answers in {took_ms:.0f} ms")
        yield _ready(http)
        yield _skew(alive, session.clock.now())
        yield _version(http)
    yield _token(session)


def _ready(http: httpx.Client) -> Finding:
    import httpx

    try:
        answer = http.get("/readyz", timeout=SLOW_S)
    except httpx.HTTPError as error:
        message = f"no answer of /readyz: {error or type(error).__name__}"
        return Finding("ready", FAIL, message, "see the server's log")
    try:
        checks = struct_of(answer.json(), _Readiness).checks
    except (ValueError, BadAnswerError):
        checks = {}
    if answer.is_success:
        return Finding("ready", OK, f"{', '.join(checks) or 'it'}: ok")
    bad = {name: one for name, one in checks.items() if not one.ok}
    message = "; ".join(f"{name}: {one.detail}" for name, one in bad.items())
    advice = "; ".join(one.next for one in bad.values() if one.next)
    return Finding("ready", FAIL, message or f"/readyz answers {answer.status_code}", advice or "see the server's log")


def _skew(answer: httpx.Response, now: datetime) -> Finding:
    try:
        there = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return Finding("clock", WARN, "the server's answer has no time", "")
    apart_s = abs((now - there).total_seconds())
    if apart_s > SKEW_WARN_S:
        message = f"the clocks of this machine and of the server are {apart_s:.0f} s apart"
        return Finding(
            "clock", WARN, message, "synchronise both with a time server; ages and expiry times are off by this much"
        )
    return Finding("clock", OK, f"within {max(1.0, apart_s):.0f} s of the server's")


def _version(http: httpx.Client) -> Finding:
    import httpx

    try:
        theirs = str(http.get("/openapi.json", timeout=SLOW_S).json()["info"]["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return Finding("version", WARN, f"edgectl is {own_version()}; the server does not tell its own", "")
    if theirs.split(".")[:2] != own_version().split(".")[:2]:
        message = f"edgectl is {own_version()}, the server {theirs}"
        return Finding("version", WARN, message, f"pip install 'edgefleet=={theirs}'")
    return Finding("version", OK, f"edgectl {own_version()}, server {theirs}")


def _token(session: Session) -> Finding:
    try:
        who = session.api.get("/whoami", WhoAmI).value
    except ApiError as error:
        return Finding("token", FAIL, f"{error.message} ({error.foreign_code})", error.next_step)
    except CliError as error:
        return Finding("token", FAIL, error.message, error.next_step)
    return Finding("token", OK, f"{who.name}, {grants_text(who.scoped, who.roles)}, tenant {who.tenant}")


def _completion() -> Finding:
    shell = Path(os.environ.get("SHELL") or "").name
    if shell not in _RC_FILES:
        return Finding(
            "completion", WARN, f"no completion for {shell or 'this shell'}", "there is one for bash, zsh and fish"
        )
    for name in _RC_FILES[shell]:
        try:
            if "edgectl" in (Path.home() / name).read_text(encoding="utf-8", errors="replace"):
                return Finding("completion", OK, f"set up in ~/{name}")
        except OSError:
            continue
    line = "edgectl completion fish | source" if shell == "fish" else f'eval "$(edgectl completion {shell})"'
    return Finding("completion", WARN, f"not set up for {shell}", f"put into ~/{_RC_FILES[shell][0]}: {line}")
