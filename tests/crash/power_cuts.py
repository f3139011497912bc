"""F04: the power of a whole machine is cut in an update, `./dev soak power-cuts`: QEMU with ext4, killed at a random moment.

What the guest had in its memory is lost, page cache included, and of the writes that its disk had not flushed all, half or none, by chance.
A round is good when
1. fsck mends the disk; the agent's record is readable; each slot that it names holds the bytes of a version that was published;
2. the machine, started again from that disk, serves such a version within `WAIT_S`;
3. it comes to the newest version, and its other slot holds the version before, whole;
4. the first holds for `EARLIER` earlier moments of the same run, too.
"""

import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.agent.field import QUICK, deploy, eventually, new_site, write_identity
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.field import note, run
from tests.crash.power_disk import inspect
from tests.crash.power_machine import Machine, missing, write_disks

WAIT_S = 600.0
PAD_BYTES = 2_000_000
FIRST_ROUND = 3
"""Versions that were published by then."""
EARLIER = 10
"""Cuts at other moments of the same run whose disks are checked too, but not started from."""
ENVIRONMENT = QUICK | {"EDGEFLEET_AGENT_PROBATION_S": "0"}


def main(n: int, seed: int | None = None) -> Mapping[str, Any]:
    """Cut the power n times."""
    if missing():
        return {
            "ok": False,
            "why": f"{', '.join(missing())} missing",
            "next": "on Debian, as root: apt-get install -y qemu-system-x86 mmdebstrap e2fsprogs, then run it again",
        }
    return run("F04 power-cuts", n, seed, rounds)


def rounds(result: dict[str, Any], n: int, seed: int) -> None:
    """Make a site and a machine, bring two versions to service, then cut n times."""
    draw = random.Random(seed)
    result |= {"cut_in": Counter(), "repaired_by_fsck": 0, "unflushed_writes": 0, "lost_writes": 0, "earlier_cuts": 0}
    with tempfile.TemporaryDirectory(prefix="ef-power-") as name:
        folder = Path(name)
        site = new_site(folder / "server")
        try:
            state = folder / "device"
            write_identity(site, site.house.device(), state)
            write_disks(folder, state, site.endpoint.port, ENVIRONMENT)
            here = Bench(site, Machine(folder), folder, draw)
            here.machine.start()
            try:
                problem = here.comes_to(here.deploy())
                began = time.monotonic()
                if problem := problem or here.comes_to(here.deploy()):
                    note(result, f"before any cut: {problem}", round=-1)
                    return
                here.update_s = time.monotonic() - began
                for number in range(n):
                    note(result, here.round(result), round=number)
            finally:
                here.machine.stop()
        finally:
            site.close()


class Bench:
    """A site, a machine that can lose its power, and the versions that were published so far."""

    def __init__(self, site: Any, machine: Machine, folder: Path, draw: random.Random) -> None:
        self.site = site
        self.machine = machine
        self.folder = folder
        self.draw = draw
        self.digests: dict[str, str] = {}
        self.update_s = 0.0

    def round(self, result: dict[str, Any]) -> str:
        """Cut the power in an update; return what is wrong afterwards, "" when all is well."""
        newest = self.deploy()
        self._wait_within_update(newest)
        unflushed, lost = self.machine.cut(self.draw)
        left = inspect(self.folder / "state.img", self.folder / "left", set(self.digests.values()))
        result["cut_in"][str(left.phase)] += 1
        result["repaired_by_fsck"] += left.repaired
        result["unflushed_writes"] += unflushed
        result["lost_writes"] += lost
        problem = left.problem or self._earlier(result)
        self.machine.start()
        if problem:
            return problem
        if not eventually(self._is_good, WAIT_S, 0.2):
            return f"nothing whole serves: {self.machine.reports[-1:]} {self.machine.console[-5:]}"
        return self.comes_to(newest)

    def _earlier(self, result: dict[str, Any]) -> str:
        """Check the disks that cuts at other moments of this run may have left. The first run began without a version."""
        if len(self.digests) <= FIRST_ROUND:
            return ""
        for _ in range(EARLIER):
            part = self.draw.random()
            self.machine.leave("earlier.img", self.draw, part)
            left = inspect(self.folder / "earlier.img", self.folder / "left", set(self.digests.values()))
            if left.problem:
                return f"cut after {part:.3f} of the run: {left.problem}"
            result["earlier_cuts"] += 1
        return ""

    def deploy(self) -> str:
        """Publish the next version, want it everywhere, and return its name."""
        number = len(self.digests)
        version = f"1.0.{number}"
        extra = {"pad.bin": self.draw.randbytes(PAD_BYTES)}
        data = bundle_bytes(classifier_onnx(1.0 + number), version=version, extra=extra)
        self.digests[version] = hashlib.sha256(data).hexdigest()
        deploy(self.site, version, data)
        return version

    def comes_to(self, version: str) -> str:
        """Return what is wrong when a version should serve, with a whole fallback from the second on."""

        if eventually(lambda: self._is_at(version), WAIT_S, 0.2):
            return ""
        return f"did not come to {version}: {self.machine.reports[-1:]} {self.machine.console[-5:]}"

    def _wait_within_update(self, newest: str) -> None:
        """Wait for a part of an update's time: that of the last one which was not cut, or longer, as others use this processor too."""
        began = time.monotonic()
        wait_s = self.draw.uniform(0.0, self.update_s)
        if eventually(lambda: self._is_at(newest), wait_s, 0.2):
            self.update_s = time.monotonic() - began
        else:
            self.update_s *= 1.1

    def _is_at(self, version: str) -> bool:
        said = self.machine.reports[-1] if self.machine.reports else {}
        is_there = self._is_good() and said["version"] == version and said["phase"] == "committed"
        return is_there and (len(self.digests) == 1 or said["fallback"] in self.digests.values())

    def _is_good(self) -> bool:
        """Whether the newest report is of one whole version that was published."""
        said = self.machine.reports[-1] if self.machine.reports else {}
        return bool(said.get("sha256")) and said["sha256"] == self.digests.get(said["version"]) == said["active"]
