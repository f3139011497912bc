"""A rollout as a pipeline: its stages from left to right with counts and time left, what differs between profiles, the evidence in words
and on a gauge, and what it waits for with the command that moves it. Pure.

`rollout watch` redraws it, `top` shows it; the page of a rollout has the same parts in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

from edgefleet_cli.core import api
from edgefleet_cli.render.format import counted, digits, duration, moment, text, until_s
from edgefleet_cli.render.output import visible
from edgefleet_cli.render.width import GAP, cut, cut_runs, shares
from edgefleet_cli.rollout.render import WAITS_FOR_A_PERSON, is_final, next_steps, reason_text, state_text
from edgefleet_cli.rollout.stage_tree import STYLES, ended_as, evidence_limit, mark_of, style_of

if TYPE_CHECKING:
    from rich.text import Text

LEAST_CELL, MOST_CELL = 17, 32
LEAST_NAME: Final = 8
GAUGE: Final = 20
_GAUGE_BEGINS_AT: Final = 0.1
_MOST_PROFILES, _MOST_WAITS = 6, 4
_DAY_S: Final = 86_400
_OPEN: Final = frozenset({"exposing", "soaking", "judging"})
_DONE: Final = frozenset({"passed", "skipped"})
_BACK: Final = frozenset({"rolling_back", "rolled_back", "rollback_incomplete"})
Run = tuple[str, str]
"""Text and its style."""


def pipeline_text(rollout: api.rollout.Rollout, now: datetime, width: int) -> Text:
    """Return the pipeline of a rollout at `now` as text of so many columns."""
    from rich.text import Text

    shown = Text(overflow="fold")
    for number, row in enumerate(pipeline_rows(rollout, now, width)):
        shown.append("\n" if number else "")
        for run, style in row:
            shown.append(visible(run), style)
    return shown


def pipeline_rows(rollout: api.rollout.Rollout, now: datetime, width: int) -> list[list[Run]]:
    """Return the rows of a pipeline: none is wider than `width`, but sentences, which may fold."""
    style = STYLES.get(rollout.state, _STATE_STYLES.get(rollout.state, "bold"))
    state, counts = state_text(rollout).replace("_", " "), tally(rollout)
    room = max(LEAST_NAME, width - len(state) - len(counts) - 2 * GAP)  # a long name gives way to how it stands
    head = [(cut(text(rollout.release), room), "bold"), (" " * GAP, ""), (state, style), (" " * GAP, ""), (counts, "")]
    rows = [cut_runs(head, width)]
    if rollout.stages:
        is_wide = len(rollout.stages) * LEAST_CELL <= width
        rows += _across(rollout, now, width) if is_wide else _down(rollout, now, width)
    rows += [cut_runs([("  ", ""), *row], width) for row in _profiles(rollout, now)]
    rows += [cut_runs(row, width) for row in _evidence(rollout)]
    reason = reason_text(rollout)
    if reason:
        rows.append([(f"{text(rollout.id)}: {reason}", "yellow" if rollout.state in WAITS_FOR_A_PERSON else "")])
    return [*rows, *_waits(rollout, now)]


_STATE_STYLES: Final = {
    "finished": "bold green",
    "paused": "bold yellow",
    "awaiting_approval": "bold yellow",
    "rolled_back": "bold red",
    "rolling_back": "bold red",
    "regressed": "bold red",
    "rollback_incomplete": "bold red",
}


def tally(rollout: api.rollout.Rollout) -> str:
    """Return how many devices have the release, how many of them went back, and how many failed."""
    counts = rollout.counts
    members = max(counts.members, counts.exposed)
    is_back = rollout.state in _BACK
    have = f"{counts.exposed} of {members} {'had' if is_back else 'have'} it" if members else ""
    back = f"{counts.rolled_back} back" if is_back and counts.exposed else ""
    failed = f"{counts.failed} failed" if counts.failed else "none failed" if counts.exposed else ""
    return ", ".join(word for word in (have, back, failed) if word)


def _across(rollout: api.rollout.Rollout, now: datetime, width: int) -> Iterator[list[Run]]:
    """Yield the stages next to each other: marks with connectors, names, counts, times."""
    stages = rollout.stages
    words = [(_name(stage), _counts(stage, rollout), _when(stage, rollout, now)) for stage in stages]
    cells = _widths([max(map(len, one)) + GAP for one in words], width)
    rail: list[Run] = []
    for stage, cell in zip(stages, cells, strict=True):
        state = ended_as(stage)
        sign = "─" if stage.state in _DONE else "┄"
        rail += [(mark_of(state), style_of(state)), (sign * (cell - 1), "green" if stage.state in _DONE else "dim")]
    yield rail[:-1]
    for row in range(3):
        yield [
            (_cell(said[row], cell), _cell_style(stage, row))
            for stage, said, cell in zip(stages, words, cells, strict=True)
        ]


def _widths(needed: list[int], width: int) -> list[int]:
    """Return the widths of stages next to each other: alike where that is enough for the words, else as the words need."""
    even = min(width // len(needed), MOST_CELL)
    if max(needed) <= even:
        return [even] * len(needed)
    return shares(needed, [LEAST_CELL] * len(needed), width + GAP * (len(needed) - 1))


def _cell_style(stage: api.rollout.Stage, row: int) -> str:
    is_open = stage.state in _OPEN
    return ("bold" if is_open else "", _counts_style(stage), "" if is_open else "dim")[row]


def _down(rollout: api.rollout.Rollout, now: datetime, width: int) -> Iterator[list[Run]]:
    """Yield the stages below each other, for a narrow terminal."""
    for stage in rollout.stages:
        state = ended_as(stage)
        words = ", ".join(word for word in (_counts(stage, rollout), _when(stage, rollout, now)) if word)
        name = _name(stage) if len(_name(stage)) + len(words) + 4 <= width else text(stage.name)  # its size goes first
        row = [(mark_of(state), style_of(state)), (f" {name}  ", "bold" if stage.state in _OPEN else "")]
        yield cut_runs([*row, (words, _counts_style(stage))], width)


def _cell(words: str, width: int) -> str:
    from rich.cells import set_cell_size

    return set_cell_size(cut(words, width - GAP), width)


def _name(stage: api.rollout.Stage) -> str:
    return f"{text(stage.name)} {stage.size_text}".strip()


def _counts(stage: api.rollout.Stage, rollout: api.rollout.Rollout) -> str:
    """Return how many devices are healthy: of an open stage those that are so far, and soak, as its reason says."""
    counts, outlook = stage.counts, rollout.outlook
    if outlook is not None and outlook.of and stage.state in _OPEN and stage.name == rollout.stage:
        soaks, healthy = outlook.soaking, outlook.healthy
        words = [f"{soaks} of {outlook.of} soaking" if soaks else f"{healthy} of {outlook.of} healthy"]
        words += [f"{outlook.failed} failed"] if outlook.failed else []  # before what a narrow cell may cut
        return ", ".join([*words, f"{healthy} healthy"] if soaks and healthy else words)
    members = max(counts.members, counts.exposed)
    if not members:
        population = sum(cell.population for cell in stage.strata)
        return f"of {counted(population, 'device')}" if population else ""
    is_back = rollout.state in _BACK and counts.rolled_back and not counts.healthy
    said = f"{counts.rolled_back} of {members} back" if is_back else f"{counts.healthy} of {members} healthy"
    return f"{said}, {counts.failed} failed" if counts.failed else said


def _counts_style(stage: api.rollout.Stage) -> str:
    counts = stage.counts
    if counts.failed:
        return "red"
    return "green" if counts.exposed and counts.healthy == max(counts.members, counts.exposed) else ""


def _when(stage: api.rollout.Stage, rollout: api.rollout.Rollout, now: datetime) -> str:
    """Return what a stage does, with the time that it took or has left."""
    state = ended_as(stage)
    if stage.state == "pending" and (is_final(rollout) or rollout.state in _BACK):
        return "never opened"
    if stage.state in _OPEN:
        left_s = max(
            (until_s(cell.soak_until, now) or 0.0 for cell in stage.strata if cell.state in _OPEN), default=0.0
        )
        return f"{state}, {duration(math.ceil(left_s))} left" if left_s > 0 else state
    began, took = stage.opened_at, ""
    if began and stage.ended_at:
        took = f", took {duration((datetime.fromisoformat(stage.ended_at) - datetime.fromisoformat(began)).total_seconds())}"
    soak = f", soaks {duration(stage.soak_s)}" if stage.state == "pending" and stage.soak_s else ""
    return f"{state}{took}{soak}"


def _profiles(rollout: api.rollout.Rollout, now: datetime) -> Iterator[list[Run]]:
    """Yield a row for each profile of the stages that are not over, where profiles differ: in state, or in whether something failed."""
    for stage in rollout.stages:
        cells = [cell for cell in stage.strata if cell.state not in {"pending", "skipped"}]
        kinds = {(ended_as(cell), bool(cell.counts.failed)) for cell in cells}
        if stage.state in _DONE or len(kinds) < 2:
            continue
        worst = sorted(cells, key=lambda cell: (-cell.counts.failed, cell.state in _DONE))
        for cell in worst[:_MOST_PROFILES]:
            state, counts = ended_as(cell), cell.counts
            left_s = until_s(cell.soak_until, now) or 0.0
            left = f", {duration(math.ceil(left_s))} left" if cell.state in _OPEN and left_s > 0 else ""
            failed = f", {counts.failed} failed" if counts.failed else ""
            healthy = f"{counts.healthy} of {counts.exposed} healthy" if counts.exposed else "no device had it"
            said = f" {text(cell.stratum)}: {state}{left}, {healthy}{failed}"
            yield [(mark_of(state), style_of(state)), (said, "red" if counts.failed else "")]
        if len(cells) > _MOST_PROFILES:
            yield [(f"and {counted(len(cells) - _MOST_PROFILES, 'more profile')}", "dim")]


def _evidence(rollout: api.rollout.Rollout) -> Iterator[list[Run]]:
    """Yield the strongest evidence against the release of each open stage, in words and on a gauge; none where a person ended it."""
    for stage in rollout.stages if not is_final(rollout) else ():
        if stage.stopped_by and not stage.counts.failed:
            continue
        found = [
            (cell.e_abort / limit, cell.e_abort, limit, cell)
            for cell in stage.strata
            if cell.e_abort is not None and cell.counts.exposed and stage.state not in {*_DONE, "pending"}
            and (limit := cell.abort_at or evidence_limit(rollout, "alpha_abort"))
        ]  # fmt: skip
        if found:
            share, value, limit, cell = max(found, key=lambda one: one[0])
            of = f" ({text(cell.stratum)})" if len(stage.strata) > 1 else ""
            style = "red" if share >= 1 else "yellow" if share >= 0.1 else "green"
            said = f" {digits(value, 2)} of {digits(limit, 3)} to stop: evidence that it is worse{of}"
            yield [(gauge(value, limit), style), (said, "")]


def gauge(value: float, limit: float, width: int = GAUGE) -> str:
    """Return evidence on a scale of powers of ten from 0.1 to the limit, at which `┤` stands: `━━━━●┄┄┄┄┄┤`."""
    length = math.log10(limit / _GAUGE_BEGINS_AT)
    share = math.log10(max(value, _GAUGE_BEGINS_AT) / _GAUGE_BEGINS_AT) / length if length > 0 else 1.0
    place = min(width - 1, max(0, round(share * (width - 1))))
    return "━" * place + "●" + "┄" * (width - 1 - place) + "┤"


def _waits(rollout: api.rollout.Rollout, now: datetime) -> Iterator[list[Run]]:
    """Yield what a rollout waits for, each with its time and the command that moves it."""
    if is_final(rollout):
        return
    waits = rollout.waits or next((stage.waits for stage in rollout.stages if stage.waits), ())
    if waits:
        yield [("Waits for", "bold")]
    for wait in waits[:_MOST_WAITS]:
        left_s = until_s(wait.until, now)
        is_soon = left_s is not None and 0 < left_s < _DAY_S
        at = moment(wait.until)[11:] if is_soon else moment(wait.until)
        when = f" {wait.at or 'until'} {at}" if wait.until else ""
        when += f" ({duration(math.ceil(left_s))} left)" if is_soon and left_s else ""
        yield [("  ◷ ", "cyan"), (f"{wait.text}{'. Next: ' + wait.next if wait.next else ''}{when}", "")]
        if command := moving_command(rollout, wait):
            yield [(f"    {command}", "dim")]
    if len(waits) > _MOST_WAITS:
        yield [(f"  and {counted(len(waits) - _MOST_WAITS, 'more reason')}", "dim")]
    if rollout.state in WAITS_FOR_A_PERSON:
        yield [(f"next: {next_steps(rollout)}", "yellow")]


def moving_command(rollout: api.rollout.Rollout, wait: api.rollout.Wait) -> str:
    """Return the command that moves what is waited for, "" where its own words or the last line name it, or there is none."""
    if "`" in wait.next or rollout.state in WAITS_FOR_A_PERSON:
        return ""
    id_ = text(rollout.id)
    if wait.next or rollout.state in _BACK or any(stage.state == "exposing" for stage in rollout.stages):
        return f"which: `edgectl rollout devices {id_}`"
    is_open = rollout.state == "running" and any(stage.state in _OPEN for stage in rollout.stages)
    return f"sooner: `edgectl rollout promote {id_} --reason R`" if is_open else ""
