"""Whether the fleet is well: one sentence, one colour, the two gravest reasons, one act. Pure.

Rules:
1. What is silent is not well: devices that are offline, or that nobody heard of, count as needing attention.
2. *bad*: a model does not run where it should, a rollout went wrong, a critical alert fires, a budget is spent, or no device can be
   reached. *warn*: anything else needs a look. *run*: all is well, and something is being installed. *off*: there is no device.
3. Nothing is said of what was not measured: objectives without data are not met.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgefleet_server.dashboard.core.filters import number
from edgefleet_server.dashboard.fleet.device_query import Search
from edgefleet_server.fleet.health_state import ATTENTION, Health
from edgefleet_server.fleet.selectors.grammar import SUSPECT

REASONS: Final = 2
ALERTS: Final = "/alerts"
ROLLOUTS: Final = "/rollouts"
_IS: Final[Mapping[Health, tuple[str, str]]] = {
    Health.FAILING: ("does not run what it should", "do not run what they should"),
    Health.OFFLINE: ("is offline", "are offline"),
    Health.DEGRADED: ("is degraded", "are degraded"),
    Health.UNKNOWN: ("was not heard of", "were not heard of"),
}


@dataclass(frozen=True, slots=True)
class RolloutFact:
    """A rollout that is open, or that could not end well."""

    id: str
    release: str
    state: str


@dataclass(frozen=True, slots=True)
class ObjectiveFact:
    """An objective and its state, a word of `objectives.model.BudgetState`."""

    name: str
    title: str
    state: str


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What the sentence is made of. sites: of each health, where all devices of it are at one site, that site."""

    devices: Mapping[Health, int]
    sites: Mapping[Health, str] = field(default_factory=dict)
    critical: int = 0
    alerts: int = 0
    suspects: int = 0
    objectives: Sequence[ObjectiveFact] = ()
    rollouts: Sequence[RolloutFact] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that is not as it should be. rank: 0 is the gravest."""

    rank: int
    text: str
    href: str
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the page begins with. kind: ok, run, warn, bad or off. calm: what is well, before the reasons; act: words and address."""

    kind: str
    title: str
    calm: str
    reasons: Sequence[Reason]
    act: tuple[str, str] | None = None
    more: int = 0


def sentence_of(facts: FleetFacts) -> Sentence:
    """Return the sentence."""
    total, ill = sum(facts.devices.values()), sum(facts.devices.get(one, 0) for one in ATTENTION)
    if not total:
        return Sentence("off", "No devices yet", "Three steps lead to a model that runs on a device.", ())
    reasons = sorted(_reasons(facts), key=lambda one: one.rank)
    reachable = total - sum(facts.devices.get(one, 0) for one in (Health.OFFLINE, Health.UNKNOWN))
    is_bad = not reachable or any(one.is_bad for one in reasons)
    kind = "bad" if is_bad else "warn" if reasons else "run" if _is_busy(facts) else "ok"
    title = _title(facts, total, ill, reachable, reasons)
    rest = [one for one in reasons if one.text not in title]
    shown = rest[:REASONS]
    return Sentence(
        kind=kind,
        title=title,
        calm=_calm(facts, total),
        reasons=shown,
        act=_act(facts, ill, reasons),
        more=len(rest) - len(shown),
    )


def attention_address(*healths: Health) -> str:
    """Return the list of the devices with one of these healths."""
    words = ",".join(one.value for one in healths)
    return Search(f"health in ({words})" if len(healths) > 1 else f"health={words}").address()


def _devices(n: int) -> str:
    return f"{number(n)} device{'' if n == 1 else 's'}"


def _title(facts: FleetFacts, total: int, ill: int, reachable: int, reasons: Sequence[Reason]) -> str:
    gone_wrong = next((one for one in facts.rollouts if one.state in _GONE_WRONG), None)
    if not reachable:
        return "No device can be reached" if total > 1 else "The only device cannot be reached"
    if gone_wrong:
        return _of_rollout(gone_wrong).text
    if ill * 2 > total:
        return f"{number(ill)} of {_devices(total)} need attention"
    if ill:
        return f"The fleet works, but {_devices(ill)} need{'s' if ill == 1 else ''} attention"
    well = "The only device is healthy" if total == 1 else f"All {_devices(total)} are healthy"
    updating = facts.devices.get(Health.UPDATING, 0)
    if updating:
        well = f"The fleet works; {_devices(updating)} {'is' if updating == 1 else 'are'} updating"
    if reasons:
        return f"{well}, but {reasons[0].text}"
    return well


