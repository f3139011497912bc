"""`edgectl server broker-trust`: the list of revoked certificates and the CAs of a broker on a machine without a server (ADR 0172)."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_TIMEOUT, BadAnswerError, CliError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.render.output import Column, Sheet, one_line

if TYPE_CHECKING:
    from edgefleet_cli.admin.outside_broker.trust_folder import Standing
    from edgefleet_cli.admin.outside_broker.trust_rules import BrokerTrust

EVERY_S: Final = 60
COMMAND_S: Final = 120.0
"""How long the broker's command may take."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Kept(Struct, frozen=True):
    """What is in the folder after a run. did: "reload", "restart" or "", what the broker was asked to do. cas: SHA-256. Times: ISO 8601."""

    folder: str
    changed: bool
    did: str
    revoked: int
    cas: list[str]
    issued_at: str
    expires_at: str


KEPT: Sheet[Kept] = Sheet(
    "files",
    [
        Column("folder", lambda k: k.folder, keep=True),
        Column("changed", lambda k: "yes" if k.changed else "no"),
        Column("broker", lambda k: k.did or "-"),
        Column("revoked", lambda k: str(k.revoked), right=True),
        Column("until", lambda k: k.expires_at),
    ],
    lambda k: k.folder,
    lambda k: _line(k),  # noqa: PLW0108 - it is defined below
)


@dataclass(frozen=True)
class Asked:
    """What the operator gave. reload, restart: commands in words; restart is what happens to the broker when other CAs are trusted."""

    out: Path
    pinned: str
    reload: tuple[str, ...]
    restart: tuple[str, ...]


def broker_trust(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the broker, for crl.pem and trusted-cas.pem.")
    ],
    reload: Annotated[
        str, typer.Option("--reload", metavar="COMMAND", help="Run when the files have changed; no shell.")
    ] = "",
    restart: Annotated[
        str, typer.Option("--restart", metavar="COMMAND", help="Run instead when the CAs have changed.")
    ] = "",
    ca_sha256: Annotated[
        str, typer.Option("--ca-sha256", metavar="HEX", help="Take only a device CA with this fingerprint.")
    ] = "",
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Keep the files up to date.")] = False,
    every: Annotated[int, typer.Option("--every", min=1, metavar="SECONDS", help="How often --watch asks.")] = EVERY_S,
) -> None:
    """Keep a broker's list of revoked certificates and its CAs, on a machine without a server. A viewer's token is enough."""
    session = Session.of(ctx)
    asked = Asked(out, _pinned(ca_sha256), _words("--reload", reload), _words("--restart", restart))
    if not out.is_dir():
        raise UsageError(
            f"{out} is no folder",
            why="the broker's files are written there",
            next_step="make it first, or name another with --out",
        )
    if watching:
        _watch(session, asked, every)
        raise typer.Exit(EXIT_TIMEOUT)
    try:
        kept = _keep(session, asked)
    except CliError:
        _warn(session, asked.out)
        raise
    session.out.facts(kept.raw, lambda: session.out.line(_line(kept.value)))
    _warn(session, asked.out)


def _keep(session: Session, asked: Asked) -> Reply[Kept]:
    """Ask once, and write what is new. Raises CliError; then the files are as they were, or the broker's command failed."""
    from edgefleet_cli.admin.outside_broker import trust_folder, trust_rules

    standing = trust_folder.standing_of(asked.out)
    tag = "" if asked.pinned and asked.pinned not in standing.known else standing.tag
    answer, tag = session.api.changed("/trust/broker", api.key.BrokerTrust, tag)
    trust, due = standing.trust, standing.due
    is_changed = False
    if answer is not None:
        new = trust_rules.read_trust(answer.value.crl.encode(), answer.value.trusted_cas.encode())
        trust_rules.check_time(new, session.clock.now())
        trust_rules.check_cas(new, standing.known, asked.pinned)
        is_changed = trust is None or trust_rules.is_news(new, trust)
        if is_changed:
            due = "restart" if due == "restart" or new.fingerprints != standing.known else "reload"
            trust_folder.put(asked.out, new, tag, due)
            trust = new
        else:
            trust_folder.note(asked.out, tag, due)
    if trust is None:
        raise BadAnswerError(
            "the server says that nothing has changed, and was not told of anything",
            why="it answered 304 to a request without If-None-Match",
            next_step="check the address given with --server, and any proxy or cache in front of it",
        )
    did = _have_read(session, asked, due)
    if due:
        trust_folder.note(asked.out, tag, "")
    return _kept(asked.out, trust, changed=is_changed, did=did)


