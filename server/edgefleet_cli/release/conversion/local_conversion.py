"""Conversion on this machine: one child process `edgefleet_converters.job`, JSON in, JSON lines out.

It runs in the same sandbox as on a server: it reads its installation, the model and the data, writes the output folder and a
temporary folder, and has no network, as far as the kernel allows. So a model from somewhere does no harm here either. A metric of
the user's own (`pkg.mod:func`) is found in the working folder, which is open then.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgefleet_cli.core.api.bundle import Bundle
from edgefleet_cli.core.api.release import Refused
from edgefleet_cli.core.errors import EXIT_INTERRUPTED, CliError, UnreadableFileError
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.subprocesses import python_module, require
from edgefleet_cli.core.transport.reply import Document, Reply, struct_of
from edgefleet_cli.release.conversion.conversion_options import DATA_KINDS, ModelRequest
from edgefleet_cli.release.conversion.model_files import locate
from edgefleet_cli.release.conversion.search_interrupt import SearchInterrupt
from edgefleet_cli.release.conversion.tool_environments import tools_folder
from edgefleet_cli.render.output import Output
from edgefleet_cli.render.progress import Board, board

DEFAULT_PROFILES = ("generic-x86_64-ort", "generic-aarch64-ort")
_UNFINISHED = ("*.bundle.part", "report.json.part", "report.html.part")
_STOP_NAME = "end-search"
_LOG_LINES = 40
_MEMORY_BYTES = 8 * 1024**3
"""Address space of the converter, as a server gives it by default."""
_STOP_S = 5.0
_STOP_PAUSE_S = 0.02


class MadeBundle(Bundle, frozen=True):
    """A bundle that was made here. path: its file."""

    path: str = ""


class Conversion(Struct, frozen=True):
    """What a conversion came to."""

    bundles: tuple[dict[str, Any], ...] = ()
    refused: tuple[Refused, ...] = ()
    report_path: str = ""
    report_html_path: str = ""

    def made(self) -> tuple[MadeBundle, ...]:
        """Return the bundles; what only a server knows of one, such as when it was signed, is null in a conversion's result."""
        known = [{key: value for key, value in one.items() if value is not None} for one in self.bundles]
        return tuple(struct_of(one, MadeBundle) for one in known)


class _Message(Struct, frozen=True):
    """A line of the converter. message: also what an error says."""

    type: str = ""
    profile: str | None = None
    stage: str | None = None
    message: str | None = None
    pct: float | None = None
    reason: str | None = None
    code: str | None = None
    next: str | None = None
    why: str | None = None


class ConversionError(CliError):
    """The conversion ended without a result."""

    code = "cli.conversion"


class InterruptedConversionError(CliError):
    """The command was interrupted with Ctrl-C."""

    code = "cli.interrupted"
    exit_code = EXIT_INTERRUPTED

    def __init__(self, bundles: int, folder: Path) -> None:
        left = (
            f"{bundles} whole bundle{'s' if bundles != 1 else ''} in {folder} stay"
            if bundles
            else "nothing was written"
        )
        super().__init__(
            "the conversion was interrupted",
            why=f"Ctrl-C; the converter has ended, {left}",
            next_step="run the same command again; a conversion that was finished is not done twice",
        )


def convert_here(request: ModelRequest, folder: Path, out: Output) -> Reply[Conversion]:
    """Run the pipeline and return its result. Writes only into `folder`."""
    require("onnx", "convert")
    source = locate(request.model)
    is_ours = not folder.exists()
    tools = tools_folder()
    job = {
        "v": 1,
        "model": request.name,
        "version": request.version,
        "source": {"path": str(source.resolve())},
        "profiles": _profiles(request, out),
        "data": {kind: _absolute(request.data.get(kind)) for kind in DATA_KINDS},
        "options": {**request.options, "seed": 0, "explain": True},
        "out_dir": str(_writable(folder)),
        "tools_dir": str(tools),
    }
    try:
        with board(out) as rows, tempfile.TemporaryDirectory(prefix="ef-convert-") as scratch:
            return _run(job, rows, Path(scratch))
    finally:
        if is_ours:
            with contextlib.suppress(OSError):  # only while nothing was written there
                folder.rmdir()


def sandboxed(job: Document, scratch: Path) -> list[str]:
    """Return the command line of the converter in its sandbox. scratch: its temporary folder."""
    data = [path for path in job["data"].values() if path]
    plan = {
        "limits": {"memory_bytes": _MEMORY_BYTES},
        "read": [job["source"]["path"], *data],
        "write": [str(scratch), job["out_dir"]],
        "run": [job["tools_dir"]],
    }
    # Python puts the working folder on the module path, and with that among what the sandbox opens, unless a flag forbids it.
    flags = [] if ":" in (job["options"]["metric"] or "") else ["-P"]
    python, *job_module = python_module("edgefleet_converters.job")
    _, *launch_module = python_module("edgefleet_server.conversion.sandbox_entry", json.dumps(plan))
    return [python, *flags, *launch_module, python, *flags, *job_module]


