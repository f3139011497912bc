"""What the page of a rollout shows beyond its tables: the head, the answer, the pipeline, the strip of devices, the story. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.dashboard.rollout_page.decision_story import StoryEntry, story
from edgefleet_server.dashboard.rollout_page.evidence_chart import is_enough, stop_chart
from edgefleet_server.dashboard.rollout_page.gate_panels import GateLine, GatePanel, gate_lines, gate_panels
from edgefleet_server.dashboard.rollout_page.promotion_answer import (
    Answer,
    Ending,
    Head,
    answer,
    cost_of,
    ending,
    head,
)
from edgefleet_server.dashboard.rollout_page.stage_steps import Pipeline, pipeline
from edgefleet_server.dashboard.rollout_page.stop_curve import Simulation, simulation
from edgefleet_server.dashboard.rollout_page.turn_marks import Turn
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.events.model import EventView
from edgefleet_server.rollout.placement import devices_of
from edgefleet_server.rollout.spec.model import Size
from edgefleet_server.rollout.status.decision_views import DecisionView
from edgefleet_server.rollout.status.reader import RolloutReading, RolloutView
from edgefleet_server.rollout.status.whereabouts import DeviceFlow, WayBack
from edgefleet_server.telemetry.timelines.model import Timeline

MOST_SQUARES: Final = 240
PLACES: Final = (
    ("waiting", "Waiting", "n", ("eligible",)),
    (
        "installing",
        "Installing",
        "d",
        ("offered", "acked", "downloading", "staged", "parity_ok", "applying", "verifying"),
    ),
    ("silent", "Silent", "w", ("unreachable",)),
    ("soaking", "Soaking", "u", ("healthy",)),
    ("healthy", "Healthy", "", ("healthy",)),
    ("failed", "Failed", "b", ("failed", "rolled_back", "lost", "regressed")),
    ("back", "Sent back", "o", ("rolled_back",)),
)
"""Places of the strip: field, title, class of a square, states in the list behind it."""
STATES_OF: Final = {name: states for name, _title, _sign, states in PLACES}


@dataclass(frozen=True, slots=True)
class StripPlace:
    """One place of the strip. squares: how many are drawn; sign: their class."""

    name: str
    title: str
    sign: str
    count: int
    squares: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it. each: devices that one square stands for; silent: the first silent devices; verdicts: every gate in a line.

    stopped: how it was stopped, None where it was not; is_by_evidence: whether evidence alone was enough.
    cost: of rolling back, in words; is_free: two clicks are enough for it.
    """

    head: Head
    answer: Answer
    ending: Ending | None
    stopped: Chart | None
    is_by_evidence: bool
    pipeline: Pipeline
    strip: Sequence[StripPlace]
    each: int
    total: int
    silent: Sequence[str]
    silent_count: int
    gates: Sequence[GatePanel]
    verdicts: Sequence[GateLine]
    story: Sequence[StoryEntry]
    simulation: Simulation | None
    back: WayBack
    cost: str
    is_free: bool


def old_version(reading: RolloutReading) -> str:
    """Return the version of the model that most devices ran before, "" for none."""
    prefix = f"{reading.rollout.model}@"
    others = [one.removeprefix(prefix) for one in reading.whereabouts.replaced if one.startswith(prefix)]
    return next((one for one in others if one != reading.rollout.version), "")


def picture(
    reading: RolloutReading,
    decisions: Sequence[DecisionView],
    events: Sequence[EventView],
    timeline: Timeline | None,
    now: datetime,
) -> Picture:
    """Return the picture of a rollout at `now`."""
    rollout, where = reading.rollout, reading.whereabouts
    gates = gate_panels(rollout, old_version(reading), timeline)
    stopped_at = max((one.at for one in decisions if one.verdict == "roll_back"), default=None)
    over = ending(rollout, where.flow, where.recovery, stopped_at)
    stopped = stop_chart(decisions, turns_of(reading, stopped_at), rollout.finished_at or now) if over else None
    strip, each = strip_of(where.flow)
    return Picture(
        head=head(rollout, where.flow, where.replaced),
        answer=answer(rollout, where.flow),
        ending=over,
        stopped=stopped,
        is_by_evidence=stopped is not None and is_enough(stopped),
        pipeline=pipeline(rollout, now),
        strip=strip,
        each=each,
        total=where.flow.total,
        silent=where.silent,
        silent_count=where.flow.silent,
        gates=gates,
        verdicts=gate_lines(rollout, gates),
        story=story(decisions, events),
        simulation=simulated(rollout),
        back=where.way_back,
        cost=cost_of(where.way_back, rollout.release, rollout.spec["rollback_to"]),
        is_free=where.way_back.bytes == 0,
    )


def turns_of(reading: RolloutReading, stopped_at: datetime | None) -> list[Turn]:
    """Return what marks the chart of how a rollout was stopped. stopped_at: when that was decided."""
    recovery = reading.whereabouts.recovery
    opened = ((one.opened_at, "deploy", f"{one.name} opened", "") for one in reading.rollout.stages)
    turns = (
        (recovery.first_failed_at, "pause", "first failure", " b"),
        (stopped_at, "rollback", "stopped", " b"),
        (recovery.last_back_at, "deploy", "last device back", ""),
    )
    return [Turn(at, kind, words, tone) for at, kind, words, tone in (*opened, *turns) if at is not None]


def strip_of(flow: DeviceFlow) -> tuple[list[StripPlace], int]:
    """Return the places with as many squares as fit, and how many devices a square stands for. The last place only where it has any."""
    counts = [(place, getattr(flow, place[0])) for place in PLACES]
    each = max(1, -(-flow.total // MOST_SQUARES))
    shown = [one for one in counts if one[0][0] != "back" or one[1]]
    return [StripPlace(name, title, sign, n, -(-n // each)) for (name, title, sign, _), n in shown], each


def simulated(rollout: RolloutView) -> Simulation | None:
    """Return how soon the stages stop a bad release in the largest stratum, None before the first stage opens."""
    populations: dict[str, int] = {}
    for stage in rollout.stages:
        for cell in stage.strata:
            populations[cell.stratum] = max(populations.get(cell.stratum, 0), cell.population)
    largest = max(populations.values(), default=0)
    reached: list[tuple[str, int]] = []
    for stage, plain in zip(rollout.stages, rollout.spec["stages"], strict=True):
        size = Size(**plain["size"])
        if size.count_total:
            return None  # it is shared out among strata by rules that need the devices
        before = reached[-1][1] if reached else 0
        reached.append((stage.name, max(before, devices_of(size, largest))))
    return simulation(rollout.spec["gates"]["install"], reached, largest)
