"""What `edge-agent doctor` makes of what it saw: facts in, findings out. Pure.

1. BAD: something does not work, or soon will not; exit 1. WARN: it works with less room than it should. OK: listed too, so that one
   sees what was looked at. SKIPPED: it could not be looked at, with the reason; no evidence is never OK.
2. Each finding that is not OK says what to do next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

DAY_S = 86_400
CLOCK_BAD_S = 300.0
CLOCK_WARN_S = 10.0
MIB = 1024 * 1024


class Level(StrEnum):
    """How bad. Public: never renamed."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. next: what to do; "" when nothing."""

    check: str
    level: Level
    what: str
    next: str = ""


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(finding.level is not Level.BAD for finding in findings)


def clock(now_s: float, floor_s: int, server_s: float | None) -> Finding:
    """Judge the clock. floor_s: a time that is surely over (the newest signed document). server_s: the server's, None = unknown."""
    if now_s < floor_s - CLOCK_BAD_S:
        what = f"the clock is {(floor_s - now_s) / 3600:.1f} h behind the newest signed document"
        return Finding("clock", Level.BAD, what, "set it: `timedatectl set-ntp true`; nothing is installed until then")
    if server_s is None:
        return Finding("clock", Level.SKIPPED, "not behind the newest document; the server's time is not known")
    off_s = abs(now_s - server_s)
    what = f"{off_s:.0f} s apart from the server's"
    if off_s > CLOCK_BAD_S:
        return Finding(
            "clock", Level.BAD, what, "set it: `timedatectl set-ntp true`; certificates and tokens depend on it"
        )
    if off_s > CLOCK_WARN_S:
        return Finding("clock", Level.WARN, what, "let NTP run: `timedatectl set-ntp true`")
    return Finding("clock", Level.OK, what)


def certificate(now_s: float, from_s: int, until_s: int) -> Finding:
    """Judge the age of the device's certificate; 0 = its life is not known yet. The agent renews it at two thirds."""
    if not until_s:
        return Finding("certificate", Level.SKIPPED, "its life is not noted yet", "`edge-agent renew` notes it")
    left_s = until_s - now_s
    if left_s <= 0:
        what = f"expired {-left_s / DAY_S:.0f} days ago"
        return Finding("certificate", Level.BAD, what, "enrol this device again with a claim token; its models stay")
    what = f"valid for {left_s / DAY_S:.0f} more days"
    if now_s > from_s + (until_s - from_s) * 5 // 6:
        return Finding("certificate", Level.WARN, f"{what}, and its renewal is overdue", "`edge-agent renew` says why")
    return Finding("certificate", Level.OK, what)


def disk(free_bytes: int, reserve_bytes: int, free_inodes: int) -> Finding:
    """Judge the room on the disk of the state folder."""
    if free_bytes < 0:
        return Finding("disk", Level.SKIPPED, "the free space cannot be read")
    what = f"{free_bytes // MIB} MiB free"
    step = "free some space: a new model needs its own size and the reserve (disk_reserve_bytes)"
    if free_bytes < reserve_bytes:
        return Finding("disk", Level.BAD, f"{what}, less than the reserve of {reserve_bytes // MIB} MiB", step)
    if 0 <= free_inodes < 100:
        return Finding(
            "disk", Level.BAD, f"{what}, but only {free_inodes} files can still be made", "remove small files"
        )
    if free_bytes < 4 * reserve_bytes:
        return Finding("disk", Level.WARN, what, step)
    return Finding("disk", Level.OK, what)


def memory(available_bytes: int, reserve_bytes: int) -> Finding:
    """Judge what memory is available."""
    if available_bytes < 0:
        return Finding("memory", Level.SKIPPED, "the available memory cannot be read")
    what = f"{available_bytes // MIB} MiB available"
    if available_bytes < reserve_bytes:
        step = "stop something else, or give the workers less (worker_memory_bytes): a new model is not tried"
        return Finding("memory", Level.BAD, f"{what}, less than the reserve of {reserve_bytes // MIB} MiB", step)
    return Finding("memory", Level.OK, what)


