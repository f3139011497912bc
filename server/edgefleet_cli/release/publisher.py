"""Publishing: upload by digest, ask for the release, follow its conversion. Used by `publish` and by the demo."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from edgefleet_cli.core.api.release import (
    ConverterTools,
    DataIn,
    Job,
    OptionsIn,
    Release,
    ReleaseIn,
    SourceFileIn,
    SourceIn,
)
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import ApiError, WaitTimeoutError
from edgefleet_cli.core.structs import UNSET, convert
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.release.conversion.conversion_options import DATA_KINDS, ModelRequest
from edgefleet_cli.release.conversion.model_files import Source, SourceFile, describe, locate, read_source
from edgefleet_cli.release.conversion.search_interrupt import SearchInterrupt
from edgefleet_cli.release.conversion.tool_environments import TOOL_OF, refuse_unreadable, suffix_of
from edgefleet_cli.release.render import is_over
from edgefleet_cli.render.format import duration
from edgefleet_cli.render.output import Output
from edgefleet_cli.render.progress import board, upload_bar

DEFAULT_WAIT_S = 1800.0
_POLL_S = 0.3


@dataclass(frozen=True)
class Publisher:
    """Publishes models at one server; progress goes to `out`'s stderr."""

    api: ApiClient
    out: Output
    clock: SystemClock

    def publish(self, request: ModelRequest) -> Reply[Release]:
        """Upload what the server lacks and ask for the release; return it as it stands, often still converting.

        Raises UsageError before the upload when the server has no tool that reads the source.
        """
        self._check_tools(locate(request.model))
        source = read_source(request.model)
        data = {kind: describe(file, file.name) for kind in DATA_KINDS if (file := request.data.get(kind)) is not None}
        self.upload([*source.files, *data.values()])
        return self.api.post("/releases", _body(request, source, data), Release)

    def _check_tools(self, source: Path) -> None:
        if suffix_of(source) not in TOOL_OF:
            return
        try:
            tools = self.api.get("/tools", ConverterTools).value
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # an older server tells it after the upload
                raise
            return
        refuse_unreadable(source, tools)

    def upload(self, files: list[SourceFile]) -> None:
        """Upload each file whose digest the server does not hold yet."""
        missing = {file.sha256: file for file in files}
        missing = {sha256: file for sha256, file in missing.items() if not self.api.has_blob(sha256)}
        with upload_bar(self.out, len(missing), sum(file.length for file in missing.values())) as advance:
            for sha256, file in missing.items():
                self.api.put_blob(sha256, file.file, file.length, advance)

    def follow(self, release: Reply[Release], *, wait_s: float = DEFAULT_WAIT_S) -> Reply[Release]:
        """Show the conversion until it is over and return the release. Raises WaitTimeoutError after `wait_s`.

        Ctrl-C ends the search once a candidate has passed, and the next one the command.
        """
        ref = release.value.ref
        deadline_s = self.clock.monotonic_s() + wait_s
        search, is_sent = SearchInterrupt(), False
        with board(self.out) as rows, search.ended_by_ctrl_c():
            while not is_over(release.value):
                if search.is_asked and not is_sent:
                    is_sent = True
                    release = self.api.post(f"/releases/{part(ref)}:end-search", NOTHING, Release)
                for job in release.value.jobs:
                    is_running = job.state == "running"
                    stage = (is_running and job.stage) or job.state
                    message = job.message or "" if is_running else _queue_place(job)
                    search.heard(message)
                    rows.update(job.profile or ref, stage, search.shown(message), job.pct if is_running else None)
                if self.clock.monotonic_s() > deadline_s:
                    raise WaitTimeoutError(
                        f"{ref} is still converting after {wait_s:g} s",
                        why="--timeout is over; the server continues converting",
                        next_step=f"follow it with `edgectl release show {ref}`",
                    )
                self.clock.sleep(_POLL_S)
                release = self.api.get(f"/releases/{part(ref)}", Release)
        return release


def _queue_place(job: Job) -> str:
    """Return where a waiting job stands, and when it is likely to begin."""
    if job.position is None:
        return ""
    place = f"number {job.position} in the queue"
    if job.starts_in_s is None:
        return place
    return f"{place}, begins " + ("at any moment" if job.starts_in_s < 1 else f"in about {duration(job.starts_in_s)}")


def _body(request: ModelRequest, source: Source, data: dict[str, SourceFile]) -> ReleaseIn:
    files = tuple(SourceFileIn(path=file.path, sha256=file.sha256, length=file.length) for file in source.files)
    return ReleaseIn(
        model=request.name,
        version=request.version,
        source=SourceIn(files=files, kind=source.kind),
        profiles=request.profiles,
        data=DataIn(**{kind: data[kind].sha256 if kind in data else None for kind in DATA_KINDS}),
        options=convert(request.options, OptionsIn),
        lineage=request.lineage or UNSET,
        profile_files=request.profile_files or UNSET,
    )
