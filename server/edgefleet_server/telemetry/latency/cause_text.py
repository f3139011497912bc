"""Why latency rose, in sentences. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from edgefleet_server.telemetry.latency.indicators import HEAT
from edgefleet_server.telemetry.latency.latency_rise import FEWEST, LEAST_RATIO
from edgefleet_server.telemetry.latency.model import (
    Answer,
    Case,
    CauseKind,
    CauseVerdict,
    Finding,
    Rise,
    Spread,
)
from edgefleet_server.telemetry.latency.views import LatencyCause, LatencyExplanation, LatencyRise
from edgefleet_terms.device_figures import size_text

TITLES: Final[Mapping[CauseKind, str]] = {
    CauseKind.RELEASE: "Another version",
    CauseKind.THROTTLING: "Throttled clock",
    CauseKind.LOAD: "More requests",
    CauseKind.PROCESSOR: "Other work on the processor",
    CauseKind.MEMORY: "Little free memory",
    CauseKind.DISK: "Little free disk",
    CauseKind.CANDIDATE: "A candidate on the same inputs",
    CauseKind.OTHER_MODELS: "Other models on the same devices",
    CauseKind.INPUTS: "Other inputs",
    CauseKind.DEVICE_MIX: "Slower devices answer more",
    CauseKind.NETWORK: "Network",
}
_FIGURES: Final[Mapping[CauseKind, str]] = {
    CauseKind.RELEASE: "its share of the answers",
    CauseKind.THROTTLING: "throttled clock",
    CauseKind.LOAD: "requests",
    CauseKind.PROCESSOR: "processor busy",
    CauseKind.MEMORY: "free memory",
    CauseKind.DISK: "free disk",
    CauseKind.CANDIDATE: "its answers for each of the model's",
    CauseKind.OTHER_MODELS: "requests of other models",
    CauseKind.INPUTS: "answers of other classes than before",
    CauseKind.DEVICE_MIX: "answers of the slower ones",
    CauseKind.NETWORK: "traffic",
}
_NEXT: Final[Mapping[CauseKind, str]] = {
    CauseKind.RELEASE: "go back to the release before: `edgectl undo {model}`",
    CauseKind.THROTTLING: "check cooling and power supply; no release mends it",
    CauseKind.LOAD: "spread the requests over more devices, or publish a faster bundle",
    CauseKind.PROCESSOR: "look for what else runs there: `edgectl device diag ID`",
    CauseKind.MEMORY: "look for what takes the memory: `edgectl device diag ID`",
    CauseKind.DISK: "free the disk: `edgectl device diag ID` says what fills it",
    CauseKind.CANDIDATE: "end the experiment, or lower its share: `edgectl experiment list`",
    CauseKind.OTHER_MODELS: "move a model to other devices, or publish a faster bundle of it",
    CauseKind.INPUTS: "look at what the inputs became: `edgectl drift show {model}`",
    CauseKind.DEVICE_MIX: "look at the devices that answer more: `edgectl model metrics {model} --by profile`",
}
_HOUR: Final = 3600
_DAY: Final = 86_400


def explained(case: Case, answer: Answer, since: datetime, until: datetime, device: str = "") -> LatencyExplanation:
    """Return an answer as it is shown."""
    rise = answer.rise
    causes = [_cause(one, case, answer) for one in answer.findings]
    first = next((one for one in answer.findings if one.verdict is CauseVerdict.LIKELY), None)
    return LatencyExplanation(
        model=case.model,
        device=device,
        since=since,
        until=until,
        step_s=case.step_s,
        state="rise" if rise else "no_rise" if answer.steps >= 2 * FEWEST else "no_data",
        said=_said(case, answer, first),
        rise=None if rise is None else _rise_view(rise),
        where=answer.spread.value,
        place=answer.place,
        slower=answer.hit,
        parts=answer.of,
        causes=causes,
        next="" if first is None else _NEXT.get(first.kind, "").format(model=case.model),
    )


def _rise_view(rise: Rise) -> LatencyRise:
    since, until = (datetime.fromtimestamp(at, UTC) for at in (rise.at, rise.until))
    return LatencyRise(since, until, rise.before_ms, rise.after_ms, rise.ratio, rise.is_over)


def _said(case: Case, answer: Answer, first: Finding | None) -> str:
    rise = answer.rise
    if rise is None:
        if answer.steps < 2 * FEWEST:
            return f"Too few answers of {case.model} were reported in this time to see a rise."
        return f"The p95 of {case.model} did not rise by {LEAST_RATIO - 1:.0%} or more in this time."
    over = f" until {_moment(rise.until)}" if rise.is_over else ""
    risen = (
        f"The p95 of {case.model} rose from {_ms(rise.before_ms)} to {_ms(rise.after_ms)} at {_moment(rise.at)}{over}"
    )
    if first is None:
        return f"{risen}{_where(case, answer)}. Nothing that devices report explains it."
    return f"{risen}{_where(case, answer)}. Most likely: {_title(first)[0].lower()}{_title(first)[1:]}."


def _where(case: Case, answer: Answer) -> str:
    others = answer.of - 1
    match answer.spread:
        case Spread.DEVICE if case.is_device:
            if others <= 0:
                return ""
            slower = max(0, answer.hit - 1)
            near = "1 other device" if others == 1 else f"{others} other devices"
            if slower:
                return f", on this device and {slower} of {near} with its bundle"
            return f", on this device alone; {near} with its bundle stayed fast"
        case Spread.PROFILE | Spread.PART if case.is_device:
            return f", and on {max(0, answer.hit - 1)} of {others} other devices with its bundle"
        case Spread.PROFILE:
            return f", on hardware profile {answer.place}"
        case Spread.SITE:
            return f", at site {answer.place}"
        case Spread.ALL:
            return ", everywhere"
        case Spread.PART:
            return f", in {answer.hit} of {answer.of} cohorts of devices"
        case _:
            return ""


def _title(found: Finding) -> str:
    if found.kind is CauseKind.RELEASE and found.version:
        return f"Version {found.version}"
    if found.unit == HEAT.unit:
        return "Heat"
    return TITLES[found.kind]


def _cause(found: Finding, case: Case, answer: Answer) -> LatencyCause:
    return LatencyCause(
        kind=found.kind.value,
        verdict=found.verdict.value,
        score=found.score,
        title=_title(found),
        said=_figures(found),
        unit=found.unit,
        before=found.before,
        after=found.after,
        evidence=_evidence(found, case, answer),
        against=_against(found, case, answer),
    )


def _figures(found: Finding) -> str:
    unit = found.unit
    if found.kind is CauseKind.NETWORK:
        return "latency is measured on the device, from request to answer: the network is not in it"
    if found.before is None or found.after is None:
        if found.signals:
            return "signals drift since about then"
        return "the same before and after" if found.kind is CauseKind.RELEASE else "devices do not report it"
    name = "temperature" if unit == HEAT.unit else _FIGURES[found.kind]
    if found.verdict is CauseVerdict.UNCHANGED and value_text(found.before, unit) == value_text(found.after, unit):
        return f"{name}: {value_text(found.after, unit)}, as before"
    return f"{name}: {value_text(found.before, unit)} before, {value_text(found.after, unit)} after"


def _evidence(found: Finding, case: Case, answer: Answer) -> list[str]:
    if found.verdict in {CauseVerdict.UNCHANGED, CauseVerdict.UNKNOWN, CauseVerdict.RULED_OUT}:
        return []
    said = []
    if found.of > 1 or (found.of == 1 and not case.is_device):
        share = f"{found.had} of the {_parts(found.of, case)}" if found.of > 1 else "the one cohort"
        said.append(f"it changed in {share}{' that got slower' if answer.hit else ''}")  # without one it is read of all
    if found.together > 0 and found.kind is not CauseKind.DEVICE_MIX:
        said.append(f"it moved together with latency (correlation {found.together:.2f})")
    if found.unharmed and not found.same:
        said.append(f"it did not change in the {_parts(found.unharmed, case)} that stayed fast")
    if found.others is not None and found.verdict is not CauseVerdict.UNLIKELY:
        said.append(f"other versions stayed at {_ms(found.others[1])} meanwhile")
    if found.signals:
        said.append(f"drifting since about then: {', '.join(found.signals)}")
    return said


def _against(found: Finding, case: Case, answer: Answer) -> list[str]:
    if found.verdict in {CauseVerdict.UNCHANGED, CauseVerdict.UNKNOWN, CauseVerdict.RULED_OUT}:
        return []
    said = []
    if found.same:
        said.append(f"{found.same} of {_parts(found.unharmed, case)} that stayed fast had the same change")
    if found.others is not None and found.others[1] >= found.others[0] * LEAST_RATIO:
        said.append(f"other versions got slower too: {_ms(found.others[0])} to {_ms(found.others[1])}")
    if found.lead_s >= 2 * case.step_s and answer.rise is not None:
        said.append(f"answers stayed at {_ms(answer.rise.before_ms)} for {_span(found.lead_s)} with it")
    if found.verdict is CauseVerdict.UNLIKELY and not said and found.kind is CauseKind.PROCESSOR:
        said.append("the requests, a candidate or other models explain it")
    if found.verdict is CauseVerdict.UNLIKELY and not said:
        said.append("it did not move together with latency")
    return said


def _parts(count: int, case: Case) -> str:
    word = "device" if case.is_device else "cohort"
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def value_text(value: float, unit: str) -> str:
    """Return a figure in its unit."""
    match unit:
        case "share":
            return f"{value:.0%}"
        case "celsius":
            return f"{value:.0f} °C"
        case "bytes":
            return size_text(value)
        case "per_s":
            return f"{_three(value)} a second"
        case _:
            return _three(value)


def _three(value: float) -> str:
    """Return a figure to three digits, never as a power of ten."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _ms(value: float) -> str:
    return f"{_three(value)} ms"


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M} UTC"


def _span(seconds: int) -> str:
    if seconds >= _DAY:
        return f"{seconds / _DAY:.0f} d"
    return f"{seconds / _HOUR:.0f} h" if seconds >= _HOUR else f"{seconds / 60:.0f} min"
