"""Makes this process give way to everything else: a shadow must cost the device only what nobody wants.

1. nice 19 and SCHED_IDLE: the kernel runs it only where a core would idle, and any waking thread takes its place at once.
2. oom_score_adj 900: when memory runs out, it goes first.
3. `cpu.weight` 10 and `io.weight` 10 in a cgroup of its own where systemd delegated one (`Delegate=yes`) and its controllers are on.
Each of them is tried alone; what the system refuses is logged and left.
"""

import contextlib
import logging
import os
from pathlib import Path

NICE = 19
OOM_SCORE_ADJ = 900
WEIGHT = 10
CGROUPS = Path("/sys/fs/cgroup")

_log = logging.getLogger(__name__)


def give_way(name: str) -> None:
    """Lower this process. name: of the cgroup, unique on the device."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as error:
        _log.warning("priority cannot be lowered: %s", error)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ), "ascii")
    except OSError as error:
        _log.info("oom_score_adj cannot be raised: %s", error)
    own = own_cgroup(Path("/proc/self/cgroup"), CGROUPS)
    if own is not None:
        join_lighter(own.parent, name)


def own_cgroup(membership: Path, root: Path) -> Path | None:
    """Return the folder of this process's cgroup (version 2), None where there is none."""
    try:
        lines = membership.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    folder = root / path.lstrip("/")
    return folder if path not in ("", "/") and folder.is_dir() else None


def join_lighter(parent: Path, name: str) -> bool:
    """Make `name` under a delegated cgroup with a low weight and move there. False where that is not allowed or not possible."""
    try:
        controllers = (parent / "cgroup.subtree_control").read_text("ascii").split()
        if "cpu" not in controllers or not os.access(parent, os.W_OK):
            return False
        folder = parent / name
        folder.mkdir(exist_ok=True)
        (folder / "cpu.weight").write_text(str(WEIGHT), "ascii")
        if "io" in controllers:
            (folder / "io.weight").write_text(str(WEIGHT), "ascii")
        (folder / "cgroup.procs").write_text("0", "ascii")
    except (OSError, UnicodeDecodeError) as error:
        _log.info("no cgroup of its own: %s", error)
        return False
    return True
