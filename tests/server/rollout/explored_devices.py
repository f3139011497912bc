"""What the devices of an explored fleet may say next, as an agent would: one report follows from the one before and the document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.model import NO_CANDIDATE, CandidateReport, Draw, How, Report
from tests.server.rollout.explored import Document, Ground, Node

FAULTS: Final = frozenset(
    {"refuses", "fails", "fails for a while", "has trouble", "goes back", "silent", "fails beside", "silent beside"}
)
"""What a device on which the release is good never says."""
CRIES: Final = (ErrorClass.GOLDEN, ErrorClass.CRASH)


def may_say(ground: Ground, node: Node, place: int) -> Iterator[tuple[str, Report]]:
    """Yield what a device may say next, as an agent would, and a liar as it likes."""
    liar = ground.fleet.liar
    for name, said in _may_say(ground, node, place):
        if liar in (None, place) or name not in FAULTS:
            yield name, said
    if liar == place:
        yield from _may_lie(ground, node, place)
    if any(_is_awaited(draw, node.reports[place]) for draw in _draws(ground, node, place)):
        yield "is heard of", replace(node.reports[place], last_seen=node.now)


def _may_lie(ground: Ground, node: Node, place: int) -> Iterator[tuple[str, Report]]:
    """Yield failures that did not happen, at any time, and that the device takes them back."""
    said, document, new = node.reports[place], node.documents[place], ground.new[place]
    if said.phase is Phase.ROLLED_BACK and document.bundle == new:
        serves = replace(
            said, phase=Phase.COMMITTED, active_sha256=new.sha256, error_class=None, error_code="", reason=""
        )
        yield "takes its word back", replace(serves, last_seen=node.now)
        return
    fresh = replace(said, reported_gen=document.gen, attempt=document.attempt, wanted_sha256=new.sha256)
    back = replace(fresh, active_sha256=ground.old[place].sha256, last_seen=node.now)
    for error_class in CRIES:
        yield f"cries {error_class}", _fault(back, Phase.ROLLED_BACK, error_class)


def _draws(ground: Ground, node: Node, place: int) -> Iterator[Draw]:
    """Yield the open draws of a device that is to run the release for its soak."""
    for one in node.confirmations:
        if one.verdict in ALIVE and one.how is How.SOAK:
            yield from (draw for draw in one.draws if draw.device == ground.devices[place] and not draw.answer)


def _is_awaited(draw: Draw, said: Report) -> bool:
    return said.is_online and (said.last_seen is None or said.last_seen < draw.at)


def _may_say(ground: Ground, node: Node, place: int) -> Iterator[tuple[str, Report]]:
    """Yield what a device may say next, as an agent would: it takes the newest document, and goes on from there."""
    said, document, new = node.reports[place], node.documents[place], ground.new[place]
    if not said.is_online:
        yield "back online", replace(said, is_online=True, last_seen=node.now)
        return
    said = replace(said, last_seen=node.now)
    if document.gen > max(said.reported_gen, said.refused_gen):
        yield "takes it up", _taken_up(ground, said, document)
        yield (
            "refuses",
            replace(said, refused_gen=document.gen, refused_code="verify.signature", refused_reason="x"),
        )
    if said.phase in (Phase.DOWNLOADING, Phase.SWITCHING):
        further = Phase.SWITCHING if said.phase is Phase.DOWNLOADING else Phase.PROBATION
        active = new.sha256 if further is Phase.PROBATION else said.active_sha256
        yield "further", replace(said, phase=further, active_sha256=active)
        yield "fails", _fault(said, Phase.FAILED, ErrorClass.GOLDEN)
        if ground.spec.device.retries is not None:
            yield "fails for a while", _fault(said, Phase.FAILED, ErrorClass.DISK)
        if said.error_class is None:
            yield "has trouble", _fault(said, said.phase, ErrorClass.DISK)
    if said.active_sha256 == new.sha256:
        back = replace(said, active_sha256=ground.old[place].sha256)
        yield "goes back", _fault(back, Phase.ROLLED_BACK, ErrorClass.CRASH)
        if said.phase is Phase.PROBATION:
            yield "commits", replace(said, phase=Phase.COMMITTED)
            yield "silent", replace(said, is_online=False)
    for name, told in _may_become(said.candidate, new.sha256):
        yield name, replace(said, candidate=told)
    if (said.candidate.sha256, said.candidate.state) == (new.sha256, "running"):
        yield "silent beside", replace(said, is_online=False)


def _may_become(told: CandidateReport, new: str) -> Iterator[tuple[str, CandidateReport]]:
    """Yield what may become of the release beside what serves: it is brought, runs, is suspended for a while, or fails."""
    if told.sha256 != new:
        return
    match told.state:
        case "waiting":
            yield "is brought beside", CandidateReport(new, "downloading")
        case "downloading":
            yield "runs beside", CandidateReport(new, "running")
            yield "fails beside", CandidateReport(new, "failed", "install.golden", "it failed")
        case "running":
            yield "is suspended beside", CandidateReport(new, "suspended", "candidate.memory", "no memory")
            yield "fails beside", CandidateReport(new, "failed", "candidate.crash", "it failed")
        case "suspended":
            yield "runs beside", CandidateReport(new, "running")


def _taken_up(ground: Ground, said: Report, document: Document) -> Report:
    bundle = document.bundle
    wanted = "" if bundle is None else bundle.sha256
    fresh = replace(
        said,
        reported_gen=document.gen,
        gen=document.gen,
        wanted_sha256=wanted,
        attempt=document.attempt,
        error_class=None,
        error_code="",
        reason="",
        candidate=_candidate(said.candidate, document),
    )
    if wanted == said.active_sha256:
        keeps = said.phase if said.phase in (Phase.PROBATION, Phase.COMMITTED) else Phase.COMMITTED
        return replace(fresh, phase=keeps)
    if bundle is not None and bundle in ground.new:
        return replace(fresh, phase=Phase.DOWNLOADING)
    return replace(fresh, phase=Phase.COMMITTED, active_sha256=wanted)


def _candidate(told: CandidateReport, document: Document) -> CandidateReport:
    """Return what a device says of a candidate once it took a document up: one that failed is tried again for a newer document."""
    if document.candidate is None:
        return NO_CANDIDATE
    goes_on = told.sha256 == document.candidate.sha256 and told.state != "failed"
    return told if goes_on else CandidateReport(document.candidate.sha256, "waiting")


def _fault(said: Report, phase: Phase, error_class: ErrorClass) -> Report:
    return replace(said, phase=phase, error_class=error_class, error_code=f"x.{error_class}", reason="it failed")
