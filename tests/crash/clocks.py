"""F11: the device's clock is wrong: 1970, ten years ahead, a day back, or jumping in the middle of a download.

While it is wrong the device must go on serving, and must accept nothing that has expired; when it is right again the next update must
go through: no lock-out. The wall clock of the agent's processes is bent by the shim; the broker's and the server's are right.
"""

import time
from typing import Any

from tests.agent.field import eventually
from tests.crash.field import Field, in_field, note, run

YEAR_S = 365 * 86_400
KINDS = ("1970", "ten years ahead", "a day back", "jump ahead in a download", "jump back in a download")


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Bend the clock n times, each way in turn."""
    return run("F11 clock", n, seed, in_field(clocks))


def clocks(here: Field, result: dict[str, Any], n: int) -> None:
    """Bend the clock n times."""
    here.version = here.deploy()
    assert here.problem(here.version) == ""
    for i in range(n):
        kind = KINDS[i % len(KINDS)]
        note(result, _round(here, result, kind), round=i, kind=kind)


def _round(here: Field, result: dict[str, Any], kind: str) -> str:
    agent, old = here.agent, here.version
    is_jump = "jump" in kind
    if not is_jump:
        agent.stop()
        here.faults.turn_clock(_offset_s(kind))
        agent.start()
    tried = here.deploy(pad_bytes=3_000_000 if is_jump else 10_000)
    if is_jump:
        eventually(lambda: agent.model().get("phase") == "downloading", 10.0)
        here.faults.turn_clock(_offset_s(kind))
    seen = eventually(lambda: here.answers(tried), 4.0, 0.2)
    ended = result.setdefault("while_wrong", {}).setdefault(kind, {"took it": 0, "waited": 0})
    ended["took it" if seen else "waited"] += 1
    problem = ""
    if kind == "ten years ahead" and seen:
        problem = "a document that had expired by the device's clock was carried out"
    if not problem and not eventually(lambda: here.answers(tried) or here.answers(old), 20.0):
        problem = f"nothing answers: {agent.model()}\n{agent.log.read_text(errors='replace')[-2000:]}"
    here.faults.turn_clock(0)
    here.version = here.deploy()
    if kind == "ten years ahead" or here.rng.random() < 0.3:
        agent.stop()
        agent.start()
    began = time.monotonic()
    problem = problem or here.problem(here.version)
    result["right_again_s"] = max(result.get("right_again_s", 0.0), round(time.monotonic() - began, 1))
    return problem


def _offset_s(kind: str) -> int:
    match kind:
        case "1970":
            return -int(time.time())  # to the beginning of unix time
        case "ten years ahead":
            return 10 * YEAR_S
        case "jump ahead in a download":
            return 40 * 86_400
    return -86_400
