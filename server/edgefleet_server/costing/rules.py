"""Figures of costs from what was counted. Pure.

1. By model the total is the sum of the lines. By group it is not: a device in two groups counts in both lines, and once in the total.
2. Money is linear in prices: each price times its units. What a group pays for bytes is decided by the device that sent or got them: of a
   device in several groups the first one in the price list that has a price counts, in each line.
3. What nobody measured is None, and costs nothing that is claimed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from edgefleet_server.costing.model import (
    GB,
    HOUR_S,
    JOULES_PER_KWH,
    MONTH_S,
    Blob,
    BundleSaving,
    CostBy,
    CostFacts,
    CostLine,
    CostMethod,
    CostMoney,
    Kind,
    Prices,
    Running,
    Stored,
    Traffic,
    WindowSaving,
)

TIMES: Final = (2, 4)
"""How much longer windows may be: four times a quarter of an hour is what devices with `metered` do."""
UP: Final = (Kind.TELEMETRY, Kind.PREDICTIONS, Kind.CAPTURES)
METHODS: Final = (
    CostMethod("down_bytes", "blocks of bundles that the broker took for devices: a block that is asked for again counts again"),
    CostMethod(
        "up_bytes",
        "messages of telemetry, prediction logs and captures as they arrived, repeats included; the bytes of a message are divided "
        "evenly among its windows; TLS, MQTT and IP headers, states, events and documents are not counted",
    ),
    CostMethod("device_hours", "the lengths of all windows in which a device served the model, from roll-ups; candidates do not count"),
    CostMethod(
        "joules",
        "joules an answer that `edgectl device measure DEVICE RELEASE` found for a bundle, times the answers of that bundle; devices "
        "measure no energy while they serve, and answers of bundles without a measurement are left out",
    ),
    CostMethod("conversion_s", "seconds from start to end of the last attempt of each conversion that ended in the span"),
    CostMethod(
        "stored_bytes",
        "what is kept now: bundles with their leaf indexes, sources with their data, files of prediction logs and parts that wait, "
        "sealed captures; a blob that two models share counts for the first by name; priced as if it had been kept for the whole span",
    ),
)  # fmt: skip


def by_model(facts: CostFacts, prices: Prices | None, group: str = "") -> list[CostLine]:
    """Return a line a model, by name. group: of its devices alone; then what belongs to no group is None."""
    traffic = [one for one in facts.traffic if not group or group in one.groups]
    running = [one for one in facts.running_in if one.group == group] if group else facts.running
    names = {one.model for one in (*traffic, *running)}
    if not group:
        names |= facts.conversion_s.keys() | facts.stored.keys() | facts.devices.keys()
    return [
        _line(
            name,
            [one for one in traffic if one.model == name],
            [one for one in running if one.model == name],
            facts,
            prices,
            models=None if group else (name,),
        )
        for name in sorted(names)
    ]


def by_group(facts: CostFacts, prices: Prices | None, group: str = "") -> list[CostLine]:
    """Return a line a group, by name, devices in none last, under "". group: this one alone."""
    traffic: dict[str, list[Traffic]] = {}
    running: dict[str, list[Running]] = {}
    for sent in facts.traffic:
        for name in sent.groups or ("",):
            traffic.setdefault(name, []).append(sent)
    for served in facts.running_in:
        running.setdefault(served.group or "", []).append(served)
    chosen = [one for one in {*traffic, *running} if not group or one == group]
    return [
        _line(name, traffic.get(name, []), running.get(name, []), facts, prices)
        for name in sorted(chosen, key=lambda one: (one == "", one))
    ]


def total_of(facts: CostFacts, prices: Prices | None, group: str = "") -> CostLine:
    """Return what all models cost, each device counted once."""
    traffic = [one for one in facts.traffic if not group or group in one.groups]
    running = [one for one in facts.running_in if one.group == group] if group else facts.running
    models = None if group else sorted({*facts.conversion_s, *facts.stored, *facts.devices})
    return _line("", traffic, running, facts, prices, models=models)


def lines_of(facts: CostFacts, prices: Prices | None, by: CostBy, group: str = "") -> list[CostLine]:
    """Return the lines of a report."""
    return (by_model if by is CostBy.MODEL else by_group)(facts, prices, group)


def stored_of(blobs: Iterable[Blob], predictions: Mapping[str, int], captures: Mapping[str, int]) -> dict[str, Stored]:
    """Return what is kept by model. A blob that several models name counts for the first of them by name."""
    owned: dict[str, Blob] = {}
    for one in sorted(blobs, key=lambda blob: (blob.model, blob.is_source, blob.sha256)):
        owned.setdefault(one.sha256, one)
    sizes: dict[tuple[str, bool], int] = {}
    for one in owned.values():
        sizes[one.model, one.is_source] = sizes.get((one.model, one.is_source), 0) + one.bytes
    names = {model for model, _ in sizes} | predictions.keys() | captures.keys()
    return {
        name: Stored(
            sizes.get((name, False), 0), sizes.get((name, True), 0), predictions.get(name, 0), captures.get(name, 0)
        )
        for name in sorted(names)
    }


def smaller_bundles(facts: CostFacts, prices: Prices | None) -> list[BundleSaving]:
    """Return what a smaller bundle would have saved, the most first: of each bundle that was sent, if a smaller one kept the metric."""
    found = []
    for bundle, choice in sorted(facts.choices.items()):
        sent = [one for one in facts.traffic if one.kind is Kind.BUNDLE and one.bundle == bundle]
        smaller = [one for one in choice.others if 0 <= one.bytes < choice.taken.bytes]
        if not sent or not smaller:
            continue
        best = min(smaller, key=lambda one: (one.bytes, one.id))
        share = 1 - best.bytes / choice.taken.bytes
        size = sum(one.bytes for one in sent)
        money = _traffic_money(sent, prices, "down_gb")
        how = (
            f"{size:,} bytes sent × (1 - {best.bytes:,} / {choice.taken.bytes:,}): the model in the bundle would have {best.bytes:,} "
            f"bytes as {best.id} instead of {choice.taken.bytes:,} as {choice.taken.id}; the rest of a bundle is taken to shrink with it"
        )
        found.append(
            BundleSaving(
                sent[0].model, choice.release, choice.profile, bundle, choice.taken.id, choice.taken.bytes, best.id,
                best.bytes, best.drop, size, int(size * share), None if money is None else money * share, how,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (-one.saved_bytes, one.model, one.bundle))


def longer_windows(facts: CostFacts, prices: Prices | None, times: Sequence[int] = TIMES) -> list[WindowSaving]:
    """Return what longer windows of telemetry would have saved at most, by model."""
    found = []
    for model in sorted({one.model for one in facts.traffic if one.kind is Kind.TELEMETRY}):
        came = [one for one in facts.traffic if one.kind is Kind.TELEMETRY and one.model == model]
        size, windows = sum(one.bytes for one in came), sum(one.n for one in came)
        served = [one for one in facts.running if one.model == model]
        counted = sum(one.windows for one in served)
        length = sum(one.seconds for one in served) / counted if counted else None
        money = _traffic_money(came, prices, "up_gb")
        for factor in times if windows else ():
            how = (
                f"{windows:,} windows of {size / windows:,.0f} bytes on average; {factor} times as long they are 1 of {factor}, each taken "
                "as large as now: a window with more answers is larger, and signals come by the hour, so this is the most that is saved"
            )
            saved = size - size // factor
            found.append(
                WindowSaving(
                    model, windows, size / windows, length, factor, saved,
                    None if money is None else money * (1 - 1 / factor), how,
                )
            )  # fmt: skip
    return found


def down_price(prices: Prices, groups: Sequence[str]) -> float | None:
    """Return what a GB to a device in these groups costs."""
    return _gb_price(prices, groups, "down_gb")


def up_price(prices: Prices, groups: Sequence[str]) -> float | None:
    """Return what a GB from a device in these groups costs."""
    return _gb_price(prices, groups, "up_gb")


def _gb_price(prices: Prices, groups: Sequence[str], unit: str) -> float | None:
    own = (getattr(one, unit) for one in prices.groups if one.group in groups)
    found: float | None = next((price for price in own if price is not None), getattr(prices, unit))
    return found


def _traffic_money(traffic: Iterable[Traffic], prices: Prices | None, unit: str) -> float | None:
    """Return what those bytes cost that have a price, None where there is a price for none."""
    priced = [] if prices is None else [(one, _gb_price(prices, one.groups, unit)) for one in traffic]
    known = [one.bytes / GB * price for one, price in priced if price is not None]
    return sum(known) if known or (prices is not None and getattr(prices, unit) is not None) else None


def _line(
    name: str,
    traffic: Sequence[Traffic],
    running: Sequence[Running],
    facts: CostFacts,
    prices: Prices | None,
    *,
    models: Sequence[str] | None = None,
) -> CostLine:
    """Return a line. models: whose conversions, storage and devices are in it; None: they belong to no group."""
    up = {kind: sum(one.bytes for one in traffic if one.kind is kind) for kind in UP}
    measured = [one for one in running if one.bundle in facts.joules]
    answers = sum(one.answers for one in measured)
    kept = None if models is None else [facts.stored[one] for one in models if one in facts.stored]
    devices = None if models is None else [facts.devices[one] for one in models if one in facts.devices]
    line = CostLine(
        name=name,
        down_bytes=sum(one.bytes for one in traffic if one.kind is Kind.BUNDLE),
        up_bytes=sum(up.values()),
        telemetry_bytes=up[Kind.TELEMETRY],
        prediction_bytes=up[Kind.PREDICTIONS],
        capture_bytes=up[Kind.CAPTURES],
        device_hours=sum(one.seconds for one in running) / HOUR_S,
        answers=sum(one.answers for one in running),
        joules=sum(facts.joules[one.bundle] * one.answers for one in measured) if answers else None,
        measured_answers=answers,
        devices=None if devices is None else sum(one.running for one in devices),
        measured_devices=None if devices is None else sum(one.measured for one in devices),
        conversion_s=None if models is None else sum(facts.conversion_s.get(one, 0.0) for one in models),
        stored_bytes=None if kept is None else sum(one.total for one in kept),
        stored_bundle_bytes=None if kept is None else sum(one.bundles for one in kept),
        stored_source_bytes=None if kept is None else sum(one.sources for one in kept),
        stored_prediction_bytes=None if kept is None else sum(one.predictions for one in kept),
        stored_capture_bytes=None if kept is None else sum(one.captures for one in kept),
    )
    return line if prices is None else _priced(line, traffic, prices, facts.seconds)


def _priced(line: CostLine, traffic: Sequence[Traffic], prices: Prices, seconds: float) -> CostLine:
    down = [one for one in traffic if one.kind is Kind.BUNDLE]
    up = [one for one in traffic if one.kind is not Kind.BUNDLE]
    unpriced = [one.bytes for one in down if down_price(prices, one.groups) is None]
    unpriced += [one.bytes for one in up if up_price(prices, one.groups) is None]
    parts = {
        "down": _traffic_money(down, prices, "down_gb"),
        "up": _traffic_money(up, prices, "up_gb"),
        "device_hours": _times(line.device_hours, prices.device_hour),
        "energy": _times(line.joules, prices.kwh, 1 / JOULES_PER_KWH),
        "conversion": _times(line.conversion_s, prices.conversion_hour, 1 / HOUR_S),
        "storage": _times(line.stored_bytes, prices.stored_gb_month, seconds / MONTH_S / GB),
    }
    total = sum(one for one in parts.values() if one is not None)
    money = CostMoney(**parts, total=total, unpriced_bytes=sum(unpriced))
    return replace(line, money=money)


def _times(units: float | None, price: float | None, factor: float = 1.0) -> float | None:
    return None if units is None or price is None else units * factor * price