def permissions(loose: Sequence[str], foreign: Sequence[str], unwritable: Sequence[str]) -> Finding:
    """Judge the files of the state folder: readable by others, owned by others, not writable by the agent."""
    if foreign:
        return Finding(
            "permissions", Level.BAD, f"{foreign[0]} belongs to another user", "chown it to the agent's user"
        )
    if unwritable:
        step = "mount it writable, or give the folder to the agent's user; what serves goes on, nothing is installed"
        return Finding("permissions", Level.BAD, f"{unwritable[0]} cannot be written", step)
    if loose:
        return Finding("permissions", Level.BAD, f"{loose[0]} can be read by others", f"chmod go-rwx {loose[0]}")
    return Finding("permissions", Level.OK, "state folder and keys belong to the agent alone")


def cgroup(memory_is_delegated: bool, path: str) -> Finding:
    """Judge whether workers can be limited by the kernel's groups."""
    if memory_is_delegated:
        return Finding("cgroup", Level.OK, f"the memory controller is delegated at {path}")
    what = "not delegated: worker_memory_bytes is kept by RLIMIT_DATA instead"
    return Finding(
        "cgroup", Level.WARN, what, "with systemd, `Delegate=yes` in edge-agent.service (the packaged unit has it)"
    )


def runtimes(installed: Mapping[str, str], has_numpy: bool, needed: Mapping[str, str]) -> Finding:
    """Judge the inference runtimes. installed: word → version. needed: model → word of what its slot holds."""
    missing = {model: word for model, word in needed.items() if word not in installed}
    if missing:
        model, word = next(iter(missing.items()))
        extra = {"ort": "onnx"}.get(word, word)
        step = f"pip install 'edgefleet-agent[{extra}]' into the agent's environment"
        return Finding("runtimes", Level.BAD, f"{model} needs {word}, which is not installed", step)
    if not installed:
        step = "pip install 'edgefleet-agent[onnx]' (or litert, tflite); on 32-bit ARM see docs/operate/arm.md"
        return Finding("runtimes", Level.BAD, "no inference runtime is installed", step)
    if not has_numpy:
        return Finding(
            "runtimes", Level.BAD, "numpy is missing: no worker starts", "pip install 'edgefleet-agent[infer]'"
        )
    return Finding("runtimes", Level.OK, ", ".join(f"{word} {version}" for word, version in sorted(installed.items())))


def op_sets(models: Mapping[str, tuple[str, Sequence[str]]], installed: Mapping[str, str]) -> Finding:
    """Judge whether the installed runtimes are those that the bundles were proved on. models: model → (word, proved versions)."""
    other = [
        f"{model} was proved on {word} {', '.join(proved)}; {installed[word]} is installed"
        for model, (word, proved) in sorted(models.items())
        if word in installed and proved and installed[word] not in proved
    ]
    if other:
        step = "the golden vectors decide: `edge-agent self-test`; publish again for this version to be sure"
        return Finding(
            "op sets", Level.WARN, other[0] + (f", and {len(other) - 1} more" if len(other) > 1 else ""), step
        )
    if not models:
        return Finding("op sets", Level.SKIPPED, "no model is on this device yet")
    return Finding("op sets", Level.OK, "every model runs in a runtime version it was validated on")


def backlog(messages: int, used_bytes: int, cap_bytes: int, dropped: int) -> Finding:
    """Judge what waits for the server."""
    what = f"{messages} messages, {used_bytes // 1024} KiB of {cap_bytes // MIB} MiB wait" + (
        f"; {dropped} dropped" if dropped else ""
    )
    if used_bytes > cap_bytes * 3 // 4:
        return Finding(
            "queue", Level.WARN, what, "see whether the server is reached; the oldest telemetry is merged first"
        )
    return Finding("queue", Level.OK, what)


def agent(running: bool, serving: Sequence[str], not_serving: Sequence[str], refused: str) -> Finding:
    """Judge the running agent."""
    if not running:
        return Finding(
            "agent", Level.BAD, "no agent runs on this folder", "`edge-agent run`, or `systemctl start edge-agent`"
        )
    if not_serving:
        return Finding(
            "agent", Level.BAD, f"{not_serving[0]} does not serve", "`edge-agent logs`, then `edge-agent models`"
        )
    if refused:
        return Finding("agent", Level.WARN, f"the newest document was refused: {refused}", "`edge-agent logs` says why")
    return Finding("agent", Level.OK, f"runs; serving: {', '.join(serving) or 'nothing yet'}")
