"""The fault tests of the agent in small: as many rounds as `tests.house.soak` says; the page of fault tests says why."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash import chunks, clocks, disk, points, poison, reboots, slots, states
from tests.crash.faults import COUNT, faults
from tests.crash.field import Field, field, run
from tests.house.soak import in_ci

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SEED = 20_261_125
"""One seed, so that a failure can be repeated; the soaks draw theirs."""


@pytest.fixture(scope="module")
def shimmed() -> Iterator[Field]:
    """One agent under the shim for all tests that break its disk or clock."""
    with field(SEED) as here:
        yield here


def on(here: Field, rounds: Callable[[Field, dict[str, Any], int], None], n: int) -> None:
    """Run n rounds and look at the figures."""
    result = run(rounds.__name__, n, SEED, lambda result, n, _: rounds(here, result, n))
    assert result["ok"], result


PROBE = """
import os, pathlib, sqlite3, sys
from edgefleet_agent.core.durable import write_file
root = pathlib.Path(sys.argv[1])
db = sqlite3.connect(root / "q.db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE t (x)")
for i in range(20):
    write_file(root / "record", os.urandom(9000))
    db.execute("INSERT INTO t VALUES (?)", (os.urandom(3000),))
    with (root / "plain").open("ab") as file:
        file.write(os.urandom(70_000))
db.close()
counted = [line for line in pathlib.Path("/proc/self/io").read_text().splitlines() if line.startswith("syscw")]
seen = pathlib.Path(os.environ["FAULT_STATE"]).read_bytes()
print(counted[0].split()[1], int.from_bytes(seen[56:64], sys.byteorder))
"""


def test_the_shim_sees_every_write_that_the_kernel_counts(tmp_path: Path) -> None:
    with faults(tmp_path) as shim:
        shim.arm(COUNT)
        environment = {**os.environ, **shim.environment()}
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(tmp_path)], env=environment, check=True, capture_output=True, text=True
        )
        by_kernel, by_shim = map(int, done.stdout.split())
        assert by_kernel == by_shim > 100
        assert shim.points > 150


@pytest.fixture(scope="module")
def episode() -> Iterator[states.Episode]:
    """What one agent did to its disk."""
    with states.recorded(SEED) as found:
        yield found


def test_whatever_a_power_cut_leaves_a_verified_version_serves(episode: states.Episode) -> None:
    result = run("states", in_ci("crash-states"), SEED, lambda result, n, seed: states.check(episode, result, n, seed))
    assert result["ok"], result
    assert result["states"] > 5_000


def test_the_states_of_an_agent_that_never_syncs_are_found_wrong(episode: states.Episode) -> None:
    result = run("unsynced", 12, SEED, lambda result, n, seed: states.check(episode, result, n, seed, forget="s"))
    assert result["failures"], result


def test_killed_at_any_point_of_an_update(shimmed: Field) -> None:
    on(shimmed, points.all_points, in_ci("kill9-every-point"))


def test_killed_again_while_it_recovers(shimmed: Field) -> None:
    on(shimmed, points.double_faults, in_ci("double-fault"))


def test_a_disk_that_is_full(shimmed: Field) -> None:
    on(shimmed, disk.full_disks, in_ci("disk-full"))


def test_a_disk_that_breaks(shimmed: Field) -> None:
    on(shimmed, disk.bad_disks, in_ci("read-only-eio"))


def test_a_clock_that_is_wrong(shimmed: Field) -> None:
    on(shimmed, clocks.clocks, in_ci("wrong-clock"))


def test_damaged_chunks() -> None:
    result = chunks.main(in_ci("corrupt-chunk"), SEED)
    assert result["ok"], result


def test_rotten_slots() -> None:
    result = slots.main(in_ci("corrupt-slot"), SEED)
    assert result["ok"], result


def test_versions_that_turn_bad_and_a_device_that_dies_of_one() -> None:
    with poison.poisoned_field(SEED) as (here, acts), poison.traffic(here):
        here.version = here.deploy()
        assert here.problem(here.version) == ""
        kinds = ("crash after n", "nan", "too big", "leak")
        result = run(
            "bad",
            in_ci("bad-bundles"),
            SEED,
            # how soon is for the soak to say: other tests take this machine's time
            lambda result, n, _: poison.bad_versions(here, acts, result, n, kinds, within_s=poison.WAIT_S),
        )
        assert result["ok"], result
        result = run("reboots", in_ci("reboot-loop"), SEED, lambda result, n, _: reboots.reboots(here, acts, result, n))
        assert result["ok"], result
