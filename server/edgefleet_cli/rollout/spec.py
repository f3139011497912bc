"""The document that asks for a rollout: read from a file, or made of flags.

The server judges what a spec means; here only its form is known, so that a file goes to the server as it is written.
What `rollout show -o yaml` prints is taken too: of it only `spec` and the name are sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, read_text
from edgefleet_cli.core.options import parse_duration_s

Spec = dict[str, Any]
"""The fields of a rollout's spec, as they are written: what they mean, the server judges."""

ALL = "all"
STRATEGIES = ("canary", "rolling", "blue-green", "shadow", "ab")
"""The named strategies of the server: each is a rollout in stages."""
API_VERSION = "edgefleet/v1"
KIND = "Rollout"
_MAX_BYTES = 1_000_000
_STAGE = re.compile(r"(?:(?P<name>[^=]*)=)?(?P<number>\d+(?:\.\d+)?)(?P<percent>%)?")
_STAGE_NEXT = "write for example --stages 2,10%,100% or --stages canary=2,rest=100%"
_DEFAULT_STAGES = (("canary", {"percent": 5, "min": 2}), ("half", {"percent": 50}), ("rest", {"percent": 100}))


class Promote(StrEnum):
    """What a stage needs before the next one opens."""

    AUTO = "auto"
    ALL_HEALTHY = "all_healthy"
    EVIDENCE = "evidence"


class OnFail(StrEnum):
    """What happens to a stratum whose stage failed."""

    ROLLBACK = "rollback"
    PAUSE = "pause"


@dataclass(frozen=True)
class RolloutFlags:
    """A rollout as the flags of `rollout create` name it; None = left to the server's default."""

    release: str
    selector: str
    stages: str | None = None
    soak: str | None = None
    promote: Promote | None = None
    on_fail: OnFail | None = None
    name: str | None = None
    strategy: str | None = None


def from_flags(flags: RolloutFlags) -> Spec:
    """Return the document that the flags describe. Raises UsageError for stages or a soak that cannot be read."""
    spec: Spec = {"release": flags.release, "selector": flags.selector}
    if flags.strategy is not None:
        if flags.stages is not None or flags.soak is not None:
            raise UsageError(
                "--strategy does not go with --stages or --soak",
                why="a strategy stands for its stages and their soaks",
                next_step=f"print it with `edgectl rollout strategy {flags.strategy} -o yaml`, change that, and give it with --file",
            )
        spec["strategy"] = flags.strategy
    elif flags.stages is not None:
        spec["stages"] = parse_stages(flags.stages)
    elif flags.soak is not None:  # the server's default stages, written out: a soak is a field of a stage
        spec["stages"] = [{"name": name, "size": dict(size)} for name, size in _DEFAULT_STAGES]
    if flags.soak is not None:
        soak = _whole_seconds(flags.soak)
        for stage in spec["stages"]:
            stage["soak"] = soak
    if flags.promote is not None:
        spec["promote"] = flags.promote.value
    if flags.on_fail is not None:
        spec["on_fail"] = flags.on_fail.value
    return document(spec, flags.name)


def document(spec: Spec, name: str | None = None) -> Spec:
    """Return a spec as a whole document."""
    metadata = {"metadata": {"name": name}} if name else {}
    return {"apiVersion": API_VERSION, "kind": KIND, **metadata, "spec": spec}


def parse_stages(text: str) -> list[Spec]:
    """Return the stages of `canary=1,10%,100%`: a bare number is a count a stratum. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    stages: list[Spec] = []
    for place, word in enumerate(words):
        match = _STAGE.fullmatch(word)
        if match is None:
            raise UsageError(f"{word!r} is not a stage", why="expected a count or a percentage", next_step=_STAGE_NEXT)
        number = float(match["number"])
        size: Spec = {"percent": _plain(number)} if match["percent"] else {"count": _plain(number)}
        stages.append({"name": match["name"] or _stage_name(place, len(words), size), "size": size})
    names = [str(stage["name"]) for stage in stages]
    if len(set(names)) < len(names):
        raise UsageError(
            "two stages have the same name", why=", ".join(names), next_step="name them: --stages first=2,second=100%"
        )
    return stages


def read_document(file: str) -> Spec:
    """Return the document in a YAML or JSON file, or on standard input for `-`. Raises UsageError, UnreadableFileError."""
    found = _parse(_read(file), file)
    if not isinstance(found, dict):
        raise UsageError(
            f"{_called(file)} holds no rollout",
            why=f"expected fields and values, got {type(found).__name__}",
            next_step="start from what `edgectl rollout show ID -o yaml` prints",
        )
    answered = {"id", "state", "spec"} <= set(found) and isinstance(found["spec"], dict)
    return document(found["spec"], str(found.get("name") or "") or None) if answered else found


def _read(file: str) -> str:
    raw = read_text(None if file == "-" else Path(file), _MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise UsageError(
            f"{_called(file)} is too large for a rollout",
            why=f"more than {_MAX_BYTES} characters",
            next_step="give the file of one rollout",
        )
    return raw


def _parse(raw: str, file: str) -> Any:
    """Return what the text holds as JSON values: of YAML's own kinds of value, dates become text."""
    try:
        return _as_json_values(json.loads(raw))
    except (ValueError, RecursionError):
        pass  # then it is YAML, whose parser names better what is wrong
    import yaml

    try:
        return _as_json_values(yaml.safe_load(raw))
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UsageError(
            f"{_called(file)} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error


def _as_json_values(found: Any) -> Any:
    """Raises ValueError for NaN and for a value inside itself, TypeError for a key that is no text."""
    return json.loads(json.dumps(found, allow_nan=False, default=str))


def _called(file: str) -> str:
    return STANDARD_INPUT if file == "-" else file


def _stage_name(place: int, count: int, size: Spec) -> str:
    if place == count - 1 and size.get("percent") == 100:
        return "rest" if count > 1 else "all"
    if place == 0:
        return "canary"
    return "half" if size.get("percent") == 50 else f"stage-{place + 1}"


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def _whole_seconds(text: str) -> str:
    seconds = parse_duration_s(text)
    if not seconds.is_integer():
        raise UsageError(
            f"a soak of {text} is not a whole number of seconds",
            why="the server counts seconds",
            next_step="write 30s, 10m or 2h",
        )
    plain = text.strip()
    return plain if re.fullmatch(r"\d+[smhd]", plain) else f"{int(seconds)}s"


def parse_strategy(strategy: str) -> str:
    """Return the strategy when there is one of that name. Raises UsageError."""
    if strategy in {ALL, *STRATEGIES}:
        return strategy
    raise UsageError(
        f"there is no strategy {strategy!r}",
        why=f"{ALL} sets a release at once; {', '.join(STRATEGIES)} are rollouts in stages",
        next_step="`edgectl rollout strategy` shows them; your own: `edgectl rollout create RELEASE --to S --stages STAGES`",
    )


def strategy_document(ref: str, selector: str, strategy: str) -> Spec:
    """Return the document of a rollout by a named strategy; canary is what the server does without a word."""
    return from_flags(RolloutFlags(ref, selector, strategy=None if strategy == STRATEGIES[0] else strategy))
