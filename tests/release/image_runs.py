"""The soak `images`: images are built twice, then really run: a server until it is well, and an agent that enrols at it and connects.

Every container has a read-only root, no capability and no way to more. `entered` says how: by podman and crun, or, where the machine
cannot run a container, by chroot. Where crun refuses a machine for its second, hybrid hierarchy of cgroups, that mount is hidden from
podman in a mount namespace of its own; the machine keeps it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.house.tree import ROOT
from tests.release.images import BASE, MAX_COMPRESSED_MB, Storage, build, made_base, measured, storage

LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--network", "host", "--health-interval", "disable"),
)
HYBRID = Path("/sys/fs/cgroup/unified")
WAIT_S = 180.0


def podman(lent: Storage, *arguments: str | Path, check: bool = True) -> str:
    """Run podman and return what it prints."""
    command = lent.command("podman", *arguments)
    if HYBRID.is_dir():
        command = [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            f'umount {HYBRID}; exec "$@"',
            "sh",
            *command,
        ]
    environment = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def can_run(lent: Storage, tag: str) -> bool:
    """Say whether a container runs on this machine."""
    try:
        podman(lent, "run", "--rm", *LOCKED_DOWN, tag, "--version")
    except RuntimeError as error:
        sys.stderr.write(f"images: no container runs here, so the file systems are entered by chroot: {error}\n")
        return False
    return True


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_until_well(lent: Storage, container: str, kind: str) -> str:
    """Wait until the health check of an image passes; return its answer. Raises RuntimeError with the log when it does not."""
    end_s = time.monotonic() + WAIT_S
    said = ""
    while time.monotonic() < end_s:
        said = podman(lent, "exec", container, "edgefleet-probe", kind, check=False)
        if said == "ok":
            return said
        time.sleep(1.0)
    raise RuntimeError(f"{container} is not well: {said}\n{podman(lent, 'logs', container, check=False)}")


@contextmanager
def server(lent: Storage, tag: str, data: Path) -> Iterator[int]:
    """Run a server that makes its data folder itself; lend the port of its API."""
    ports = {name: free_port() for name in ("API", "DEVICE", "BROKER")}
    settings = {f"EDGEFLEET_SERVER_{name}_PORT": str(port) for name, port in ports.items()}
    settings |= {f"EDGEFLEET_SERVER_{name}_HOST": "127.0.0.1" for name in (*ports, "PUBLIC")}
    given = [
        part for name, value in {**settings, "EDGEFLEET_SERVER_INIT": "1"}.items() for part in ("-e", f"{name}={value}")
    ]
    podman(lent, "run", "-d", "--name", "server", *LOCKED_DOWN, *given, "-v", f"{data}:/var/lib/edgefleet-server", tag)
    try:
        wait_until_well(lent, "server", "server")
        yield ports["API"]
    finally:
        podman(lent, "stop", "-t", "20", "server", check=False)
        podman(lent, "rm", "-f", "server", check=False)


def story(lent: Storage, server_tag: str, agent_tag: str, folder: Path) -> dict[str, Any]:
    """Run both; return what was seen."""
    data, state = folder / "data", folder / "state"
    for made in (data, state):
        made.mkdir(mode=0o700)
        os.chown(made, 10001, 0)
    with server(lent, server_tag, data) as port:
        token = (data / "admin.token").read_text().strip()
        program = Path(sys.executable).with_name("edgectl")
        here = {
            **os.environ,
            "EDGECTL_CONFIG": str(folder / "contexts"),
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        url = f"http://127.0.0.1:{port}"
        subprocess.run(
            [program, "login", url, "--token-stdin"], input=token, text=True, check=True, env=here, stdout=sys.stderr
        )
        tokens = subprocess.run(
            [program, "device", "enroll", "-o", "json"], text=True, check=True, env=here, capture_output=True
        )
        claim = folder / "claim"
        claim.write_text(re.findall(r"efc1\.[\w.-]+", tokens.stdout)[0])
        claim.chmod(0o644)
        secret = (
            "-v",
            f"{claim}:/run/claim:ro",
            "-e",
            "EDGEFLEET_AGENT_CLAIM_FILE=/run/claim",
            "-e",
            "EDGEFLEET_AGENT_INFER_PORT=0",
        )
        podman(
            lent,
            "run",
            "-d",
            "--name",
            "agent",
            *LOCKED_DOWN,
            *secret,
            "-v",
            f"{state}:/var/lib/edgefleet-agent",
            agent_tag,
        )
        try:
            wait_until_well(lent, "agent", "agent")
            status = podman(lent, "exec", "agent", "edge-agent", "status")
            uid = podman(lent, "exec", "agent", "python3", "-c", "import os; print(os.getuid())")
            devices = subprocess.run(
                [program, "device", "list", "-o", "json"], text=True, check=True, env=here, capture_output=True
            )
        finally:
            podman(lent, "stop", "-t", "20", "agent", check=False)
            podman(lent, "rm", "-f", "agent", check=False)
    return {"uid": int(uid), "devices": len(json.loads(devices.stdout)["items"]), "status": status.splitlines()[0]}


def by_chroot(lent: Storage, tag: str, program: str) -> str:
    """Enter the file system of an image by chroot and return the version that its program says."""
    container = lent.run("buildah", "from", "--pull=never", f"localhost/{tag}").splitlines()[-1]
    root = lent.run("buildah", "mount", container).splitlines()[-1]
    command = ["chroot", "--userspec=10001:0", root, "/usr/bin/python3", f"/usr/local/bin/{program}", "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Build n times twice, and run. seed: nothing is drawn."""
    del seed
    report: dict[str, Any] = {"images": [], "same_digest": True}
    for _ in range(n):
        with storage() as lent:
            lent.run("podman", "import", "-q", made_base(), BASE)
            tags = {}
            for name in ("agent", "server"):
                sys.stderr.write(f"images: building {name}, twice\n")
                tags[name] = build(lent, ROOT, name, "amd64")
                first = measured(lent, name, tags[name], "amd64")
                build(lent, ROOT, name, "amd64", layers=False)
                second = measured(lent, name, tags[name], "amd64")
                report["same_digest"] &= first.digest == second.digest
                report["images"].append(
                    {"name": name, "compressed_mb": first.compressed_mb, "unpacked_mb": first.unpacked_mb}
                )
            if can_run(lent, tags["agent"]):
                folder = lent.folder / "story"
                folder.mkdir()
                folder.chmod(0o755)
                lent.folder.chmod(0o755)
                report |= {"entered": "podman and crun", **story(lent, tags["server"], tags["agent"], folder)}
            else:
                report |= {
                    "entered": "chroot",
                    "versions": [
                        by_chroot(lent, tags["agent"], "edge-agent"),
                        by_chroot(lent, tags["server"], "edgectl"),
                    ],
                }
    small = all(image["compressed_mb"] <= MAX_COMPRESSED_MB[image["name"]] for image in report["images"])
    report["ok"] = bool(report["same_digest"]) and small and (report["entered"] == "chroot" or report["devices"] == 1)
    return report
