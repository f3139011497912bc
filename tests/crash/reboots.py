"""F06: a version during whose start the device dies, again and again; somebody (systemd, the power) starts it each time.

Sometimes it dies while the version is on trial, sometimes once it serves. After at most three starts the older version must serve, the
reason must be told, and the bad version must not be tried again by itself.
"""

import time
from pathlib import Path
from typing import Any

from tests.agent.field import eventually, offer, publish
from tests.crash.field import Field, note, run
from tests.crash.poison import GOLDEN_RUNS, faulty_bundle, poisoned_field, traffic

MAX_STARTS = 3
MAX_BOOTS = 12
CALM_S = 3.0
"""How long the bad version must be left alone in the end."""


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Bring n versions that kill the device."""
    return run("F06 reboot-loop", n, seed, _loops)


def _loops(result: dict[str, Any], n: int, seed: int) -> None:
    with poisoned_field(seed) as (here, acts), traffic(here):
        here.version = here.deploy()
        assert here.problem(here.version) == ""
        reboots(here, acts, result, n)


def reboots(here: Field, acts: Path, result: dict[str, Any], n: int) -> None:
    """Bring n versions that kill the device over the good one."""
    result["starts"] = {}
    for i in range(n):
        at = ("load", "run")[i % 2]
        version = f"3.0.{i}"
        fault = {"do": "kill-agent", "at": at, "after": GOLDEN_RUNS, "id": version}
        problem = _round(here, here.version, version, fault)
        starts = len((acts / version).read_text().split()) if (acts / version).exists() else 0
        result["starts"][at] = max(result["starts"].get(at, 0), starts)
        if not problem and not 0 < starts <= MAX_STARTS:
            problem = f"it was started {starts} times"
        note(result, problem, round=i, at=at)


def _round(here: Field, first: str, version: str, fault: dict[str, Any]) -> str:
    agent = here.agent
    offer(agent, publish(agent.site, version, faulty_bundle(version, fault)))
    for _ in range(MAX_BOOTS):
        if eventually(lambda: here.is_dead() or _is_over(here, version), 60.0) and not here.is_dead():
            break
        agent.start()
    if here.is_dead():
        return "it is never given up"
    time.sleep(CALM_S)
    record = agent.record()
    if here.is_dead() or not _is_over(here, version):
        return f"tried again: {record}"
    if record.error_code not in ("trial.restarts", "trial.crash_loop"):
        return f"told as {record.error_code}: {record.reason}"
    told = eventually(
        lambda: agent.reported() is not None and agent.reported().phase in ("failed", "rolled_back"), 30.0
    )
    if not told:
        return f"the server was told {agent.reported()}"
    return "" if eventually(lambda: here.answers(first), 20.0) else f"{first} does not answer: {agent.model()}"


def _is_over(here: Field, version: str) -> bool:
    record = here.agent.record()
    is_it = record.wanted is not None and f"/{version}/" in record.wanted.target
    return bool(is_it and record.phase.value in ("failed", "rolled_back") and here.agent.model().get("serving"))
