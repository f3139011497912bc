"""A rollout as a tree: its stages, below each the strata with state, verdict, figures and reason, as `rollout show` prints it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgefleet_cli.core import api
from edgefleet_cli.render.format import counted, duration, text, until_s
from edgefleet_cli.render.output import visible
from edgefleet_cli.render.sparkline import bar
from edgefleet_cli.rollout.render import (
    counts_text,
    stage_lines,
    state_text,
)

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

STOPPED = "stopped"
MARKS = {"passed": "●", "failed": "✗", "held": "‖", "skipped": "–", "pending": "○", STOPPED: "‖"}
RUNNING_MARK = "◐"
STYLES = {"passed": "green", "failed": "red", "held": "yellow", "skipped": "dim", "pending": "dim", STOPPED: "yellow"}
_UNOPENED = frozenset({"pending", "skipped"})
_QUIET_STAGES = frozenset({"passed", "pending", "skipped"})
_DEFAULT_ALPHA = {"alpha_abort": 0.01, "alpha_promote": 0.05}


def rollout_tree(rollout: api.rollout.Rollout, now: datetime) -> Tree:
    """Return the tree of a rollout at `now`."""
    from rich.text import Text
    from rich.tree import Tree

    shown = f"{text(rollout.release)}  {state_text(rollout)}  {counts_text(rollout.counts)}"
    tree = Tree(Text(visible(shown), style="bold"), guide_style="dim")
    for stage in rollout.stages:
        branch = tree.add(_stage_label(stage))
        for cell in stage.strata:
            branch.add(_cell_label(cell, rollout, now))
    return tree


def counts_bar(counts: api.rollout.Counts) -> str:
    """Return how far devices are as a bar: `█` healthy, `✗` failed, `▒` under way, `·` to come."""
    members = max(counts.members, counts.healthy + counts.failed + counts.pending)
    return bar([("█", counts.healthy), ("✗", counts.failed), ("▒", counts.pending)], members)


def _stage_label(stage: api.rollout.Stage) -> Text:
    state = ended_as(stage)
    counts = counts_text(stage.counts)
    shown = _line(
        f"{mark_of(state)} {text(stage.name)}: {_with_strength(state, stage)}",
        text(stage.size_text),
        f"soak {duration(stage.soak_s)}" if stage.soak_s else "",
        counts if state == "passed" else "",
    )
    picture = "" if state in _QUIET_STAGES else f"{counts_bar(stage.counts)} {counts}"
    is_shown_below = any(cell.reason and cell.reason in stage.reason for cell in stage.strata)
    return _label([shown, picture, "" if is_shown_below else stage.reason, *stage_lines(stage)], state)


def _cell_label(cell: api.rollout.Stratum, rollout: api.rollout.Rollout, now: datetime) -> Text:
    state = ended_as(cell)
    name = f"{mark_of(state)} {text(cell.stratum)}: {_with_strength(state, cell)}"
    if state in _UNOPENED:
        shown = _line(name, counted(cell.population, "device") if cell.population else "", _rule(cell))
        return _label([shown, cell.reason], state)
    verdict = (cell.verdict or "").replace("_", " ")
    head = _line(name, f"verdict {verdict}" if verdict else "", _soak(cell, now))
    figures = _line(counts_text(cell.counts), _rule(cell), *_e_values(cell, rollout))
    return _label([head, figures, *map(metric_text, cell.quality), _why(cell)], state)


def metric_text(metric: api.rollout.Metric) -> str:
    """Return `hold latency_p95_ms: +3.1 % (-1.2 … +6.9), threshold +10 %, 40 devices, 2 without a value`."""
    unit = f" {metric.unit}" if metric.unit else ""
    ends = [end for end in (metric.low, metric.high) if end is not None]
    between = f" ({' … '.join(map(_short, ends))})" if ends else ""
    value = f"{_short(metric.value)}{unit}{between}" if metric.value is not None else "no value"
    shown = f"{metric.verdict.replace('_', ' ')} {text(metric.name)}: {value}"
    if metric.name != "drift":
        shown += f", {'at least' if metric.bound == 'min' else 'at most'} {_short(metric.threshold)}{unit}"
    missing = f", {metric.missing} without a value" if metric.missing else ""
    return f"{shown}, {counted(metric.devices, 'device')}{missing}"


def _why(cell: api.rollout.Stratum) -> str:
    """Return reason and bound, whichever of them says what the other does not."""
    reason, bound = cell.reason, cell.bound
    if not bound or bound in reason:
        return reason
    return bound if reason in bound else f"{reason}; {bound}"


def ended_as(entry: api.rollout.Stage | api.rollout.Stratum) -> str:
    """Return the state of a stage; one that a person ended without a failure has not failed."""
    by_hand = entry.stopped_by and entry.state == "failed" and not entry.counts.failed
    return f"{STOPPED} by {entry.stopped_by}" if by_hand else text(entry.state)


def _with_strength(state: str, entry: api.rollout.Stage | api.rollout.Stratum) -> str:
    return f"{state} ({entry.strength})" if entry.strength else state


def _rule(cell: api.rollout.Stratum) -> str:
    return f"by {cell.rule}" if cell.rule else ""


def _soak(cell: api.rollout.Stratum, now: datetime) -> str:
    left_s = until_s(cell.soak_until, now)
    is_open = cell.state in {"exposing", "soaking"}
    return f"soak ends in {duration(math.ceil(left_s))}" if is_open and left_s is not None and left_s > 0 else ""


def _e_values(cell: api.rollout.Stratum, rollout: api.rollout.Rollout) -> list[str]:
    """Return how far the sequential tests are; the promote test decides only where evidence is the rule."""
    shown = []
    if cell.e_abort is not None:
        limit = _short(cell.abort_at) if cell.abort_at else _limit(rollout, "alpha_abort")
        if cell.e_take_back is None or cell.e_take_back == cell.e_abort:
            shown.append(f"abort e {_short(cell.e_abort)} of {limit}")
        else:
            shown.append(f"stop e {_short(cell.e_abort)} of {limit}")
            shown.append(f"take back e {_short(cell.e_take_back)} of {limit}")
    if cell.e_promote is not None and cell.rule == "evidence":
        shown.append(f"promote e {_short(cell.e_promote)} of {_limit(rollout, 'alpha_promote')}")
    return shown


def _limit(rollout: api.rollout.Rollout, alpha: str) -> str:
    return _short(evidence_limit(rollout, alpha))


def evidence_limit(rollout: api.rollout.Rollout, alpha: str) -> float:
    """Return the evidence at which a test of the spec decides. alpha: its chance of a false alarm, by its name in the spec."""
    found: Any = rollout.spec
    for key in ("gates", "install", alpha):
        found = found.get(key) if isinstance(found, dict) else None
    is_usable = isinstance(found, int | float) and found > 0
    return 1.0 / (found if is_usable else _DEFAULT_ALPHA[alpha])


def _short(value: float) -> str:
    return f"{value:.3g}"


def mark_of(state: str) -> str:
    """Return the mark of a state."""
    return MARKS.get(state.partition(" ")[0], RUNNING_MARK)


def style_of(state: str) -> str:
    """Return the style of a state."""
    return STYLES.get(state.partition(" ")[0], "cyan")


def _line(*words: str) -> str:
    return " · ".join(word for word in words if word)


def _label(lines: list[str], state: str) -> Text:
    """Return lines as one label, the first in the colour of `state`."""
    from rich.text import Text

    first, *others = [visible(" ".join(line.split())) for line in lines if line]
    label = Text(first, style=style_of(state))
    for line in others:
        label.append("\n" + line, style="none")
    return label