def _calm(facts: FleetFacts, total: int) -> str:
    well = facts.devices.get(Health.HEALTHY, 0)
    parts = [f"{number(well)} of {_devices(total)} {'is' if well == 1 else 'are'} healthy"]
    met = sum(one.state == "ok" for one in facts.objectives)
    if met and met == len(facts.objectives):
        parts.append("the objective is met" if met == 1 else f"all {met} objectives are met")
    elif met:
        parts.append(f"{met} of {len(facts.objectives)} objectives are met")
    return " and ".join(parts) + "."


def _reasons(facts: FleetFacts) -> list[Reason]:
    found = [_of_rollout(one) for one in facts.rollouts if one.state in (*_GONE_WRONG, *_WAIT)]
    ranks = {Health.FAILING: 1, Health.OFFLINE: 4, Health.DEGRADED: 5, Health.UNKNOWN: 8}
    for health, rank in ranks.items():
        n = facts.devices.get(health, 0)
        if n:
            site = facts.sites.get(health, "")
            verb = _IS[health][n != 1]
            text = f"{_devices(n)}{f' in {site}' if site else ''} {verb}"
            found.append(Reason(rank, text, attention_address(health), is_bad=health is Health.FAILING))
    if facts.critical:
        text = f"{number(facts.critical)} critical alert{'' if facts.critical == 1 else 's'} fire{'s' if facts.critical == 1 else ''}"
        found.append(Reason(2, text, ALERTS, is_bad=True))
    if facts.alerts:
        text = f"{number(facts.alerts)} alert{'' if facts.alerts == 1 else 's'} fire{'s' if facts.alerts == 1 else ''}"
        found.append(Reason(7, text, ALERTS))
    if facts.suspects:
        text = f"{_devices(facts.suspects)} {'is' if facts.suspects == 1 else 'are'} suspect"
        found.append(Reason(3, text, Search(SUSPECT).address()))
    for one in facts.objectives:
        if one.state == "spent":
            found.append(Reason(3, f"the error budget of {one.title} is spent", f"/slos/{one.name}", is_bad=True))
        elif one.state in {"burning", "slow_burn"}:
            found.append(Reason(9, f"{one.title} burns its error budget", f"/slos/{one.name}"))
    return found


_GONE_WRONG: Final[Mapping[str, str]] = {
    "rolling_back": "is going back",
    "rollback_incomplete": "could not go back everywhere",
    "regressed": "got worse after it was rolled out",
}
_WAIT: Final = ("paused", "awaiting_approval")
"""States in which a person has to say what happens next."""


def _of_rollout(one: RolloutFact) -> Reason:
    href = f"{ROLLOUTS}/{one.id}"
    if one.state in _GONE_WRONG:
        return Reason(0, f"{one.release} {_GONE_WRONG[one.state]}", href, is_bad=True)
    if one.state == "awaiting_approval":
        return Reason(6, f"{one.release} waits for a person", href)
    return Reason(6, f"{one.release} is paused", href)


def _is_busy(facts: FleetFacts) -> bool:
    return bool(facts.rollouts or facts.devices.get(Health.UPDATING))


def _act(facts: FleetFacts, ill: int, reasons: Sequence[Reason]) -> tuple[str, str] | None:
    """Return the act that the gravest reason asks for."""
    if not reasons:
        running = next((one for one in facts.rollouts if one.state == "running"), None)
        return None if running is None else (f"Watch {running.release}", f"{ROLLOUTS}/{running.id}")
    first = reasons[0]
    if first.href.startswith(ROLLOUTS):
        return "Show the rollout", first.href
    if first.href == ALERTS and not ill:
        return "Show the alerts", ALERTS
    if first.href.startswith("/slos") and not ill:
        return "Show the objective", first.href
    which = [one for one in ATTENTION if facts.devices.get(one)]
    return (f"Show the {_devices(ill)}" if ill > 1 else "Show the device"), attention_address(*which)
