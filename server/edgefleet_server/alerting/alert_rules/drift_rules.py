"""Rules about drift: of a model on one device, and of one model on many devices. Pure.

Rules:
1. A device's word is the facts of its state: the signals of a model that its own detector says drift. Suspect devices have none, nor
   have devices that are away for longer than FRESH: what they said says nothing of now.
2. The server's verdict is its own judgement of what devices counted (`telemetry.drift`), in which one device has one device's part.
3. One device starts an alert about itself and no other, whatever it says and counts: many devices are at least two. Where all
   devices that moved are named, each of them is an alert; from the limit of `drift_spread` on that rule quiets these.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from edgefleet_server.alerting.alert_rules.device_rules import device_group, labels_of, share_text
from edgefleet_server.alerting.alert_rules.fleet_facts import (
    DeviceFact,
    DriftedSignal,
    DriftVerdict,
    DriftWordFact,
    Facts,
    Finding,
)

FRESH: Final = timedelta(hours=2)
LEAST_SHARE: Final = 0.05
"""A false alarm a device and year are many a day in a large fleet: of its devices, so many have to say the same."""
MANY: Final = 2
NAMED: Final = 4
_PLACES: Final = frozenset({"site", "profile", "group"})


def drift(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models that drift on a device: by its own word, or by the server's verdict that names it. threshold: signals."""
    devices = _heard(facts)
    said: dict[tuple[str, str], list[str]] = {}
    for word in facts.drift_words:
        if word.device in devices:
            said[word.model, word.device] = [*word.signals]
    judged: dict[tuple[str, str], list[DriftedSignal]] = defaultdict(list)
    for verdict in facts.drift_verdicts:
        for one in verdict.signals:
            if one.moved <= len(one.devices):  # all are named
                for device in devices.keys() & set(one.devices):
                    judged[verdict.model, device].append(one)
    for model, device in sorted({*said, *judged}):
        mine, ours = said.get((model, device), []), judged.get((model, device), [])
        signals = list(dict.fromkeys([*mine, *(one.name for one in ours)]))
        if len(signals) < threshold:
            continue
        evidence = ["its own detector says so"] if mine else ["by what it counted; its own detector does not say so"]
        yield _on_device(devices[device], model, signals, threshold, [*evidence, *(one.said for one in ours)])


def drift_spread(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find models that drift on many devices: at a site, in a profile or group, or everywhere. threshold: devices."""
    devices = _heard(facts)
    words: dict[str, list[DriftWordFact]] = defaultdict(list)
    for word in facts.drift_words:
        if word.device in devices:
            words[word.model].append(word)
    verdicts = {one.model: one for one in facts.drift_verdicts}
    sizes = Counter(one.model for one in facts.models)
    for model in sorted({*words, *verdicts}):
        found = _by_verdict(verdicts.get(model), words[model], threshold) or _by_words(
            model, words[model], sizes[model], threshold
        )
        if found is not None:
            yield found


def _by_verdict(verdict: DriftVerdict | None, words: Sequence[DriftWordFact], threshold: float) -> Finding | None:
    """Return what the server's own figures say of many devices."""
    many = [] if verdict is None else [one for one in verdict.signals if one.moved >= max(MANY, threshold)]
    if verdict is None or not many:
        return None
    first = many[0]
    moved = {device for one in many for device in one.devices} | {word.device for word in words}
    labels = {"version": verdict.version} | ({first.where: first.place} if first.where in _PLACES else {})
    where = "everywhere" if first.where == "all" else f"{first.where} {first.place}" if first.place else "some devices"
    return _on_many(
        verdict.model,
        f"{_listed([one.name for one in many])} {_drifts(many)} on {share_text(first.moved, first.of)} devices: {where}",
        (float(first.moved), threshold),
        [one.said for one in many[:NAMED]],
        (sorted(moved), labels),
    )


def _by_words(model: str, words: Sequence[DriftWordFact], size: int, threshold: float) -> Finding | None:
    """Return what many devices say of the same signal. size: how many devices run the model, as far as that is known."""
    said = Counter(signal for word in words for signal in dict.fromkeys(word.signals))
    least = max(MANY, threshold, LEAST_SHARE * size)
    many = [(signal, n) for signal, n in sorted(said.items(), key=lambda one: (-one[1], one[0])) if n >= least]
    if not many:
        return None
    signal, n = many[0]
    names = sorted(word.device for word in words if signal in word.signals)
    of = share_text(n, size) if size >= n else str(n)
    return _on_many(
        model,
        f"{of} devices say themselves that {signal} drifts",
        (float(n), least),
        [f"{name}: {count} devices" for name, count in many[1:NAMED]],
        (names, {}),
    )


def _heard(facts: Facts) -> dict[str, DeviceFact]:
    """Return the devices whose word counts."""
    return {
        one.id: one
        for one in facts.devices
        if one.suspect_since is None and (one.away_s is None or one.away_s <= FRESH.total_seconds())
    }


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _drifts(signals: Sequence[object]) -> str:
    return "drifts" if len(signals) == 1 else "drift"


def _on_device(
    device: DeviceFact, model: str, signals: Sequence[str], threshold: float, evidence: Sequence[str]
) -> Finding:
    return Finding(
        subject=f"model:{model}@{device.id}",
        shown=f"{model} on {device.shown}",
        summary=f"{_listed(signals)} {_drifts(signals)}",
        value=float(len(signals)),
        limit=threshold,
        group=f"model {model}",
        evidence=[device_group(device), *evidence],
        devices=[device.id],
        labels=labels_of(device) | {"model": model},
        link=f"/models/{model}/drift",
    )


def _on_many(
    model: str,
    summary: str,
    figures: tuple[float, float],
    evidence: Sequence[str],
    about: tuple[Sequence[str], Mapping[str, str]],
) -> Finding:
    value, limit = figures
    devices, labels = about
    return Finding(
        subject=f"model:{model}",
        shown=model,
        summary=summary,
        value=value,
        limit=limit,
        group=f"model {model}",
        evidence=list(evidence),
        devices=devices,
        labels={"model": model} | dict(labels),
        link=f"/models/{model}/drift",
    )