def environment(scratch: Path) -> dict[str, str]:
    """Return the converter's environment: the user's, without what is edgectl's own. A pickle runs there, and a token stands in it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("EDGECTL_")}
    return {**own, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}


def _run(job: Document, rows: Board, scratch: Path) -> Reply[Conversion]:
    child = subprocess.Popen(
        sandboxed(job, scratch),
        start_new_session=True,  # Ctrl-C is ours to answer; the child would print a trace
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(scratch),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
    reader = threading.Thread(target=_drain, args=(child.stderr, log), daemon=True)
    reader.start()
    stop = Path(job["out_dir"]) / _STOP_NAME
    search = SearchInterrupt(stop.touch)
    try:
        with child.stdin as stdin:
            json.dump(job, stdin)
        with search.ended_by_ctrl_c():
            result = follow(child.stdout, rows, search)
        child.wait()
    except BrokenPipeError:
        result = None
        child.wait()
    except KeyboardInterrupt as error:
        _stop(child)
        raise InterruptedConversionError(remove_unfinished(Path(job["out_dir"])), Path(job["out_dir"])) from error
    finally:
        _stop(child)
        stop.unlink(missing_ok=True)
        reader.join(timeout=_STOP_S)
    if result is not None:
        return result
    raise ConversionError(
        "the conversion process ended without a result",
        why=(log[-1] if log else f"exit code {child.returncode}"),
        next_step="run again with a smaller model or --profile to find the cause; report it with the model if you can",
    )


def follow(lines: Iterator[str] | IO[str], rows: Board, search: SearchInterrupt) -> Reply[Conversion] | None:
    """Show the converter's lines and return its result, None where it gave none. Raises ConversionError."""
    is_imported = False
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if not isinstance(found, dict):
            continue
        message = struct_of(found, _Message)
        if message.type == "progress":
            if message.profile and not is_imported:
                rows.update("model", "imported", pct=100)
                is_imported = True
            search.heard(message.message or "")
            text = search.shown(message.message or "")
            rows.update(message.profile or "model", str(message.stage), text, message.pct)
        elif message.type == "bundle":
            rows.update(str(message.profile), "done", pct=100)
        elif message.type == "refused":
            rows.update(str(message.profile), "refused", message.reason or "", pct=100)
        elif message.type == "result":
            return Reply({key: value for key, value in found.items() if key != "type"}, Conversion)
        elif message.type == "error":
            raise ConversionError(
                str(message.message),
                why=message.why or "",
                next_step=message.next or "",
                foreign_code=str(message.code),
            )
    return None


def _profiles(request: ModelRequest, out: Output) -> list[dict[str, Any]]:
    from edgefleet_profiles import load
    from edgefleet_profiles.profile import profile_to_dict

    names = request.profiles
    if names is None:
        names = DEFAULT_PROFILES
        out.note(f"profiles: {', '.join(names)} (no --profile was given)")
    return [profile_to_dict(load(name)) for name in names] + list(request.profile_files)


def _absolute(file: Path | None) -> str | None:
    return None if file is None else str(file.resolve())


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot make the folder {folder}", why=error.strerror or str(error), next_step="give another --out"
        ) from error
    return folder.resolve()


def _drain(stream: IO[str], log: collections.deque[str]) -> None:
    for line in stream:
        if line.strip():
            log.append(line.strip())


def remove_unfinished(folder: Path) -> int:
    """Remove what a stopped conversion had begun to write, and return how many whole bundles lie there.

    The folder may be the user's own, with files of other programs that end in .part.
    """
    for name in _UNFINISHED:
        for part in folder.glob(name):
            part.unlink(missing_ok=True)
    return sum(1 for _ in folder.glob("*.bundle"))


def _stop(child: subprocess.Popen[str]) -> None:
    """End the converter and its steps if they still run, and wait until they are gone."""
    if child.poll() is None:
        child.kill()
        child.wait()
    # Each step asked the kernel to end it with its parent; what has left that chain is still in the session.
    tries = int(_STOP_S / _STOP_PAUSE_S)
    while tries and (members := list(_session_of(child.pid))):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        tries -= 1
        threading.Event().wait(_STOP_PAUSE_S)


def _session_of(leader: int) -> Iterator[int]:
    """Yield the living processes of a session, where the system has a /proc."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, _, session = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                yield int(entry.parent.name)
