"""kill -9 of a real agent at random moments of an install: it must end on a verified version and say so truthfully.

Each round publishes a new version, waits a random part of what an install takes here and now, kills agentd, starts it again and waits
until the wanted version is committed. Then the bytes in the active slot are hashed, the device is asked for an answer, and the
server's view is compared with the device's. `main` returns figures as one JSON-able object, with the seed.
"""

import hashlib
import random
import time
from typing import Any

from tests.agent.field import Agent, deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.field import note, run
from tests.server.fleet.house import PROFILE

LATEST = 1.1
"""The last moment of a kill, in times of an install that nobody disturbs."""
MEASURE_EVERY = 20
"""Rounds after which that is measured again: how busy the machine is changes."""
WAIT_S = 240.0
"""When a round is given up; on a machine of its own none takes a quarter of that."""
PAD_BYTES = 2_000_000


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Kill an agent `n` times and return {n, good, seed, failures, phases_hit, …}. failures: rounds that did not end well."""
    return run("F01 agent-kill", n, seed, _kills)


def _kills(result: dict[str, Any], n: int, seed: int) -> None:
    rng = random.Random(seed)
    result["phases_hit"] = {}
    with started_agent(EDGEFLEET_AGENT_PROBATION_S="0") as agent:
        for i in range(n):
            if i % MEASURE_EVERY == 0:
                install_s = _undisturbed_s(agent, rng, i)
            note(result, _round(agent, rng, i, rng.uniform(0, LATEST * install_s), result["phases_hit"]), round=i)


def _undisturbed_s(agent: Agent, rng: random.Random, i: int) -> float:
    """Install a version and return how long that took."""
    _, target = _wish(agent, f"1.1.{i}", rng, i)
    began = time.monotonic()
    assert eventually(lambda: _is_there(agent, target), WAIT_S), agent.model()
    return time.monotonic() - began


def _wish(agent: Agent, version: str, rng: random.Random, i: int) -> tuple[bytes, str]:
    """Publish a version and want it; return its bundle and target."""
    data = bundle_bytes(classifier_onnx(1.0 + i), version=version, extra={"pad.bin": rng.randbytes(PAD_BYTES)})
    deploy(agent.site, version, data)
    return data, f"digits/{version}/{PROFILE}.bundle"


def _is_there(agent: Agent, target: str) -> bool:
    model = agent.model()
    done = model.get("phase") == "committed" and model.get("active_target") == target
    return bool(done and model.get("serving"))


def _round(agent: Agent, rng: random.Random, i: int, after_s: float, hit: dict[str, int]) -> str:
    """One kill. Returns what went wrong, "" when all is well."""
    version = f"1.0.{i}"
    data, target = _wish(agent, version, rng, i)
    time.sleep(after_s)
    before = agent.model()
    phase = str(before.get("phase", "none"))
    if phase == "committed":
        # the older version: its successor's document is on its way or being verified
        phase += " new" if before.get("active_target") == target else " old"
    hit[phase] = hit.get(phase, 0) + 1
    agent.kill()
    agent.start()

    if not eventually(lambda: _is_there(agent, target), WAIT_S):
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
