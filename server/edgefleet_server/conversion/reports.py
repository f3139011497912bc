"""Reports of conversions: taken from the child's folder, stored as blobs, shown as one document or page a release.

It joins jobs and blobs, and the registry is itself built on the jobs. The page is made by the converters'
own renderer in a child with the converter's limits: the server imports no converter, and a report's names come from models.
"""

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.conversion import rules
from edgefleet_server.conversion.confinement.privileges import child_id
from edgefleet_server.conversion.errors import ReportBrokenError, ReportUnavailableError, ReportUnknownError
from edgefleet_server.conversion.sandbox import launch_command
from edgefleet_server.registry.service import RegistryService
from edgefleet_terms.parent_verdict import NOT_COMPARED, ParentComparison, read_comparison

_log = logging.getLogger(__name__)
MAX_REPORT_BYTES: Final = 8 * 1024 * 1024
_MAX_STORED_BYTES: Final = 6 * MAX_REPORT_BYTES
"""Stored in ASCII, where a character takes at most six."""
READ_CHILDS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file of a child is opened: a link is not followed, and a pipe in its place does not hold the worker."""
_RENDER_S: Final = 30.0
_RENDERERS: Final = threading.BoundedSemaphore(2)
"""A page costs a process: without a bound, readers of a large report could take all threads and memory of the server."""
_QUEUE_S: Final = 5.0
_RENDER_LIMITS: Final = {"memory_bytes": 1024**3, "cpu_s": 20, "file_bytes": 0, "open_files": 64}


def read_report(out: Path, profile: str) -> dict[str, Any] | None:
    """Return the report that the child left in its folder; None when there is none that can be believed. Follows no link."""
    try:
        descriptor = os.open(out / "report.json", READ_CHILDS)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_REPORT_BYTES:
            return None
        try:
            document = json.loads(file.read(MAX_REPORT_BYTES), parse_constant=_refuse_constant)
            json.dumps(document, allow_nan=False)  # what is read must also be writable: 1e999 is read as infinity
        except (ValueError, RecursionError):
            return None
    return rules.trusted_report(document, profile)


def store_report(registry: RegistryService, document: dict[str, Any] | None) -> str:
    """Store a report as a blob and return its digest, "" for none."""
    return "" if document is None else str(registry.put_blob_bytes(json.dumps(document).encode()))


def load_report(registry: RegistryService, sha256: str) -> dict[str, Any] | None:
    """Return a stored report; None for no digest. Raises BlobUnknownError, BlobStoreError."""
    if not sha256:
        return None
    document: dict[str, Any] = json.loads(registry.read_blob(Sha256(sha256), _MAX_STORED_BYTES))
    return document


def comparison_of(registry: RegistryService, ref: ReleaseRef) -> ParentComparison:
    """Return how a release does next to its parent, `NOT_COMPARED` without a report. Raises ReleaseUnknownError, BlobStoreError."""
    try:
        report = report_of(registry, ref)
    except ReportUnknownError:
        return NOT_COMPARED
    return read_comparison(report.get("comparison"))


def report_of(registry: RegistryService, ref: ReleaseRef, attempt: int | None = None) -> dict[str, Any]:
    """Return the report of a release: one entry a profile that was converted or refused. attempt: of that one, not of the newest.

    Raises ReleaseUnknownError, ReportUnknownError, BlobStoreError.
    """
    release = registry.release(ref)
    jobs = release.jobs
    if attempt not in {None, release.attempt}:
        jobs = next((one.jobs for one in release.attempts if one.number == attempt), ())
    found = [document for job in jobs if (document := load_report(registry, job.report)) is not None]
    if not found:
        raise ReportUnknownError(
            f"there is no conversion report of {ref} ({release.state})",
            next_step=f"`edgectl release show {ref}` shows its progress and what was refused",
        )
    return rules.merged_report(ref, found)


def page_of(report: dict[str, Any]) -> bytes:
    """Return a report as an HTML page. Starts a process and waits for it. Raises ReportBrokenError, ReportUnavailableError."""
    if not _RENDERERS.acquire(timeout=_QUEUE_S):
        raise ReportUnavailableError(
            "too many report pages are being made at the same time",
            next_step="try again soon, or read the report as JSON",
        )
    try:
        return _page_of(report)
    finally:
        _RENDERERS.release()


def _page_of(report: dict[str, Any]) -> bytes:
    plan = {"limits": _RENDER_LIMITS, "read": [], "write": [], "uid": child_id("report")}
    command = launch_command(plan, [sys.executable, "-P", "-m", "edgefleet_converters.report_html"])
    try:
        done = subprocess.run(
            command, input=json.dumps(report).encode(), capture_output=True, timeout=_RENDER_S, check=False, cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError) as error:
        raise _broken(str(error)) from error
    if done.returncode != 0:
        raise _broken(done.stderr.decode("utf-8", "replace")[-300:])
    return done.stdout


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _broken(why: str) -> EdgefleetError:
    _log.warning("a conversion report cannot be shown as a page", extra={"why": why})
    return ReportBrokenError(
        "the stored report cannot be shown as a page", next_step="read it as JSON; the server's log has the cause"
    )