def _have_read(session: Session, asked: Asked, due: str) -> str:
    """Let the broker read its files; return what it was asked to do. Raises BrokerReloadError."""
    from edgefleet_cli.admin.outside_broker.errors import BrokerReloadError

    command = asked.restart if due == "restart" and asked.restart else asked.reload
    if not due or not command:
        if due == "restart" and not asked.restart:
            session.out.note("the broker trusts other CAs from its next start on: restart it, unless its script does")
        return ""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False)
        why = (
            ""
            if done.returncode == 0
            else f"exit code {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-300:].strip()}"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        raise BrokerReloadError(f"the files are written, and `{shlex.join(command)}` failed", why=why)
    if due == "restart" and command is not asked.restart:
        session.out.note(
            "the broker trusts other CAs: where a reload does not read them, name its command with --restart"
        )
    return "restart" if command is asked.restart else "reload"


def _watch(session: Session, asked: Asked, every_s: int) -> None:
    """Keep the files until `--timeout`. What passes by itself is said once and tried again; other errors are raised."""
    from edgefleet_cli.admin.outside_broker.errors import BrokerReloadError, BrokerTrustError
    from edgefleet_cli.core.transport.server_retry import is_passing

    clock, limit_s = session.clock, session.options.timeout_s
    deadline_s = math.inf if limit_s is None else clock.monotonic_s() + limit_s
    said, is_first = "", True
    while True:
        try:
            kept = _keep(session, asked)
            if kept.value.changed or kept.value.did or is_first:
                session.out.record(kept, KEPT, is_first=is_first)
                is_first = False
            elif said:
                session.out.note("all is well again")
            said = ""
        except CliError as error:
            if not isinstance(error, BrokerReloadError | BrokerTrustError) and not is_passing(error):
                _warn(session, asked.out)
                raise
            text = f"{one_line(error.message)} ({one_line(error.why)}); trying again"
            if error.message != said:
                session.out.notice(text)
                _warn(session, asked.out)
            said = error.message
        left_s = deadline_s - clock.monotonic_s()
        if left_s <= 0:
            return
        clock.sleep(min(float(every_s), left_s))


def _warn(session: Session, folder: Path) -> None:
    """Say when the list in the folder ends, where that is near and none can be had."""
    from edgefleet_cli.admin.outside_broker import trust_folder, trust_rules

    try:
        standing: Standing = trust_folder.standing_of(folder)
    except CliError:
        return
    if standing.trust is not None:
        warning = trust_rules.warning_of(standing.trust.expires_at, session.clock.now())
        if warning:
            session.out.notice(f"warning: {warning}")


def _kept(folder: Path, trust: BrokerTrust, *, changed: bool, did: str) -> Reply[Kept]:
    times = (one.isoformat() for one in (trust.issued_at, trust.expires_at))
    return reply_of(Kept(str(folder), changed, did, trust.count, sorted(trust.fingerprints), *times))


def _line(kept: Kept) -> str:
    certificates = "1 certificate is" if kept.revoked == 1 else f"{kept.revoked} certificates are"
    what = "written" if kept.changed else "nothing new"
    done = {"reload": ", the broker was reloaded", "restart": ", the broker was restarted"}.get(kept.did, "")
    cas = "" if len(kept.cas) == 1 else f", {len(kept.cas)} CAs are trusted"
    return f"{what}{done}: {certificates} revoked{cas}, good until {kept.expires_at[:10]}"


def _pinned(text: str) -> str:
    plain = text.lower().replace(":", "")
    if plain and not _SHA256.fullmatch(plain):
        raise UsageError(
            "--ca-sha256 is no SHA-256",
            why="it has 64 hex digits",
            next_step="take the one that `edgectl key trust` shows",
        )
    return plain


def _words(flag: str, command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(
            f"{flag} cannot be taken apart", why=str(error), next_step="close its quotes; there is no shell"
        ) from error
