"""`POST …/feedback`: what was right about answers that were given before, and business figures (docs/how-to/send-ground-truth.md).

1. A body is one object, a list of them, or `{"feedback": [ … ]}`, at most MAX_ITEMS. Each names an answer by `trace_id` (or `key`: the
   trace id that the caller gave itself) and says `label` or `value`; or it gives figures by name in `kpi`; or both.
2. A label is a class by name or by number, of a model that answers classes; a value a number, of one that answers numbers.
3. What is wrong with one says nothing about the others: each refusal is named by its place. Pairing is agentd's, a moment later.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.worker.control.protocol import Label, Labels, ReadLabels
from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.drift.reference import read_reference
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ground_truth import LEAST_UNIT, MAX_FIGURE, MAX_FIGURES, MOST_UNIT, is_name
from edgefleet_runtime.postprocess import ArgMax, Scale, TopK

MAX_ITEMS: Final = 1_000
KEY_CHARS: Final = 64
LABEL_CHARS: Final = 120
BUSY: Final = "the agent is busy; send it again"
AHEAD_S: Final = 3_600
"""So far may the clock of a caller be ahead."""
FIELDS: Final = frozenset({"trace_id", "key", "label", "value", "kpi", "segment", "at"})


class Refused(NamedTuple):
    """One of the items that cannot be taken. place: its number in the request, from 0."""

    place: int
    error: str


class _ItemError(Exception):
    """What is wrong with one item, in words."""


def items_of(body: bytes) -> list[Any]:
    """Return the items of a request. Raises BadRequestError."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if isinstance(value, dict) and isinstance(value.get("feedback"), list):
        value = value["feedback"]
    found = value if isinstance(value, list) else [value]
    if not 0 < len(found) <= MAX_ITEMS:
        raise BadRequestError(f"{len(found)} items of feedback; send 1 to {MAX_ITEMS} in one request")
    return found


def read_items(served: ServedModel, items: Sequence[Any]) -> tuple[list[Label], list[Refused]]:
    """Return what can be taken, and what cannot and why."""
    taken: list[Label] = []
    refused: list[Refused] = []
    for place, item in enumerate(items):
        try:
            taken.append(_read(served, item))
        except _ItemError as error:
            refused.append(Refused(place, str(error)))
    return taken, refused


def with_untaken(items: int, refused: Sequence[Refused], taken: int) -> list[Refused]:
    """Return what is refused of a request when agentd got only so many of those that can be read: the others, too."""
    bad = {one.place for one in refused}
    left = [place for place in range(items) if place not in bad][taken:]
    return sorted([*refused, *(Refused(place, BUSY) for place in left)])


def unit_of(served: ServedModel) -> float:
    """Return what one standard deviation of the first output is, as it is answered; 1 where the bundle's reference does not say."""
    recipe = served.postprocess.declared.outputs[0]
    factor = math.prod(step.factor for step in recipe.steps if isinstance(step, Scale))
    try:
        signals = read_reference(served.reference).outputs if served.reference else []
    except EdgefleetError:
        signals = []
    std = next((one.std for one in signals if one.name == f"{recipe.name}.0"), 0.0)
    unit = abs(std * factor)
    return max(LEAST_UNIT, min(MOST_UNIT, unit)) if 0 < unit < math.inf else 1.0


def read_labels(served: ServedModel, asked: ReadLabels) -> Labels:
    """Return what a task holds, read. A body that cannot be read at all is refused whole."""
    try:
        taken, refused = read_items(served, items_of(asked.body))
    except BadRequestError:
        return Labels(items=[], task=asked.task, refused=1)
    return Labels(items=taken, unit=unit_of(served), task=asked.task, refused=len(refused))


