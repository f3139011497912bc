"""`edge-agent diag`: one gzipped tar of at most MAX_BYTES with what one needs to understand a device from afar, and no secret.

1. Nothing of `identity/` is read but the plain fields of the record; keys, certificates' keys and tokens are never opened.
2. Everything goes through `redact`; the log gives way first when the whole would be too big.
3. The tar is deterministic apart from its content: no names of users, no times of this machine.
"""

import gzip
import io
import platform
import tarfile
from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent import __version__
from edgefleet_agent.core.durable import read_record
from edgefleet_agent.core.logs import tail
from edgefleet_agent.diagnostics.device import Device, as_json, look, plain
from edgefleet_agent.diagnostics.doctor import doctor, doctor_json
from edgefleet_agent.diagnostics.models import models
from edgefleet_agent.diagnostics.queue import queue
from edgefleet_agent.diagnostics.redact import redact, redact_value
from edgefleet_agent.errors import DiagTooBigError
from edgefleet_agent.identity.store import load_identity
from edgefleet_agent.install.records import DesiredOk, HoldOk
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.collector import SystemReader
from edgefleet_agent.reporting.device_facts import facts
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

MAX_BYTES = 1_000_000
_LOG_STEPS = (512 * 1024, 128 * 1024, 16 * 1024, 0)


def diag(state: Path, settings: AgentSettings, clock: Clock) -> bytes:
    """Return the archive. Blocks on network as `doctor` does. Raises OSError for a folder that may not be read."""
    device = look(state)
    members = {
        "about.json": {"agent_version": __version__, "made_at": clock.now().isoformat(), "system": platform.platform()},
        "facts.json": facts(),
        "status.json": device.status,
        "models.json": models(device),
        "records.json": {name: plain(record) for name, record in device.records.items()},
        "documents.json": _documents(device),
        "queue.json": queue(device.paths.outbox),
        "settings.json": msgspec.to_builtins(settings),
        "system.json": msgspec.structs.asdict(
            SystemReader(state).read((device.status or {}).get("workers", {}).values())
        ),
        "doctor.json": doctor_json(doctor(device, settings, clock)),
        "files.json": _files(state),
    }
    texts = {name: as_json(redact_value(value)) for name, value in members.items()}
    for log_bytes in _LOG_STEPS:
        log = "\n".join(logs(state, lines=0, max_bytes=log_bytes)["lines"]) if log_bytes else "left out: no room\n"
        packed = _pack({**texts, "agent.log": redact(log)})
        if len(packed) <= MAX_BYTES:
            return packed
    raise DiagTooBigError(f"the records alone are {len(packed)} bytes packed; at most {MAX_BYTES} are allowed")


def contents(archive: bytes) -> dict[str, int]:
    """Return the members of an archive and their sizes in bytes."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name: member.size for member in tar.getmembers()}


def _documents(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, read in (
        ("identity", lambda: load_identity(device.paths.identity)),
        ("desired", lambda: read_record(DesiredOk, device.paths.desired_ok)),
        ("hold", lambda: read_record(HoldOk, device.paths.hold_ok)),
    ):
        try:
            record = read()
        except (EdgefleetError, OSError) as error:
            found[name] = {"unreadable": str(error)}
            continue
        found[name] = plain(record) if record is not None else None
    return found


def _files(state: Path) -> list[dict[str, Any]]:
    """Return name, size and mode of every file of the state folder: what is there, never what is in it."""
    rows = []
    for path in sorted(state.rglob("*"))[:2000]:
        try:
            found = path.lstat()
        except OSError:
            continue
        rows.append(
            {"name": str(path.relative_to(state)), "bytes": found.st_size, "mode": f"{found.st_mode & 0o7777:o}"}
        )
    return rows


def _pack(members: dict[str, str]) -> bytes:
    plain_tar = io.BytesIO()
    with tarfile.open(fileobj=plain_tar, mode="w") as tar:
        for name, text in members.items():
            data = text.encode("utf-8", "backslashreplace")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(plain_tar.getvalue(), 6, mtime=0)


MAX_BYTES = 256 * 1024


def logs(state: Path, *, lines: int, contains: str = "", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return `{"lines": [...], "left_out": n}`: the newest, oldest first, those with a text only. Raises OSError."""
    # redacted as one text: a private key goes over several lines
    found = redact("\n".join(tail(StatePaths(state).log, max_bytes))).splitlines()
    matching = [line for line in found if contains in line]
    kept = matching[-lines:] if lines else matching
    return {"lines": kept, "left_out": len(matching) - len(kept)}


def logs_text(found: dict[str, Any]) -> str:
    """Return the lines as they are."""
    return "\n".join(found["lines"]) or "no line yet: this agent has not run since it keeps its log on the disk"
