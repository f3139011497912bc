"""The units' exposure as systemd itself computes it, and the groups that a server's children get inside them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgefleet_server.conversion.confinement.job_group import Hierarchy, hierarchies

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("edge-agent.service", 1.5),
        ("edge-server.service", 2.5),
        ("edge-backup.service", 2.0),
        ("edge-signer.service", 1.5),
        ("edge-broker-trust.service", 2.5),
    ],
)
def test_a_unit_is_no_more_exposed_than_it_was(unit: str, most: float) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(DEPLOY / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout[-500:]
    assert float(found[1]) <= most


def test_the_groups_of_both_versions_are_found() -> None:
    mounts = (
        "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "32 30 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
        "33 30 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    )
    membership = "5:memory:/user\n4:pids:/\n3:cpu,cpuacct:/\n0::/system.slice/edge-server.service/server\n"
    assert hierarchies(mounts, membership) == [
        Hierarchy(Path("/sys/fs/cgroup/memory/user"), "memory"),
        Hierarchy(Path("/sys/fs/cgroup/pids"), "pids"),
        Hierarchy(Path("/sys/fs/cgroup/unified/system.slice/edge-server.service/server"), ""),
    ]


def test_a_group_of_a_container_is_found_below_what_is_mounted() -> None:
    mounts = "40 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    assert hierarchies(mounts, "0::/docker/abc\n") == [Hierarchy(Path("/sys/fs/cgroup"), "")]