def _read(served: ServedModel, item: Any) -> Label:
    if not isinstance(item, dict):
        raise _ItemError('an item is an object: {"trace_id": …, "label": …}')
    if foreign := sorted(set(item) - FIELDS):
        raise _ItemError(f"there is no field {str(foreign[0])[:40]!r}; known are {', '.join(sorted(FIELDS))}")
    key = _key(item)
    segment, figures = item.get("segment", ""), _figures(item.get("kpi", {}))
    if not isinstance(segment, str) or (segment and not is_name(segment)):
        raise _ItemError("segment is a name of at most 48 letters, digits, `_`, `-` and `.`")
    has_label, has_value = item.get("label") is not None, item.get("value") is not None
    if has_label and has_value:
        raise _ItemError("give a label or a value, not both")
    if (has_label or has_value) and not key:
        raise _ItemError("name the answer by `trace_id` or `key`: `X-Edgefleet-Trace` of its response says which it is")
    if not (has_label or has_value or figures):
        raise _ItemError("give a `label`, a `value` or `kpi`")
    label = _class(served, item["label"]) if has_label else -1
    value = _value(served, item["value"]) if has_value else None
    return Label(key, label, value, segment, _moment(item.get("at")), figures)


def _key(item: Mapping[str, Any]) -> str:
    given = [item[name] for name in ("trace_id", "key") if item.get(name) is not None]
    if len(given) > 1 and given[0] != given[1]:
        raise _ItemError("give `trace_id` or `key`, not both")
    key = given[0] if given else ""
    if not isinstance(key, str) or len(key) > KEY_CHARS or not all("!" <= letter <= "~" for letter in key):
        raise _ItemError(f"`trace_id` and `key` are texts of 1 to {KEY_CHARS} visible ASCII characters")
    return key


def _class(served: ServedModel, label: Any) -> int:
    declared, labels = served.postprocess.declared.outputs[0], served.postprocess.labels
    if not isinstance(declared.steps[-1], TopK | ArgMax):
        raise _ItemError("this model answers no classes: send the right number as `value`")
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    is_number = isinstance(label, str) and len(label) <= LABEL_CHARS and label.isdecimal()
    index = label if type(label) is int else int(label) if is_number else -1
    if not 0 <= index < (len(labels) or 2**31):
        known = f"; known are {', '.join(labels[:8])}{', …' if len(labels) > 8 else ''}" if labels else ""
        raise _ItemError(f"{str(label)[:40]!r} is no class of this model{known}")
    return index


def _value(served: ServedModel, value: Any) -> float:
    if isinstance(served.postprocess.declared.outputs[0].steps[-1], TopK | ArgMax):
        raise _ItemError("this model answers classes: send the right one as `label`")
    if type(value) not in (int, float) or not abs(value) <= MAX_FIGURE:
        raise _ItemError("value is a number from -1e12 to 1e12")
    return float(value)


def _figures(kpi: Any) -> dict[str, float]:
    if not isinstance(kpi, dict) or len(kpi) > MAX_FIGURES:
        raise _ItemError(f"kpi holds at most {MAX_FIGURES} figures by name")
    for name, value in kpi.items():
        if not is_name(name):
            raise _ItemError(f"{name[:48]!r} names no figure: at most 48 letters, digits, `_`, `-` and `.`")
        if type(value) not in (int, float) or not abs(value) <= MAX_FIGURE:
            raise _ItemError(f"kpi {name} is no number that can be added up")
    return {name: float(value) for name, value in kpi.items()}


def _moment(at: Any) -> int:
    """Return when the answer was given, unix seconds; 0 where it is not said."""
    if at is None:
        return 0
    seconds: float = at if type(at) in (int, float) else 0
    if isinstance(at, str):
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            moment = None
        seconds = moment.timestamp() if moment is not None and moment.tzinfo is not None else 0
    if not 0 < seconds <= SystemClock().now().timestamp() + AHEAD_S:
        raise _ItemError("`at` is the time of the answer, which lies behind: unix seconds, or RFC 3339 with its zone")
    return int(seconds)
