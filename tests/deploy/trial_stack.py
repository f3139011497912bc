"""The soak `trial-stack`: deploy/compose/trial.yaml started by podman-compose, and docs/operate/docker-compose.md typed in it.

Server, converters and agent are our own images. Those of others are made of Debian's packages (`trial_images`), since there is no registry:
mosquitto, PostgreSQL, Prometheus and Alertmanager are what they are, moto stands in for SeaweedFS, and Grafana is left out. podman runs
health checks by timers of systemd; without systemd a thread asks for them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.house.pages import blocks
from tests.house.tree import ROOT
from tests.release.image_runs import HYBRID, write_program
from tests.release.images import BASE, PIP_SETTINGS, Storage, build, limits, made_base, storage
from tests.support.ports import kept_port
from tests.support.tool_environments import PODMAN_COMPOSE, environment

PAGE = Path("docs/operate/docker-compose.md")
PROJECT = "edgefleet-trial"
PARTS = ("mosquitto", "postgres", "prometheus", "alertmanager", "s3")
PORTS = ("API", "DEVICE", "MQTT", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")
OVERRIDE: dict[str, Any] = {
    "services": {name: {"image": f"{PROJECT}/{name}"} for name in PARTS} | {"grafana": {"profiles": ["elsewhere"]}}
}
OVERRIDE["services"]["s3"] |= {
    "entrypoint": ["/opt/moto/bin/python", "/usr/local/bin/s3_store.py"],
    "command": ["/data/store", "edgefleet"],
}
WAIT_S = 300.0


@dataclass(frozen=True)
class Stack:
    """A machine with `docker compose` that is podman-compose, and the ports of the trial. folder: of its programs."""

    folder: Path
    ports: Mapping[str, int]

    def environment(self) -> dict[str, str]:
        """Return the environment of the page's commands."""
        chosen = {f"EDGEFLEET_{name}_PORT": str(port) for name, port in self.ports.items()}
        return {**os.environ, **chosen, "PATH": f"{self.folder}:{os.environ['PATH']}"}

    def sh(self, text: str) -> str:
        """Run a text of the page in the clone and return what it prints. Raises RuntimeError."""
        done = subprocess.run(
            ["sh", "-e", "-c", text], cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
        )
        sys.stderr.write(f"$ {text}\n{done.stdout[-1500:]}\n")
        if done.returncode != 0:
            raise RuntimeError(f"{text}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def asked(self, part: str, path: str) -> Any:
        """Return the JSON that a part answers on its port."""
        return httpx.get(f"http://127.0.0.1:{self.ports[part]}{path}", timeout=10).raise_for_status().json()

    def left(self) -> list[str]:
        """Return containers, volumes and networks: the storage is of this run only."""
        commands = ("ps -a --format {{.Names}}", "volume ls -q", "network ls --format {{.Name}}")
        found = [line for command in commands for line in self.sh(f"podman {command}").splitlines()]
        return [name for name in found if name != "podman"]


def build_parts(lent: Storage) -> None:
    """Build the images that stand in for those of others."""
    folder = Path(__file__).with_name("trial_images")
    secrets = zip(("pip.conf", "ca.pem"), PIP_SETTINGS, strict=True)
    given = [part for key, path in secrets if path.is_file() for part in ("--secret", f"id={key},src={path}")]
    for name in PARTS:
        sys.stderr.write(f"trial-stack: building {name}\n")
        flags = ("--isolation", "chroot", "--pull=missing", "--format", "docker", "--layers", *limits(), *given)
        lent.run("buildah", "build", *flags, "--target", name, "-t", f"{PROJECT}/{name}", folder)


@contextmanager
def stack(lent: Storage) -> Iterator[Stack]:
    """Lend the programs, and ask for health checks meanwhile. Removes what is left of the project."""
    folder = lent.folder / "bin"
    folder.mkdir()
    podman = lent.command(str(shutil.which("podman")))
    if HYBRID.is_dir():  # crun refuses it
        podman += ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    write_program(folder / "podman", f'export PODMAN_IGNORE_CGROUPSV1_WARNING=1\nexec {" ".join(podman)} "$@"')
    files = f"{ROOT}/deploy/compose/trial.yaml:{folder}/override.yaml"
    (folder / "override.yaml").write_text(json.dumps(OVERRIDE))
    compose = environment("podman-compose", PODMAN_COMPOSE).with_name("podman-compose")
    # the images are built already, and podman builds none here
    drop = 'shift; for one; do shift; [ "$one" = --build ] || set -- "$@" "$one"; done'
    write_program(folder / "docker", f'{drop}\nCOMPOSE_FILE={files} exec {compose} "$@"')
    made = Stack(folder, {name: kept_port() for name in PORTS})
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(1.0):
            names = subprocess.run([folder / "podman", "ps", "-q"], capture_output=True, text=True, check=False)
            for name in names.stdout.split():
                subprocess.run([folder / "podman", "healthcheck", "run", name], capture_output=True, check=False)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield made
    finally:
        ended.set()
        asking.join()
        for command in ("rm -f -a -t 5", "volume rm -f -a", "network prune -f"):
            subprocess.run([folder / "podman", *command.split()], capture_output=True, check=False)


def seen(stack: Stack) -> dict[str, Any]:
    """Wait until figures, rules and the alert are where they belong; return what was seen. Raises RuntimeError with what is missing."""
    end_s = time.monotonic() + WAIT_S
    while True:
        targets = stack.asked("PROMETHEUS", "/api/v1/targets")["data"]["activeTargets"]
        rules = [
            rule["name"]
            for one in stack.asked("PROMETHEUS", "/api/v1/rules")["data"]["groups"]
            for rule in one["rules"]
        ]
        figures = stack.asked("PROMETHEUS", "/api/v1/query?query=sum(edgefleet_devices)")["data"]["result"]
        alerts = [one["labels"]["alertname"] for one in stack.asked("ALERTMANAGER", "/api/v2/alerts")]
        found = {
            "targets": [one["health"] for one in targets],
            "rules": len(rules),
            "devices_in_prometheus": figures[0]["value"][1] if figures else "0",
            "alerts": sorted(set(alerts)),
        }
        good = found["targets"] == ["up"] and "EdgefleetDevicesAway" in rules and figures and "Watchdog" in alerts
        if good:
            return found
        if time.monotonic() > end_s:
            raise RuntimeError(f"not seen in time: {found}")
        time.sleep(2.0)


def story(stack: Stack) -> dict[str, Any]:
    """Type the page; return what was seen and how long it took."""
    first, model, again, gone = [one.text for one in blocks(PAGE) if one.kind == "elsewhere"][:4]
    start, up, *rest = first.splitlines()
    began = time.monotonic()
    stack.sh(f"{start}\n{up}")
    report: dict[str, Any] = {"up_s": round(time.monotonic() - began, 1)}
    devices = stack.sh("\n".join([start, *rest]))
    answer = stack.sh(model)
    report["newcomer_s"] = round(time.monotonic() - began, 1)
    report |= seen(stack)
    objects = stack.sh("docker compose exec -T s3 wget -q -O - 'http://127.0.0.1:8333/edgefleet?list-type=2'")
    report |= {"objects_in_s3": objects.count("<Key>"), "answer": answer.strip().splitlines()[-1]}
    kept = stack.sh(again)
    names = re.findall(r"\bd-[a-z0-9]{12,}", devices)
    served = stack.sh(model.splitlines()[-1])
    stack.sh(gone)
    left = stack.left()
    report |= {"devices": names, "left": left, "serves_again": served.strip().splitlines()[-1]}
    is_kept = bool(names) and all(name in kept for name in names)
    report["ok"] = is_kept and ": 7 " in answer and ": 7 " in served and bool(report["objects_in_s3"]) and not left
    return report


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Build the images, then start and use the stack n times. seed: nothing is drawn."""
    del seed
    report: dict[str, Any] = {"ok": True, "runs": []}
    with storage() as lent:
        lent.run("podman", "import", "-q", made_base(), BASE)
        for name in ("converter", "agent"):
            sys.stderr.write(f"trial-stack: building {name}\n")
            build(lent, ROOT, name, "amd64")
        build_parts(lent)
        for _ in range(n):
            with stack(lent) as made:
                report["runs"].append(story(made))
    report["ok"] = all(run["ok"] for run in report["runs"])
    return report
