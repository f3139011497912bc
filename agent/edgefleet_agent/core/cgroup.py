"""A memory limit for each worker by cgroup v2, where systemd has delegated a subtree to the agent (`Delegate=yes`).

1. The agent's own processes move into the leaf `agentd` first: a group with controllers for its children may hold no process itself
   (Linux, admin-guide/cgroup-v2, "No Internal Process Constraint").
2. A worker is moved into its own leaf before it learns what to load, so that all it ever takes is counted.
3. Whatever cannot be done leaves the device as it was: the caller then limits the process by `RLIMIT_DATA`.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_LEAF = "agentd"

log = logging.getLogger(__name__)


class Cgroups:
    """The delegated subtree. `root` is the agent's own group."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, pid: int, name: str, memory_bytes: int) -> bool:
        """Move a process into a leaf of its own with that limit; False when the kernel does not take it. Writes files."""
        leaf = self.root / name
        try:
            leaf.mkdir(exist_ok=True)
            (leaf / "memory.max").write_text(str(memory_bytes))
            with suppress(OSError):  # without it a device with swap would swap instead of refusing
                (leaf / "memory.swap.max").write_text("0")
            (leaf / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            log.warning("worker not limited by cgroup", extra={"cgroup": str(leaf), "reason": str(error)})
            return False
        return True

    def was_killed_for_memory(self, name: str) -> bool:
        """Whether the kernel has ended a process of that leaf because of its limit."""
        with suppress(OSError, ValueError):
            for line in (self.root / name / "memory.events").read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill":
                    return int(count) > 0
        return False

    def release(self, name: str) -> None:
        """Remove an empty leaf."""
        with suppress(OSError):
            (self.root / name).rmdir()


def delegated(mount: Path = MOUNT, own: Path = OWN) -> Cgroups | None:
    """Return the agent's subtree with the memory controller on for its children, None when there is none. Moves this process."""
    try:
        entry = next(line for line in own.read_text().splitlines() if line.startswith("0::"))
        root = mount / entry.removeprefix("0::").strip("/")
        if root == mount or "memory" not in (root / "cgroup.controllers").read_text().split():
            return None
        if root.name == _LEAF:
            root = root.parent  # started again inside the unit
        (root / _LEAF).mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text().split():
            (root / _LEAF / "cgroup.procs").write_text(pid)
        (root / "cgroup.subtree_control").write_text("+memory")
    except (OSError, StopIteration) as error:
        log.debug("no delegated cgroup", extra={"reason": str(error)})
        return None
    log.info("workers are limited by cgroup", extra={"cgroup": str(root), "pid": os.getpid()})
    return Cgroups(root)
