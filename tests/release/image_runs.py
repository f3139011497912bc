"""The soak `images`: images are built twice, then really run by typing docs/operate/docker.md: a server, an agent that enrols at it
and connects, the converter in the server's place, a model that is published, installed, and answers over HTTP.

Every container has a read-only root, no capability and no way to more. `entered` says how: by podman and crun, or, where the machine
cannot run a container, by chroot. Where crun refuses a machine for its second, hybrid hierarchy of cgroups, that mount is hidden from
podman in a mount namespace of its own; the machine keeps it.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.house.pages import blocks
from tests.house.tree import ROOT
from tests.release.images import BASE, MAX_COMPRESSED_MB, Storage, build, made_base, measured, storage

LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--network", "host", "--health-interval", "disable"),
)
PAGE = Path("docs/operate/docker.md")
HYBRID = Path("/sys/fs/cgroup/unified")
WAIT_S = 180.0


def podman_here(lent: Storage) -> list[str]:
    """Return the command that is podman on this machine, in this storage."""
    command = lent.command("podman")
    if HYBRID.is_dir():
        hidden = f'umount {HYBRID}; exec "$@"'
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", hidden, "sh", *command]
    return ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", *command]


def podman(lent: Storage, *arguments: str | Path, check: bool = True) -> str:
    """Run podman and return what it prints."""
    done = subprocess.run([*podman_here(lent), *arguments], capture_output=True, text=True, check=False)
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


def texts() -> list[str]:
    """Return the page's blocks: of the server, of the agent, and from a model to an answer."""
    return [one.text for one in blocks(PAGE) if one.kind == "elsewhere"]


def replaced(folder: Path, tags: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """Return what of the page is called otherwise in this run, in the order in which it is replaced.

    All containers use the network of this machine, so ports are given by the environment.
    """
    no_timer = "--health-interval disable"
    settings = {f"EDGEFLEET_SERVER_{name}_PORT": ports[name] for name in ("API", "DEVICE", "BROKER")}
    hosts = {f"EDGEFLEET_SERVER_{name}_HOST": "127.0.0.1" for name in ("API", "DEVICE", "BROKER")}
    given = " ".join(f"-e {name}={value}" for name, value in {**settings, **hosts}.items())
    return {
        "-p 127.0.0.1:8080:8080 -p 8443:8443 -p 8883:8883": f"--network host {no_timer} {given}",
        "127.0.0.1:8080": f"127.0.0.1:{ports['API']}",
        "127.0.0.1:8500": f"127.0.0.1:{ports['INFER']}",
        "fleet.example": "127.0.0.1",
        "-v edgefleet:": f"-v {folder}/data:",
        "-v agent:": f"-v {folder}/state:",
        "-e EDGEFLEET_AGENT_CLAIM_FILE": f"{no_timer} -e EDGEFLEET_AGENT_INFER_PORT={ports['INFER']} -e EDGEFLEET_AGENT_CLAIM_FILE",
        "edgefleet/server:0.1.0": tags["server"],
        "edgefleet/agent:0.1.0": tags["agent"],
        " examples/": f" {ROOT}/examples/",
        "@examples/": f"@{ROOT}/examples/",
    }


def typed(text: str, others: Mapping[str, str]) -> str:
    """Return a text of the page with the names of this run."""
    for word, other in others.items():
        text = text.replace(word, other)
    return text


def write_program(path: Path, text: str) -> None:
    """Write a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def shell(lent: Storage, folder: Path, text: str) -> str:
    """Run a text with this run's podman and `edgectl`; return what it prints. Raises RuntimeError."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    # without this folder in its path: it would start itself for ever
    real = f"export PATH={shlex.quote(os.environ['PATH'])}"
    write_program(programs / "podman", f'{real}\nexec {shlex.join(podman_here(lent))} "$@"')
    environment = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EDGECTL_CONFIG": str(folder / "contexts"),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    done = subprocess.run(
        ["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    sys.stderr.write(f"$ {text}\n{done.stdout[-1500:]}\n")
    if done.returncode:
        logs = "".join(f"{name}: {podman(lent, 'logs', name, check=False)[-2000:]}\n" for name in ("server", "agent"))
        raise RuntimeError(f"{text}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}{logs}")
    return done.stdout


def remove(lent: Storage, container: str) -> None:
    """Stop and remove a container, if it is there."""
    podman(lent, "stop", "-t", "60", container, check=False)
    podman(lent, "rm", "-f", container, check=False)


def story(lent: Storage, tags: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Type the page; return what was seen."""
    for made in (folder / "data", folder / "state"):
        made.mkdir(mode=0o700)
        os.chown(made, 10001, 0)
    others = replaced(folder, tags, {name: free_port() for name in ("API", "DEVICE", "BROKER", "INFER")})
    start, enrol, use = texts()
    try:
        link = shell(lent, folder, typed(start, others)).strip().splitlines()[-1]
        status = shell(lent, folder, typed(enrol, others))
        uid = podman(lent, "exec", "agent", "python3", "-c", "import os; print(os.getuid())")
        devices = json.loads(shell(lent, folder, "edgectl device list -o json"))
        remove(lent, "server")
        shell(lent, folder, typed(start, {**others, "edgefleet/server:0.1.0": tags["converter"]}))
        answer = shell(lent, folder, typed(use, others)).strip().splitlines()[-1]
    finally:
        for container in ("agent", "server"):
            remove(lent, container)
    return {
        "uid": int(uid),
        "devices": len(devices["items"]),
        "status": status.strip().splitlines()[-1],
        "link": "/login?code=" in link,
        "answer": answer,
    }


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
                sys.stderr.write("images: building the converter\n")
                tags["converter"] = build(lent, ROOT, "converter", "amd64")
                folder = lent.folder / "story"
                folder.mkdir()
                folder.chmod(0o755)
                lent.folder.chmod(0o755)
                report |= {"entered": "podman and crun", **story(lent, tags, folder)}
            else:
                report |= {
                    "entered": "chroot",
                    "versions": [
                        by_chroot(lent, tags["agent"], "edge-agent"),
                        by_chroot(lent, tags["server"], "edgectl"),
                    ],
                }
    small = all(image["compressed_mb"] <= MAX_COMPRESSED_MB[image["name"]] for image in report["images"])
    told = report["entered"] == "chroot" or (report["devices"] == 1 and report["link"] and '"7"' in report["answer"])
    report["ok"] = bool(report["same_digest"]) and small and told
    return report
