"""A control group for each conversion child: its memory and processes are bounded together, and all of it ends together.

1. Version 2 and version 1 of control groups, whatever is mounted and may be written: as root, or where systemd has delegated a subtree
   (`Delegate=`, `DelegateSubgroup=server` in `deploy/edge-server.service`).
2. The child enters its groups by itself, before it does anything else; what it starts is born there and cannot leave.
3. A group that the machine refuses is left out; `/readyz` names the layer `group` only where a child was found in one.
Source: Linux `admin-guide/cgroup-v2.rst`, `admin-guide/cgroup-v1/`.
"""

import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "edgefleet-job"
SUBGROUP: Final = "server"
"""Where systemd puts the server itself, so that groups with limits can lie next to it."""
_V1_LIMITS: Final = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}
_KILL_TRIES: Final = 100
_KILL_PAUSE_S: Final = 0.01
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy and the folder of this process in it. controller: "" for version 2."""

    own: Path
    controller: str


@dataclass(frozen=True, slots=True)
class JobGroup:
    """The folders of one child's groups; none where the machine refuses."""

    folders: tuple[Path, ...]

    def kill(self) -> None:
        """End every process in the groups, and remove the groups. Blocks until they are gone, at most a second."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        for _ in range(_KILL_TRIES):
            members = {pid for folder in self.folders for pid in _members(folder)}
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not members and all(_is_removed(folder) for folder in self.folders):
                return
            time.sleep(_KILL_PAUSE_S)
        _log.warning("a control group of a conversion child stays", extra={"folders": [str(f) for f in self.folders]})


def make_group(name: str, memory_bytes: int, processes: int) -> JobGroup:
    """Make a group in each hierarchy that lets us. name: begins with our process id. Writes files."""
    limits = {"memory": memory_bytes, "pids": processes}
    folders = []
    for hierarchy in hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()):
        parent = _parent(hierarchy)
        _remove_left(parent)
        folder = parent / f"{NAME}-{name}"
        try:
            folder.mkdir()
        except OSError:
            continue
        folders.append(folder)
        files = {"memory.max": memory_bytes, "pids.max": processes}
        if hierarchy.controller:
            files = {_V1_LIMITS[hierarchy.controller]: limits[hierarchy.controller]}
        for file, value in files.items():
            if (folder / file).exists():  # version 2 without that controller: the group still serves to end all of it
                with contextlib.suppress(OSError):
                    (folder / file).write_text(str(value))
    return JobGroup(tuple(folders))


def hierarchies(mounts: str, membership: str) -> list[Hierarchy]:
    """Return the hierarchies of version 2, and of version 1 with `memory` or `pids`. Texts of /proc/self/mountinfo and cgroup."""
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found = []
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = fields.split()[3:5]
        names = [""] if kind == "cgroup2" else [name for name in _V1_LIMITS if name in options.split(",")]
        if kind in ("cgroup", "cgroup2"):
            for name in names:
                path = own.get(name, "/")
                inside = os.path.relpath(path, root) if path.startswith(root) else "."
                found.append(Hierarchy(Path(point) / inside, name))
    return found


def _parent(hierarchy: Hierarchy) -> Path:
    """Return where a child's group is made: next to our own leaf where systemd made one for us, else below our own group."""
    if hierarchy.controller or hierarchy.own.name != SUBGROUP:
        return hierarchy.own
    parent = hierarchy.own.parent
    with contextlib.suppress(OSError):
        (parent / "cgroup.subtree_control").write_text("+memory +pids")
    return parent


def _remove_left(parent: Path) -> None:
    """Remove what a worker that was killed has left: its process id stands in the names."""
    for folder in parent.glob(f"{NAME}-*"):
        if not Path("/proc", folder.name.removeprefix(f"{NAME}-").partition("-")[0]).exists():
            _is_removed(folder)


def _members(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    return []


def _is_removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
