"""F09 and F10: the disk fills, turns read-only or gives errors in the middle of an update.

While it is so, the older version must go on answering, and what stands in the way must be said: as the model's error, or as
`disk_error` where not even the record of it can be written. When the disk is well again the next update must go through.
"""

import errno
import time
from typing import Any

from tests.agent.field import eventually
from tests.crash.faults import COUNT, FAIL, FOREVER
from tests.crash.field import Field, in_field, note, run
from tests.crash.points import points_of_an_update

BAD_S = 8.0
"""How long the disk stays bad when nothing is said about it: longer than any retry within one install."""


def full(n: int, seed: int | None = None) -> dict[str, Any]:
    """Let the disk be full from the k-th point on, for n points spread evenly over an update."""
    return run("F09 disk-full", n, seed, in_field(full_disks))


def bad(n: int, seed: int | None = None) -> dict[str, Any]:
    """Let the disk be read-only from a random point on, or give EIO at one or at all from there, n times."""
    return run("F10 read-only-eio", n, seed, in_field(bad_disks))


def full_disks(here: Field, result: dict[str, Any], n: int) -> None:
    """Fill the disk n times."""
    length = result["points"] = points_of_an_update(here)
    step = max(1.0, length / n)
    k, index = 1.0, 0
    while k <= length:
        here.faults.arm(FAIL, round(k), FOREVER, errno.ENOSPC)
        note(result, _round(here, result), point=round(k))
        k, index = k + step, index + 1
    result["n"] = index


def bad_disks(here: Field, result: dict[str, Any], n: int) -> None:
    """Break the disk n times."""
    length = result["points"] = points_of_an_update(here)
    for i in range(n):
        first = here.rng.randint(1, length)
        error, last = ((errno.EROFS, FOREVER), (errno.EIO, first), (errno.EIO, FOREVER))[i % 3]
        here.faults.arm(FAIL, first, last, error)
        note(result, _round(here, result), round=i, point=first, error=errno.errorcode[error], lasts=last != first)


def _round(here: Field, result: dict[str, Any]) -> str:
    """One update over a bad disk. Returns what is wrong."""
    agent, old = here.agent, here.version
    tried = here.deploy()
    until = time.monotonic() + BAD_S
    said = ""
    while time.monotonic() < until and not said:
        time.sleep(0.1)
        said = _said(here, tried)
    ended = result.setdefault("ended", {})
    ended[said or "silent"] = ended.get(said or "silent", 0) + 1
    problem = "agentd ended" if here.is_dead() else ""
    answers = {old, tried}
    if not problem and not eventually(lambda: _version(here) in answers, 30.0):
        problem = f"{_version(here)} answers, not {old}\n{agent.log.read_text(errors='replace')[-1500:]}"
    here.faults.arm(COUNT)
    if here.is_dead():
        agent.start()
    latest = here.deploy()
    problem = problem or here.problem(latest)
    here.version = _version(here) or old
    return problem


def _said(here: Field, tried: str) -> str:
    """Return how the update ended, or what is said to be in its way; "" while it is under way."""
    status = here.agent.status()
    model = here.agent.model()
    if model.get("phase") == "committed" and f"/{tried}/" in str(model.get("active_target")):
        return "committed"
    if model.get("phase") == "failed" and model.get("error_class"):
        return f"failed: {model['error_class']}"
    refused = status.get("refused", {}).get("code")
    return f"refused: {refused}" if refused else "disk_error" if status.get("disk_error") else ""


def _version(here: Field) -> str:
    try:
        return str(here.agent.infer()["model_version"])
    except (OSError, KeyError):
        return ""
