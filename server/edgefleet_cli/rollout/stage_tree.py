"""A rollout as a tree: its stages, below each the strata with state, verdict, figures and reason.

The same tree is printed by `rollout show` and redrawn by `rollout watch`.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgefleet_cli.render.format import counted, duration, text, until_s
from edgefleet_cli.render.output import visible
from edgefleet_cli.render.sparkline import bar
from edgefleet_cli.rollout.blocker_text import wait_lines
from edgefleet_cli.rollout.render import WAITS_FOR_A_PERSON, counts_text, next_steps, state_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text
    from rich.tree import Tree

Json = dict[str, Any]

_MARKS = {"passed": "✓", "failed": "✗", "held": "‖", "skipped": "–", "pending": "○"}
_RUNNING_MARK = "●"
_STYLES = {"passed": "green", "failed": "red", "held": "yellow", "skipped": "dim", "pending": "dim"}
_UNOPENED = frozenset({"pending", "skipped"})
_QUIET_STAGES = frozenset({"passed", "pending", "skipped"})
_DEFAULT_ALPHA = {"alpha_abort": 0.01, "alpha_promote": 0.05}


def rollout_tree(rollout: Json, now: datetime, *, is_compact: bool = False) -> Tree:
    """Return the tree of a rollout at `now`; compact: stages in which nothing goes on are one line."""
    from rich.text import Text
    from rich.tree import Tree

    told = f"{text(rollout.get('release'))}  {state_text(rollout)}  {counts_text(rollout.get('counts'))}"
    tree = Tree(Text(visible(told), style="bold"), guide_style="dim")
    for stage in rollout.get("stages") or []:
        branch = tree.add(_stage_label(stage))
        if is_compact and stage.get("state") in _QUIET_STAGES:
            continue
        for cell in stage.get("strata") or []:
            branch.add(_cell_label(cell, rollout, now))
    return tree


def counts_bar(counts: Any) -> str:
    """Return how far devices are as a bar: `█` healthy, `✗` failed, `▒` under way, `·` to come."""
    known: Json = counts if isinstance(counts, dict) else {}
    healthy, failed, pending = (int(known.get(name) or 0) for name in ("healthy", "failed", "pending"))
    members = max(int(known.get("members") or 0), healthy + failed + pending)
    return bar([("█", healthy), ("✗", failed), ("▒", pending)], members)


def live_view(rollout: Json, now: datetime, *, is_compact: bool = False) -> Group:
    """Return what `rollout watch` draws: the tree and, unless that tells it all, why it stands so and what can be done."""
    from rich.console import Group
    from rich.text import Text

    has_more = rollout.get("reason") and rollout.get("state") != "running"
    words = [f"{text(rollout.get('id'))}: {rollout['reason']}" if has_more else ""]
    if rollout.get("state") in WAITS_FOR_A_PERSON:
        words.append(f"next: {next_steps(rollout)}")
    return Group(
        rollout_tree(rollout, now, is_compact=is_compact), *(Text(visible(word), "yellow") for word in words if word)
    )


def _stage_label(stage: Json) -> Text:
    state = text(stage.get("state"))
    counts = counts_text(stage.get("counts"))
    told = _line(
        f"{_mark(state)} {text(stage.get('name'))}: {_with_strength(state, stage)}",
        text(stage.get("size_text")),
        f"soak {duration(stage.get('soak_s'))}" if stage.get("soak_s") else "",
        counts if state == "passed" else "",
    )
    picture = "" if state in _QUIET_STAGES else f"{counts_bar(stage.get('counts'))} {counts}"
    reason = str(stage.get("reason") or "")
    is_told_below = any(cell.get("reason") and cell["reason"] in reason for cell in stage.get("strata") or [])
    return _label([told, picture, "" if is_told_below else reason, *wait_lines(stage)], state)


def _cell_label(cell: Json, rollout: Json, now: datetime) -> Text:
    state = text(cell.get("state"))
    name = f"{_mark(state)} {text(cell.get('stratum'))}: {_with_strength(state, cell)}"
    if state in _UNOPENED:
        population = cell.get("population")
        told = _line(name, counted(population, "device") if population else "", _rule(cell))
        return _label([told, str(cell.get("reason") or "")], state)
    verdict = str(cell.get("verdict") or "").replace("_", " ")
    head = _line(name, f"verdict {verdict}" if verdict else "", _soak(cell, now))
    figures = _line(counts_text(cell.get("counts")), _rule(cell), *_e_values(cell, rollout))
    return _label([head, figures, *map(metric_text, cell.get("quality") or []), _why(cell)], state)


def metric_text(metric: Json) -> str:
    """Return `hold latency_p95_ms: +3.1 % (-1.2 … +6.9), threshold +10 %, 40 devices, 2 without a value`."""
    unit = f" {metric['unit']}" if metric.get("unit") else ""
    ends = [end for end in (metric.get("low"), metric.get("high")) if isinstance(end, int | float)]
    between = f" ({' … '.join(map(_short, ends))})" if ends else ""
    value = f"{_short(metric['value'])}{unit}{between}" if isinstance(metric.get("value"), int | float) else "no value"
    told = f"{str(metric.get('verdict') or '').replace('_', ' ')} {text(metric.get('name'))}: {value}"
    bound = metric.get("threshold")
    if isinstance(bound, int | float) and metric.get("name") != "drift":
        told += f", {'at least' if metric.get('bound') == 'min' else 'at most'} {_short(bound)}{unit}"
    missing = f", {metric['missing']} without a value" if metric.get("missing") else ""
    return f"{told}, {counted(metric.get('devices') or 0, 'device')}{missing}"


def _why(cell: Json) -> str:
    """Return reason and bound, whichever of them says what the other does not."""
    reason, bound = str(cell.get("reason") or ""), str(cell.get("bound") or "")
    if not bound or bound in reason:
        return reason
    return bound if reason in bound else f"{reason}; {bound}"


def _with_strength(state: str, entry: Json) -> str:
    return f"{state} ({entry['strength']})" if entry.get("strength") else state


def _rule(cell: Json) -> str:
    return f"by {cell['rule']}" if cell.get("rule") else ""


def _soak(cell: Json, now: datetime) -> str:
    left_s = until_s(cell.get("soak_until"), now)
    is_open = cell.get("state") in {"exposing", "soaking"}
    return f"soak ends in {duration(math.ceil(left_s))}" if is_open and left_s is not None and left_s > 0 else ""


def _e_values(cell: Json, rollout: Json) -> list[str]:
    """Return how far the two sequential tests are; the promote test decides only where evidence is the rule."""
    told = []
    if isinstance(cell.get("e_abort"), int | float):
        limit = _short(cell["abort_at"]) if cell.get("abort_at") else _limit(rollout, "alpha_abort")
        told.append(f"abort e {_short(cell['e_abort'])} of {limit}")
    if isinstance(cell.get("e_promote"), int | float) and cell.get("rule") == "evidence":
        told.append(f"promote e {_short(cell['e_promote'])} of {_limit(rollout, 'alpha_promote')}")
    return told


def _limit(rollout: Json, alpha: str) -> str:
    found: Any = rollout
    for key in ("spec", "gates", "install", alpha):
        found = found.get(key) if isinstance(found, dict) else None
    is_usable = isinstance(found, int | float) and found > 0
    return _short(1.0 / (found if is_usable else _DEFAULT_ALPHA[alpha]))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _mark(state: str) -> str:
    return _MARKS.get(state, _RUNNING_MARK)


def _line(*words: str) -> str:
    return " · ".join(word for word in words if word)


def _label(lines: list[str], state: str) -> Text:
    """Return lines as one label, the first in the colour of `state`."""
    from rich.text import Text

    first, *others = [visible(" ".join(line.split())) for line in lines if line]
    label = Text(first, style=_STYLES.get(state, "cyan"))
    for line in others:
        label.append("\n" + line, style="none")
    return label
