"""F18 and the corpus of bad bundles: versions that pass for good until they run, over a good one that serves; and good ones, which stay.

The device has no network from the moment it has the bundle: whatever it decides, it decides alone. Each fault notes the moment of
each of its acts in a file, so that "so many seconds after evidence" is measured from the act that completed the evidence of the rule,
not from when somebody looked. Real workers, real figures; only the runtime is made to misbehave (`misbehave.py`).
"""

import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tests.agent.field import eventually, offer, publish
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.crash.field import Field, field, note, run

WITHIN_S = 5.0
WAIT_S = 90.0
GOLDEN_RUNS = 9
MISBEHAVE = Path(__file__).parent / "misbehave.py"
GOLDEN_TIMEOUT_S = 3.0
LEAK_S = 6.0
"""Evidence of a leak: twelve readings, one each half second."""
PROVEN_N = 1000
"""Twice as many answers as two callers can get while the evidence of a leak is read: no bad version is proven before."""
CALLS_PER_S = 40.0


@dataclass(frozen=True)
class Poison:
    """One kind of bad version. act: which of its acts completes the evidence. more_s: time that belongs to the evidence after it.

    codes: what the device may give as the reason. phase: how the model ends.
    """

    fault: dict[str, Any]
    codes: tuple[str, ...]
    act: int = 1
    more_s: float = 0.0
    phase: str = "rolled_back"


