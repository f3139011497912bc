"""When two explored states are one: those that differ only in words, in counters that grow for ever, or in times long past."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import Phase
from edgefleet_server.rollout.draft import NOT_BACK
from edgefleet_server.rollout.hearing import OVERWRITTEN
from edgefleet_server.rollout.machines import CELL_DONE
from edgefleet_server.rollout.model import Assignment, Cell, StageState
from tests.server.rollout.explored import HOUR, Ground, Node

LONG_AGO: Final = 8
"""Hours after which nothing depends on how long ago something was: the longest wait is four times `verify`."""


def key_of(ground: Ground, node: Node) -> int:
    """Return what tells states apart."""
    cells = tuple(_cell(node, cell) for cell in node.cells)
    known = {ground.place[one.device]: one for one in node.assignments}
    devices = tuple(_device(node, place, known.get(place)) for place in range(len(ground.devices)))
    return hash((node.state, node.joined, cells, devices))


def combination_of(node: Node) -> str:
    """Return which states of rollout, stages and devices meet in it."""
    stages = "+".join(sorted({cell.state.value for cell in node.cells}))
    states = "+".join(sorted({one.state.value for one in node.assignments}))
    return f"{node.state.value}/{stages}/{states}"


def _cell(node: Node, cell: Cell) -> tuple[object, ...]:
    times = (_ago(node, cell.opened_at), _ago(node, cell.soak_until), _ago(node, cell.resumed_at))
    if cell.state in CELL_DONE:
        times = (None, None, None)
    asked = (cell.approved_by, _ago(node, cell.asked_at) if cell.state is StageState.PENDING else None)
    return (cell.stage, cell.stratum, cell.state, cell.cut, cell.code, cell.verdict, cell.strength, times, asked)


def _device(node: Node, place: int, one: Assignment | None) -> tuple[object, ...]:
    said, document = node.reports[place], node.documents[place]
    gens = [document.gen, said.reported_gen, said.gen, said.refused_gen]
    tries = [document.attempt, said.attempt]
    told: tuple[object, ...] = ()
    if one is not None:
        gens += [one.gen, one.back_gen]
        tries += [one.attempt]
        words = (one.reason.startswith(NOT_BACK), one.reason == OVERWRITTEN, one.error_class)
        times = tuple(
            _ago(node, moment)
            for moment in (one.deadline, one.switched_at, one.back_at, one.entered_at if one.deadline else None)
        )
        marks = (
            one.is_joiner,
            one.is_accepted,
            one.exposed_at is not None,
            one.back_done_at is not None,
            one.failed_before,
        )
        told = (one.state, one.stage, words, times, marks)
    bundle = "" if document.bundle is None else document.bundle.target
    told_beside = said.candidate
    beside = (document.candidate is not None, document.share, told_beside.sha256, told_beside.state, told_beside.code)
    spoke = (said.phase, said.active_sha256, said.wanted_sha256, said.error_class, said.is_online)
    seen_at = _ago(node, said.last_seen) if said.phase is Phase.PROBATION else None
    return (told, bundle, beside, spoke, seen_at, _in_order(gens), _in_order(tries))


def _ago(node: Node, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return max(-LONG_AGO, min(LONG_AGO, (node.now - moment) // HOUR))


def _in_order(numbers: list[int]) -> tuple[int, ...]:
    """Return numbers as their order: 0 stays 0, the smallest other is 1, and so on."""
    place = {number: at for at, number in enumerate(sorted({0, *numbers}))}
    return tuple(place[number] for number in numbers)
