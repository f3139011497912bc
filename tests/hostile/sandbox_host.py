"""A stand-in for the conversion worker: runs the escape attempts as its conversion child and prints what they came to.

    python tests/hostile/sandbox_host.py FOLDER MARKER NAMESPACES       NAMESPACES: "1", or "0" for a machine that allows none

It holds what a server holds: a closed key file, listening sockets, a secret in its environment, a token in its command line.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from edgefleet_server.clock import SystemClock
from edgefleet_server.conversion.confinement.job_group import JobGroup
from edgefleet_server.conversion.model import SandboxLimits
from edgefleet_server.conversion.sandbox import JOB_FOLDERS, Child

PROCESSES = 40
LIMITS = SandboxLimits(
    memory_bytes=2 << 30, file_bytes=1 << 20, output_bytes=1 << 20, wall_s=60, cpu_s=30, processes=PROCESSES
)


class ChildWithoutNamespaces(Child):
    """The child of a machine whose kernel allows no namespaces."""

    def _plan(self, group: JobGroup) -> dict[str, Any]:
        return {**super()._plan(group), "namespaces": False}


def main(folder: Path, marker: str, kind: type[Child]) -> None:
    """Run one child and print what it found, and what was left of it."""
    data = folder / "data"
    job = data / "run" / "jobs" / "1"
    for name in JOB_FOLDERS:
        (job / name).mkdir(parents=True)
    data.chmod(0o700)
    key = data / "keys" / "releases.pem"
    key.parent.mkdir(mode=0o700)
    key.write_text("secret")
    key.chmod(0o600)
    listener, datagrams, tcp, abstract = (
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_UNIX),
    )
    listener.bind(str(folder / "infer.sock"))
    listener.listen()
    datagrams.bind(str(folder / "log.sock"))
    abstract.bind("\0" + marker)
    abstract.listen()
    for path in (folder / "infer.sock", folder / "log.sock"):
        path.chmod(0o666)
    request = {
        "file": str(key), "socket": str(folder / "infer.sock"), "datagrams": str(folder / "log.sock"), "marker": marker,
        "tcp": tcp.getsockname()[1], "pid": os.getpid(), "forks": PROCESSES * 2, "left": f"left-{marker[::-1]}",
    }  # fmt: skip
    seen: list[dict[str, Any]] = []
    script = str(Path(__file__).with_name("escape_attempts.py"))
    child = kind([sys.executable, "-P", script], job, LIMITS, SystemClock(), top=data)
    child.run(request, lambda line: seen.append(dict(line)), lambda: False)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if request["left"].encode() in _text(path)]
    facts = key.stat()
    found = seen[0]["found"] | {"left": len(left), "mode": facts.st_mode & 0o777, "owner": facts.st_uid == os.getuid()}
    sys.stdout.write(json.dumps(found | {"host_uid": os.getuid()}))


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Child if sys.argv[3] == "1" else ChildWithoutNamespaces)
