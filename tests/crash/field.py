"""An agent whose disk can be broken, and what every fault test asks in the end: does a verified version serve, is the report true?"""

import hashlib
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.agent.field import Agent, deploy, eventually, move_broker, new_site, write_identity
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.faults import Faults, faults
from tests.crash.line import Line
from tests.server.fleet.house import PROFILE

QUICKEST = {"EDGEFLEET_AGENT_PROBATION_S": "0"}
GOOD_S = 60.0
"""By then a device must be well again; `over_60_s` counts the rounds that took longer, as happens where ten agents share a processor."""
WAIT_S = 240.0
"""When a round is given up."""
PAD_BYTES = 150_000
"""Five leaves: enough for several block messages, little enough for hundreds of installs."""


class Field:
    """One site, one agent under the shim, and the versions that were published so far."""

    def __init__(self, agent: Agent, broken: Faults, line: Line, seed: int) -> None:
        self.agent = agent
        self.line = line
        self.faults = broken
        self.rng = random.Random(seed)
        self.digests: dict[str, str] = {}
        self.version = ""
        """What served last, as far as was seen."""
        self.over_60_s = 0

    def deploy(self, pad_bytes: int = PAD_BYTES, model: str = "digits") -> str:
        """Publish the next version, want it everywhere, and return its name."""
        number = len(self.digests)
        version = f"1.0.{number}"
        extra = {"pad.bin": self.rng.randbytes(pad_bytes)}
        data = bundle_bytes(classifier_onnx(1.0 + number), name=model, version=version, extra=extra)
        self.digests[version] = hashlib.sha256(data).hexdigest()
        deploy(self.agent.site, version, data, model)
        return version

    def is_dead(self) -> bool:
        """Whether agentd has ended."""
        process = self.agent.process
        return process is None or process.poll() is not None

    def problem(self, version: str, phase: str = "committed", *, told: bool = True, wait_s: float = WAIT_S) -> str:
        """Return what is wrong when `version` should serve in that phase within wait_s, "" when all is well.

        The bytes of the slot are hashed, the device is asked for an answer, and the server's view is compared (told).
        """
        agent, target = self.agent, f"digits/{version}/{PROFILE}.bundle"

        def there() -> bool:
            model = agent.model()
            return bool(model.get("phase") == phase and model.get("active_target") == target and model.get("serving"))

        began = time.monotonic()
        found = eventually(there, wait_s)
        self.over_60_s += time.monotonic() - began > GOOD_S
        if not found:
            return f"ended as {agent.model()}\n{agent.log.read_text(errors='replace')[-2500:]}"
        model = agent.model()
        slot = agent.state / "models" / "digits" / model["slot"] / "bundle"
        digest = hashlib.sha256(slot.read_bytes()).hexdigest()
        if not digest == self.digests[version] == model["active_sha256"]:
            return "the active slot does not hold the bundle that is reported"
        if not eventually(lambda: self.answers(version), 30.0):
            return f"another version than {version} answers"
        return "" if not told or eventually(lambda: self._is_told(version, phase), 90.0) else self._told_wrong()

    def answers(self, version: str) -> bool:
        """Whether that version answers a request now."""
        try:
            return bool(self.agent.infer()["model_version"] == version)
        except (OSError, KeyError):
            return False

    def _is_told(self, version: str, phase: str) -> bool:
        seen = self.agent.reported()
        return seen is not None and seen.phase == phase and seen.release == f"digits@{version}"

    def _told_wrong(self) -> str:
        return f"the server was told {self.agent.reported()}"


@contextmanager
def field(seed: int, *, record: bool = False, shim: bool = True, **environment: str) -> Iterator[Field]:
    """Yield a running agent with a site of its own and a line between them; all end with the block.

    record: the shim writes down all points. shim: False runs the agent without it.
    """
    with tempfile.TemporaryDirectory(prefix="ef-crash-") as name:
        site = new_site(Path(name, "server"))
        state = Path(name, "device")
        device = site.house.device()
        line = Line(site.endpoint.host, site.endpoint.port)
        write_identity(site, device, state)
        move_broker(state, line.port)
        with faults(state) as broken:
            environment = QUICKEST | (broken.environment(record=record) if shim else {}) | environment
            agent = Agent(site, state, device, **environment)
            try:
                agent.start()
                yield Field(agent, broken, line, seed)
            finally:
                broken.calm()
                agent.stop()
                line.close()
                site.close()


def run(name: str, n: int, seed: int | None, rounds: Callable[[dict[str, Any], int, int], None]) -> dict[str, Any]:
    """Run the rounds of one test and return its figures. rounds: called with the figures, n and the seed; adds to `good`, `failures`.

    Interrupted (Ctrl-C, or SIGTERM to `./dev soak`) it returns what is done: `n` rounds of `asked`.
    """
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    result: dict[str, Any] = {"test": name, "n": n, "seed": seed, "good": 0, "wrong": 0, "failures": []}
    began = time.monotonic()
    try:
        rounds(result, n, seed)
    except KeyboardInterrupt:
        result |= {"asked": n, "n": result["good"] + len(result["failures"])}
    result["wrong"] = len(result["failures"])
    result["ok"] = result["good"] > 0 and not result["failures"]
    result["elapsed_s"] = round(time.monotonic() - began, 1)
    return result


Rounds = Callable[[Field, dict[str, Any], int], None]
"""Rounds of one test on a field that is there: called with the field, the figures, and how many."""


def in_field(rounds: Rounds, **options: Any) -> Callable[[dict[str, Any], int, int], None]:
    """Return the rounds with a field of their own. options: of `field`."""

    def with_field(result: dict[str, Any], n: int, seed: int) -> None:
        with field(seed, **options) as here:
            rounds(here, result, n)
            result["over_60_s"] = here.over_60_s

    return with_field


def note(result: dict[str, Any], problem: str, **where: Any) -> None:
    """Count one round; a long test says on stderr how far it is."""
    if problem:
        result["failures"].append({**where, "problem": problem})
    else:
        result["good"] += 1
    done = result["good"] + len(result["failures"])
    if done % 20 == 0 or problem:
        sys.stderr.write(
            f"{result['test']}: {done} of {result['n']}, {len(result['failures'])} wrong {where} {problem}\n"
        )
        sys.stderr.flush()
