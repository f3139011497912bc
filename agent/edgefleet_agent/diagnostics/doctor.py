"""`edge-agent doctor`: looks at what an agent depends on, and says for each what to do next. The judging is in `findings`.

Looks only: no file is written, no message sent; one HTTPS request and one TLS handshake. Blocks at most REACH_S each.
"""

import email.utils
import importlib.util
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.core.text_table import sheet
from edgefleet_agent.diagnostics import findings
from edgefleet_agent.diagnostics.device import Device
from edgefleet_agent.diagnostics.findings import Finding, Level
from edgefleet_agent.diagnostics.queue import queue
from edgefleet_agent.identity.store import CA_FILE, CERT_FILE, KEY_FILE, Identity, load_identity
from edgefleet_agent.identity.takeover import NEXT_FOLDER
from edgefleet_agent.identity.tpm_secret import passphrase
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.reporting.collector import disk_free_bytes, memory_available_bytes
from edgefleet_agent.reporting.device_facts import runtimes
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

REACH_S = 5.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def doctor(device: Device, settings: AgentSettings, clock: Clock) -> list[Finding]:
    """Return what was found, in the order in which things depend on each other."""
    try:
        identity = load_identity(device.paths.identity)
    except EdgefleetError as error:
        return [Finding("identity", Level.BAD, error.message, error.next_step or ""), *_local(device, settings)]
    now_s = clock.now().timestamp()
    server, server_s = _server(identity, device.paths.identity)
    return [
        findings.clock(now_s, _floor_s(device), server_s),
        findings.certificate(now_s, identity.cert_from_s, identity.cert_until_s),
        server,
        _broker(identity, device.paths.identity),
        *_local(device, settings),
        _agent(device),
    ]


def doctor_text(found: list[Finding]) -> str:
    """Return the findings as a table, then the next steps in full."""
    rows = [(f.check, f.level.value, f.what) for f in found]
    steps = [f"{f.check}: {f.what}\n  {f.next}" for f in found if f.next]
    bad = sum(f.level is Level.BAD for f in found)
    last = f"{bad} of {len(found)} checks are bad" if bad else f"nothing bad in {len(found)} checks"
    return "\n".join(
        [sheet(("check", "", "what was found"), rows), *(["", "next:"] if steps else []), *steps, "", last]
    )


def doctor_json(found: list[Finding]) -> dict[str, Any]:
    """Return the findings as plain data."""
    rows = [{"check": f.check, "level": f.level.value, "what": f.what, "next": f.next} for f in found]
    return {"ok": findings.is_well(found), "findings": rows}


def _local(device: Device, settings: AgentSettings) -> list[Finding]:
    installed = runtimes()
    needed, proved = _models(device)
    waiting = queue(device.paths.outbox)
    return [
        findings.runtimes(installed, importlib.util.find_spec("numpy") is not None, needed),
        findings.op_sets(proved, installed),
        findings.disk(disk_free_bytes(device.paths.root), settings.disk_reserve_bytes, _inodes(device.paths.root)),
        findings.memory(memory_available_bytes(), settings.memory_reserve_bytes),
        _cgroup(device),
        _permissions(device),
        findings.backlog(waiting["messages"], waiting["bytes"], settings.outbox_bytes, waiting["dropped"]),
    ]


def _models(device: Device) -> tuple[dict[str, str], dict[str, tuple[str, list[str]]]]:
    needed: dict[str, str] = {}
    proved: dict[str, tuple[str, list[str]]] = {}
    slots = Slots(device.paths.models)
    for name, record in device.records.items():
        info = slots.info(name, record.active.slot) if record.active is not None else None
        if info is None or record.active is None:
            continue
        needed[name] = info.runtime
        try:
            with (slots.folder(name, record.active.slot) / "bundle").open("rb") as file:
                manifest = open_bundle(file).manifest
        except (EdgefleetError, OSError):
            continue
        versions = [proof.version for proof in manifest.runtimes if proof.name == info.runtime]
        proved[name] = (info.runtime, versions)
    return needed, proved


