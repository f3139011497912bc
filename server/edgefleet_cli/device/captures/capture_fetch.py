"""`edgectl device capture`: ask, wait for the device, take the records, open them."""

from __future__ import annotations

from pathlib import Path

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError, WaitTimeoutError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.render.format import moment, size, text
from edgefleet_cli.render.output import Column, Sheet

POLL_S = 0.5

CAPTURES: Sheet[api.capture.Capture] = Sheet(
    "captured records",
    [
        Column("id", lambda c: text(c.id), keep=True),
        Column("model", lambda c: text(c.model)),
        Column("reason", lambda c: text(c.reason)),
        Column("class", lambda c: text(None if c.label == -1 else c.label), right=True),
        Column("stands for", lambda c: text(c.seen), right=True),
        Column("taken", lambda c: moment(c.taken_at)),
        Column("size", lambda c: size(c.bytes), right=True),
        Column("trace", lambda c: text(c.trace_id)),
        Column("key", lambda c: text(c.key), wide=True),
    ],
    lambda c: text(c.id),
)


def fetch_records(
    session: Session,
    device_id: str,
    *,
    wanted: api.capture.CaptureFetchIn,
    fetch_id: str | None,
    out: Path | None,
    key: Path | None,
    wait_s: float,
) -> None:
    """Fetch, save and show the records of one device. Raises WaitTimeoutError when the device does not answer in time."""
    from edgefleet_cli.device.captures.capture_files import read_key, save

    if key is not None and out is None:
        raise UsageError("--key needs --out", why="opened records are files", next_step="give a folder with --out")
    private_key = read_key(key) if key is not None else None  # a wrong file is refused before the device is asked
    base = f"/devices/{part(device_id)}"
    if fetch_id is None:
        fetch_id = session.api.post(f"{base}/captures:fetch", wanted, api.capture.CaptureFetch).value.id
    fetch = _waited(session, f"{base}/captures:fetch/{part(fetch_id)}", wait_s)
    page = session.api.pages(f"{base}/captures", api.capture.Capture, fetch=fetch.id)
    files: list[Path] = []
    for entry in page if out is not None else ():
        record = session.api.get(f"{base}/captures/{part(entry.id)}", api.capture.SealedCapture)
        assert out is not None
        files += save(record, out, private_key)
    session.out.items(page, CAPTURES)
    if out is not None:
        session.out.note(f"wrote {len(files)} files to {out}")
        if files and private_key is None:
            session.out.note(f"they are sealed; open them with `edgectl capture-key open {out} --key FILE`")


def _waited(session: Session, path: str, wait_s: float) -> api.capture.CaptureFetch:
    """Return the fetch when it is done. Raises WaitTimeoutError."""
    until_s = session.clock.monotonic_s() + wait_s
    retry = ServerRetry(session.out.note, session.clock)
    fetch: api.capture.CaptureFetch | None = None
    while True:
        fetch = retry.ask(lambda: session.api.get(path, api.capture.CaptureFetch).value, until_s=until_s) or fetch
        if fetch is not None and fetch.state == "done":
            return fetch
        if session.clock.monotonic_s() >= until_s or (fetch is not None and fetch.state == "expired"):
            name = fetch.id if fetch is not None else path.rpartition("/")[2]
            raise WaitTimeoutError(
                f"the device has not sent its records yet (fetch {name})",
                why="it is offline, or its day's bytes are used up; it sends them when it can, within a day",
                next_step=f"fetch them later: edgectl device capture DEVICE --fetch {name}",
            )
        session.clock.sleep(POLL_S)
