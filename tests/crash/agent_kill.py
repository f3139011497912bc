"""kill -9 of a real agent at random moments of an install: it must end on a verified version and say so truthfully.

Each round publishes a new version, waits a random time after the wish, kills agentd, starts it again and waits until the wanted
version is committed. Then the bytes in the active slot are hashed, the device is asked for an answer, and the server's view is
compared with the device's. `main` returns figures as one JSON-able object, with the seed.
"""

import hashlib
import random
import time
from typing import Any

from tests.agent.field import Agent, deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.field import note, run
from tests.server.fleet.house import PROFILE

MAX_DELAY_S = 1.1
PAD_BYTES = 2_000_000


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Kill an agent `n` times and return {n, good, seed, failures, phases_hit, …}. failures: rounds that did not end well."""
    return run("F01 agent-kill", n, seed, _kills)


def _kills(result: dict[str, Any], n: int, seed: int) -> None:
    rng = random.Random(seed)
    result["phases_hit"] = {}
    with started_agent(EDGEFLEET_AGENT_PROBATION_S="0") as agent:
        for i in range(n):
            note(result, _round(agent, rng, i, result["phases_hit"]), round=i)


def _round(agent: Agent, rng: random.Random, i: int, hit: dict[str, int]) -> str:
    """One kill. Returns what went wrong, "" when all is well."""
    version = f"1.0.{i}"
    target = f"digits/{version}/{PROFILE}.bundle"
    data = bundle_bytes(classifier_onnx(1.0 + i), version=version, extra={"pad.bin": rng.randbytes(PAD_BYTES)})
    deploy(agent.site, version, data)
    time.sleep(rng.uniform(0, MAX_DELAY_S))
    before = agent.model()
    phase = str(before.get("phase", "none"))
    if phase == "committed":
        # the older version: its successor's document is on its way or being verified
        phase += " new" if before.get("active_target") == target else " old"
    hit[phase] = hit.get(phase, 0) + 1
    agent.kill()
    agent.start()

    def there() -> bool:
        model = agent.model()
        done = model.get("phase") == "committed" and model.get("active_target") == target
        return bool(done and model.get("serving"))

    if not eventually(there, 60.0):
        return f"killed in {phase}: ended as {agent.model()}\n{agent.log.read_text()[-1500:]}"
    model = agent.model()
    slot = agent.state / "models" / "digits" / model["slot"] / "bundle"
    digest = hashlib.sha256(slot.read_bytes()).hexdigest()
    if digest != hashlib.sha256(data).hexdigest() or digest != model["active_sha256"]:
        return "the active slot does not hold the bundle that is reported"
    if agent.infer()["model_version"] != version:
        return "another version answers than the one reported"

    def told() -> bool:
        seen = agent.reported()
        return seen is not None and seen.phase == "committed" and seen.release == f"digits@{version}"

    return "" if eventually(told, 30.0) else f"the server was told {agent.reported()}"