def _server(identity: Identity, folder: Path) -> tuple[Finding, float | None]:
    import http.client
    from urllib.parse import urlsplit

    url = urlsplit(identity.url)
    step = "check that the server runs and that no firewall is between; models keep serving without it"
    try:
        context = ssl.create_default_context(cafile=str(folder / CA_FILE))
        connection = http.client.HTTPSConnection(url.hostname or "", url.port or 443, timeout=REACH_S, context=context)
        try:
            connection.request("GET", "/device/v1/healthz")
            response = connection.getresponse()
            response.read(4096)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        what = f"{identity.url} shows a certificate that the pinned CA did not sign, or the clock is wrong"
        return Finding(
            "server", Level.BAD, f"{what}: {error.verify_message}", "do not enrol again before you know why"
        ), None
    except (OSError, http.client.HTTPException) as error:
        return Finding("server", Level.WARN, f"{identity.url} does not answer: {error}", step), None
    date = response.getheader("Date")
    sent = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    if response.status != 200:
        return Finding("server", Level.WARN, f"{identity.url} answers with status {response.status}", step), sent
    return Finding("server", Level.OK, f"{identity.url} answers over {_PINNED}"), sent


_PINNED = "TLS with the pinned CA"


def _broker(identity: Identity, folder: Path) -> Finding:
    where = f"{identity.broker_host}:{identity.broker_port}"
    try:
        context = ssl.create_default_context(cafile=str(folder / CA_FILE))
        context.load_cert_chain(folder / CERT_FILE, folder / KEY_FILE, lambda: passphrase(folder))
        with (
            socket.create_connection((identity.broker_host, identity.broker_port), REACH_S) as plain,
            context.wrap_socket(plain, server_hostname=identity.broker_host) as secure,
        ):
            return Finding("broker", Level.OK, f"{where} accepts our certificate over {secure.version()}")
    except EdgefleetError as error:
        return Finding("broker", Level.BAD, error.message, error.next_step)
    except ssl.SSLError as error:
        step = "see `certificate` and `clock` above; a revoked device must enrol again"
        return Finding("broker", Level.BAD, f"{where} and this device do not trust each other: {error.reason}", step)
    except OSError as error:
        step = "check the address, the port and firewalls; reports wait in the queue until it answers"
        return Finding("broker", Level.BAD, f"{where} cannot be reached: {error.strerror or error}", step)


def _agent(device: Device) -> Finding:
    status = device.status
    if status is None:
        return findings.agent(False, [], [], "")
    wanted = [m for m in status["models"] if m["active_target"]]
    serving = [m["model"] for m in wanted if m["serving"]]
    silent = [m["model"] for m in wanted if not m["serving"]]
    return findings.agent(True, serving, silent, status["refused"]["code"])


def _floor_s(device: Device) -> int:
    try:
        desired = read_record(DesiredOk, device.paths.desired_ok)
    except (EdgefleetError, OSError):
        return 0
    return desired.issued_s if desired is not None else 0


def _inodes(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return -1
    return found.f_favail if found.f_files else -1


def _permissions(device: Device) -> Finding:
    paths = device.paths
    owner = paths.root.stat().st_uid
    private = [paths.identity / KEY_FILE, paths.identity / NEXT_FOLDER / KEY_FILE]
    known = [*private, paths.identity, paths.models, paths.run, paths.outbox.parent]
    there = [path for path in known if path.exists()]
    loose = [str(path) for path in private if path.exists() and path.stat().st_mode & 0o077]
    foreign = [str(path) for path in there if path.stat().st_uid != owner]
    unwritable = [str(paths.root)] if not os.access(paths.root, os.W_OK) or _is_read_only(paths.root) else []
    return findings.permissions(loose, foreign, unwritable)


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _cgroup(device: Device) -> Finding:
    pid = str(device.status["pid"]) if device.status is not None else "self"
    try:
        lines = Path("/proc", pid, "cgroup").read_text("ascii").splitlines()
    except OSError:
        return Finding("cgroup", Level.SKIPPED, "the group of the agent cannot be read")
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    folder = _CGROUP_ROOT / path.lstrip("/")
    try:
        controllers = (folder / "cgroup.controllers").read_text("ascii").split()
    except OSError:
        controllers = []
    is_ours = bool(path.strip("/")) and os.access(folder / "cgroup.subtree_control", os.W_OK)
    return findings.cgroup("memory" in controllers and is_ours, path)