POISONS: dict[str, Poison] = {
    "crash at load": Poison({"do": "segv", "at": "load"}, ("trial.crash",), phase="failed"),
    "crash after n": Poison({"do": "segv", "at": "run", "after": GOLDEN_RUNS}, ("trial.crash_loop",), act=3),
    "nan": Poison({"do": "nan", "at": "run", "after": GOLDEN_RUNS}, ("trial.nonfinite", "serving.golden"), act=2),
    "wrong output": Poison({"do": "wrong", "at": "run", "after": GOLDEN_RUNS}, ("serving.golden",), more_s=1.0),
    "slow": Poison({"do": "slow", "at": "run", "after": GOLDEN_RUNS, "amount": 0.02}, ("trial.slow",), act=200),
    "leak": Poison(
        {"do": "leak", "at": "run", "after": GOLDEN_RUNS, "amount": 1 << 17}, ("trial.memory",), more_s=LEAK_S
    ),
    "too big": Poison({"do": "oom", "at": "load", "amount": 3 << 30}, ("trial.memory",), phase="failed"),
    "hang": Poison(
        {"do": "hang", "at": "run", "after": GOLDEN_RUNS}, ("trial.crash_loop",), act=3, more_s=GOLDEN_TIMEOUT_S + 1.0
    ),
}
F18 = ("crash at load", "nan", "hang", "too big", "slow")
"""The five of F18 (docs/reference/fault-tests.md); 10 × latency is `slow`, out of memory is `too big`."""


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Run n bad versions, each kind in turn."""
    return run("bad-bundles", n, seed, lambda result, n, seed: _bad(result, n, seed, tuple(POISONS)))


def poison(n: int, seed: int | None = None) -> dict[str, Any]:
    """Run n bad versions of the kinds that F18 names."""
    return run("F18 poison-model", n, seed, lambda result, n, seed: _bad(result, n, seed, F18))


def good(n: int, seed: int | None = None) -> dict[str, Any]:
    """Run n good updates under load: none may be rolled back."""
    return run("good-updates", n, seed, _good)


def _bad(result: dict[str, Any], n: int, seed: int, kinds: tuple[str, ...]) -> None:
    with poisoned_field(seed) as (here, acts), traffic(here):
        here.version = here.deploy()
        assert here.problem(here.version) == "", here.agent.model()
        bad_versions(here, acts, result, n, kinds)


def bad_versions(
    here: Field, acts: Path, result: dict[str, Any], n: int, kinds: tuple[str, ...], within_s: float = WITHIN_S
) -> None:
    """Bring n bad versions over the good one. within_s: each has to be gone so long after the evidence."""
    slowest = result.setdefault("after_evidence_s", {})
    for i in range(n):
        kind = kinds[i % len(kinds)]
        problem, after_s = _bad_round(here, acts, kind, f"2.0.{i}", within_s)
        note(result, problem, round=i, kind=kind)
        slowest[kind] = max(slowest.get(kind, 0.0), round(after_s, 2))


def _bad_round(here: Field, acts: Path, kind: str, version: str, within_s: float) -> tuple[str, float]:
    """Bring one bad version to the device. Returns what is wrong, and how long after the evidence it was gone."""
    agent, chosen, first = here.agent, POISONS[kind], here.version
    after = chosen.fault.get("after", 0) + (here.rng.randrange(30) if chosen.act < 100 else 0)
    fault = {**chosen.fault, "after": after, "id": version}
    offer(agent, publish(agent.site, version, faulty_bundle(version, fault)))
    seen = eventually(
        lambda: _phase_of(here, version) in ("golden", "warming", "probation", "rolled_back", "failed"), WAIT_S
    )
    here.line.cut()
    try:
        ended = seen and eventually(lambda: _phase_of(here, version) == chosen.phase, WAIT_S)
        gone = time.time()  # the acts are noted by the wall clock of this machine
        record = agent.record()
        if not ended:
            return f"ended as {record}\n{agent.log.read_text()[-3000:]}", 0.0
        if record.error_code not in chosen.codes:
            return f"the reason given is {record.error_code}: {record.reason}", 0.0
        moments = [float(line) for line in (acts / version).read_text().split()]
        after_s = gone - moments[min(chosen.act, len(moments)) - 1] - chosen.more_s
        if after_s > within_s:
            return f"gone only {after_s:.1f} s after the evidence", after_s
        if not eventually(lambda: agent.model().get("serving") and here.answers(first), 20.0):
            return f"the good version does not answer: {agent.model()}", after_s
    finally:
        here.line.mend()
    told = eventually(lambda: agent.reported() is not None and agent.reported().phase == chosen.phase, 40.0)
    return ("" if told else f"the server was told {agent.reported()}"), after_s


def _phase_of(here: Field, version: str) -> str:
    """Return the phase of this version's install, "" as long as the model's phase speaks of another one."""
    record = here.agent.record()
    is_it = record.wanted is not None and f"/{version}/" in record.wanted.target
    return record.phase.value if is_it else ""


def _wait_for(here: Field, version: str, *phases: str) -> bool:
    return bool(eventually(lambda: _phase_of(here, version) in phases, WAIT_S))


def _good(result: dict[str, Any], n: int, seed: int) -> None:
    with poisoned_field(seed, EDGEFLEET_AGENT_PROBATION_INFERENCES="20") as (here, _), traffic(here):
        assert here.problem(here.deploy()) == ""
        for i in range(n):
            version = here.deploy(pad_bytes=1000)
            _wait_for(here, version, "committed", "rolled_back", "failed")
            note(result, "" if _phase_of(here, version) == "committed" else str(here.agent.record()), round=i)


@contextmanager
def poisoned_field(seed: int, **environment: str) -> Iterator[tuple[Field, Path]]:
    """Yield a field whose runtime may misbehave, and the folder of the acts."""
    command = f"{sys.executable} {MISBEHAVE}"
    settings: dict[str, Any] = {
        "EDGEFLEET_AGENT_PYTHON_COMMAND": command,
        "EDGEFLEET_AGENT_PROBATION_S": "3600",
        "EDGEFLEET_AGENT_PROBATION_INFERENCES": str(PROVEN_N),
        "EDGEFLEET_AGENT_GOLDEN_TRIAL_S": "1",
        "EDGEFLEET_AGENT_GOLDEN_INTERVAL_S": "1",
        "EDGEFLEET_AGENT_GOLDEN_TIMEOUT_S": str(GOLDEN_TIMEOUT_S),
        "EDGEFLEET_AGENT_LEAK_MIN_S": "3",
        "EDGEFLEET_AGENT_WORKER_MEMORY_BYTES": str(2 << 30),
    }
    with tempfile.TemporaryDirectory(prefix="ef-acts-") as acts:
        settings["MISBEHAVE_ACTS"] = acts
        with field(seed, shim=False, **(settings | environment)) as here:
            yield here, Path(acts)


@contextmanager
def traffic(here: Field) -> Iterator[None]:
    """Keep asking for answers, as callers do that take no for one; 40 a second."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(1 / CALLS_PER_S):
            with contextlib.suppress(OSError, KeyError, ValueError):
                here.agent.infer()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(15)


def faulty_bundle(version: str, fault: dict[str, Any]) -> bytes:
    """Return a bundle whose golden vectors are right and whose model carries the fault."""
    model = onnx.load_from_string(classifier_onnx(2.0))
    entry = model.metadata_props.add()
    entry.key, entry.value = "fault", "EFFAULT" + json.dumps(fault)
    return bundle_bytes(model.SerializeToString(), version=version)
