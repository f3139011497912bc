"""F08: blocks of a slot rot while the device is off; one time in ten of both slots.

The agent must find it at its start: with one good slot that one serves, with none nothing does (safe mode), the server is told, and
what is wanted is fetched again. Without a network it stays at that; with one the wanted version is back in the end.
"""

import hashlib
from typing import Any

from tests.agent.field import eventually
from tests.crash.field import Field, in_field, note, run

BLOCK = 4096
BOTH = 1
"""Which round of ten damages both."""


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Damage slots n times."""
    return run("F08 corrupt-slot", n, seed, in_field(rotten, shim=False, EDGEFLEET_AGENT_REPLACE_S="0"))


def rotten(here: Field, result: dict[str, Any], n: int) -> None:
    """Damage slots n times."""
    older, newer = here.deploy(), here.deploy()
    assert here.problem(newer) == ""
    for i in range(n):
        if here.agent.record().previous is None:  # spent by the round before
            older, newer = newer, here.deploy()
            assert here.problem(newer) == ""
        both = i % 10 == BOTH
        note(result, _round(here, older, newer, both=both), round=i, both=both)


def _round(here: Field, older: str, newer: str, *, both: bool) -> str:
    agent, told = here.agent, _times_told(here)
    agent.stop()
    record = agent.record()
    assert record.active is not None
    assert record.previous is not None
    for ref in (record.active, record.previous) if both else (record.active,):
        _rot(here, ref.slot)
    here.line.cut()
    agent.start()
    if both:
        found = eventually(lambda: agent.model().get("mode") == "safe", 40.0)
        problem = "" if found and not agent.model()["serving"] else f"no safe mode: {agent.model()}"
    else:
        ok = eventually(lambda: agent.model().get("serving") and here.answers(older), 40.0)
        problem = "" if ok else f"the other slot does not serve: {agent.model()}\n{agent.log.read_text()[-2000:]}"
    here.line.mend()
    problem = problem or here.problem(newer)
    return problem or ("" if eventually(lambda: _times_told(here) > told, 40.0) else "the server was not told")


def _times_told(here: Field) -> int:
    feed, device = here.agent.site.house.fleet.feed, here.agent.id
    found, _ = feed.page(device_id=device, kinds=("phase",), limit=100_000)
    return sum(event.detail.get("code") == "slot.damaged" for event in found)


def _rot(here: Field, slot: str) -> None:
    """Zero one block of the slot's bundle, or flip a bit of it."""
    path = here.agent.state / "models" / "digits" / slot / "bundle"
    data = bytearray(path.read_bytes())
    before = hashlib.sha256(data).digest()
    at = here.rng.randrange(0, len(data), BLOCK)
    if here.rng.random() < 0.5:
        data[at : at + BLOCK] = bytes(len(data[at : at + BLOCK]))
    if hashlib.sha256(data).digest() == before:  # the block was zeros, or a bit is to be flipped
        data[at] ^= 1 << here.rng.randrange(8)
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    path.chmod(0o444)
