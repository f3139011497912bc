"""Costs as the rest of the server sees them: a report of a span of time, and the prices that an operator set."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.costing import price_list, rules, store
from edgefleet_server.costing.errors import CostSpanError, NoPricesError
from edgefleet_server.costing.model import (
    HOUR_S,
    Blob,
    Candidate,
    Choice,
    CostBy,
    CostFacts,
    CostReport,
    Devices,
    Kind,
    KnownPrices,
    Prices,
    Running,
    Traffic,
)
from edgefleet_server.costing.traffic_ledger import DAY_S, OTHER, oldest_kept
from edgefleet_server.db.database import Database
from edgefleet_server.registry.model import BundleView
from edgefleet_server.telemetry.rollups.model import Dimension, Sums

USUAL: Final = timedelta(days=30)
FINE: Final = timedelta(days=3)
"""Up to this span a report is of whole hours, beyond it of whole days: a day has a row where hours have 24."""
KEPT_DAYS: Final[Mapping[int, int]] = {HOUR_S: 35, DAY_S: 1_826}
MOST_CHOICES: Final = 200
"""Bundles whose conversion is looked at, those with the most bytes."""
ACTIVE: Final = ("active",)
MEASURED: Final = ("measure",)


class Rollups(Protocol):
    """What is needed of roll-ups."""

    def served(
        self,
        scale_s: int,
        since: datetime,
        until: datetime,
        *,
        by: Sequence[Dimension] = (),
        where: Mapping[Dimension, Any] = ...,
    ) -> Mapping[tuple[str, ...], Any]:
        """Return windows, seconds and answers of a span, by the values of `by`."""
        ...

    def totals(
        self, *, by: Sequence[Dimension] = (), where: Mapping[Dimension, Any] = ...
    ) -> dict[tuple[str, ...], Sums]:
        """Return what was counted since the beginning."""
        ...


class Registry(Protocol):
    """What is needed of the registry."""

    def bundles_by_digest(self, digests: Sequence[str]) -> Mapping[Any, BundleView]:
        """Return bundles by digest."""
        ...

    def stored_blobs(self) -> Sequence[tuple[str, str, int, bool]]:
        """Return (model, digest, bytes, whether it is of the source) of all blobs that releases name."""
        ...

    def model(self, name: str) -> Any:
        """Return a model. Raises ModelUnknownError."""
        ...


class Sources:
    """Where figures come from, each by model."""

    def __init__(
        self,
        conversion_s: Callable[[datetime, datetime], Mapping[str, float]],
        predictions: Callable[[], Mapping[str, int]],
        captures: Callable[[], Mapping[str, int]],
        running: Callable[[], Sequence[tuple[str, str, int]]],
        group: Callable[[str], Any],
        report: Callable[[BundleView], Mapping[str, Any] | None],
    ) -> None:
        """conversion_s: of jobs that ended in a span; predictions, captures: bytes kept; running: (model, bundle, devices) now.

        group: raises an error for an unknown one; report: the conversion report of a bundle.
        """
        self.conversion_s = conversion_s
        self.predictions = predictions
        self.captures = captures
        self.running = running
        self.group = group
        self.report = report


class CostBook:
    """Reads costs and keeps prices. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(self, db: Database, clock: Clock, registry: Registry, rollups: Rollups, sources: Sources) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._registry = registry
        self._rollups = rollups
        self._sources = sources
        self._lock = threading.Lock()
        self._choices: dict[str, Choice | None] = {}

    def report(  # the question as it was asked
        self,
        *,
        model: str = "",
        group: str = "",
        by: CostBy = CostBy.MODEL,
        since: datetime | None = None,
        until: datetime | None = None,
        prices: Prices | None = None,
    ) -> CostReport:
        """Return what a span cost. prices: given with the question; None: those that are set.

        Raises CostSpanError, ModelUnknownError, GroupUnknownError.
        """
        if model:
            self._registry.model(model)
        if group:
            self._sources.group(group)
        now = self._clock.now()
        begin, end, scale_s = span_of(now, since, until)
        known = prices or self.known_prices()
        by_group = bool(group) or by is CostBy.GROUP
        # the hour or day that goes on may have begun just now
        facts = self._facts(begin, end + timedelta(seconds=1) if end == now else end, scale_s, model, by_group)
        with self._db.read() as session:
            first = store.first_at(session, DAY_S)
        chosen = [one for one in facts.traffic if not group or group in one.groups]
        narrowed = _of_group(facts, chosen, group) if group else facts
        sent = {one.bundle for one in chosen if one.kind is Kind.BUNDLE and one.bundle}
        return CostReport(
            since=begin,
            until=end,
            by=by,
            model=model,
            group=group,
            counted_since=None if first is None else datetime.fromtimestamp(first, UTC),
            currency="" if known is None else known.currency,
            prices_from="given" if prices is not None else "none" if known is None else "set",
            lines=rules.lines_of(facts, known, by, group),
            total=rules.total_of(facts, known, group),
            is_sum=by is CostBy.MODEL,
            bundles_sent=len(sent),
            compared=sum(1 for one in sent if one in facts.choices),
            smaller_bundles=rules.smaller_bundles(narrowed, known),
            longer_windows=rules.longer_windows(narrowed, known),
            methods=list(rules.METHODS),
        )

    def known_prices(self) -> Prices | None:
        """Return the prices that are set, None without any."""
        with self._db.read() as session:
            row = store.prices(session)
            return None if row is None else price_list.parsed(row.document)

    def prices(self) -> KnownPrices:
        """Return the prices that are set. Raises NoPricesError."""
        with self._db.read() as session:
            row = store.prices(session)
            if row is None:
                raise NoPricesError("no prices are set", next_step="`edgectl prices set -f prices.yaml` sets them")
            return KnownPrices(price_list.parsed(row.document), row.set_at, row.set_by)

    def set_prices(self, document: Any, by: str) -> KnownPrices:
        """Set prices from their parsed file. Raises BadPricesError."""
        prices = price_list.parsed(document)
        now = self._clock.now()
        with self._db.session() as session:
            store.set_prices(session, price_list.document_of(prices), now, by)
        return KnownPrices(prices, now, by[:120])

    def remove_prices(self) -> None:
        """Remove the prices. Raises NoPricesError."""
        with self._db.session() as session:
            self.prices()
            store.remove_prices(session)

    def prune(self, now: datetime) -> int:
        """Remove counts that are older than is kept."""
        with self._db.session() as session:
            return store.prune(session, oldest_kept(now, KEPT_DAYS))

    def _facts(self, since: datetime, until: datetime, scale_s: int, model: str, by_group: bool) -> CostFacts:
        """Return what was counted. by_group: also in groups, which is of many more rows of roll-ups."""
        with self._db.read() as session:
            traffic = store.traffic(session, scale_s, int(since.timestamp()), int(until.timestamp()), model)
        joules = self._joules()
        blobs = (Blob(sha256, name, size, is_source) for name, sha256, size, is_source in self._registry.stored_blobs())
        stored = rules.stored_of(blobs, self._sources.predictions(), self._sources.captures())
        conversion_s = self._sources.conversion_s(since, until)
        devices: dict[str, Devices] = {}
        for name, bundle, n in self._sources.running():
            before = devices.get(name, Devices())
            devices[name] = Devices(before.running + n, before.measured + (n if bundle in joules else 0))

        def own(found: Mapping[str, Any]) -> dict[str, Any]:
            return {name: one for name, one in found.items() if not model or name == model}

        return CostFacts(
            seconds=(until - since).total_seconds(),
            traffic=tuple(traffic),
            running=self._running(since, until, scale_s, model, in_groups=False),
            running_in=self._running(since, until, scale_s, model, in_groups=True) if by_group else (),
            joules=joules,
            conversion_s=own(conversion_s),
            stored=own(stored),
            devices=own(devices),
            choices=self._choices_of(traffic),
        )

    def _running(
        self, since: datetime, until: datetime, scale_s: int, model: str, *, in_groups: bool
    ) -> tuple[Running, ...]:
        by = (Dimension.MODEL, Dimension.SHA256, *((Dimension.GROUP,) if in_groups else ()))
        where: dict[Dimension, Sequence[str]] = {Dimension.LANE: ACTIVE}
        if model:
            where[Dimension.MODEL] = (model,)
        found = self._rollups.served(scale_s, since, until, by=by, where=where)
        return tuple(
            Running(key[0] or OTHER, key[1], key[2] if in_groups else None, one.seconds, one.n, one.windows)
            for key, one in sorted(found.items())
        )

    def _joules(self) -> dict[str, float]:
        """Return the joules of an answer by bundle, of those that were measured."""
        sums = self._rollups.totals(by=(Dimension.SHA256,), where={Dimension.LANE: MEASURED})
        return {key[0]: one.joules / one.joules_n for key, one in sums.items() if one.joules_n}

    def _choices_of(self, traffic: Sequence[Traffic]) -> dict[str, Choice]:
        """Return what conversions chose for the bundles that were sent, of those with the most bytes."""
        sent: dict[str, int] = {}
        for one in traffic:
            if one.kind is Kind.BUNDLE and one.bundle:
                sent[one.bundle] = sent.get(one.bundle, 0) + one.bytes
        wanted = sorted(sent, key=lambda one: (-sent[one], one))[:MOST_CHOICES]
        with self._lock:
            known = {one: self._choices[one] for one in wanted if one in self._choices}
        new = [one for one in wanted if one not in known]
        bundles = {str(sha256): one for sha256, one in self._registry.bundles_by_digest(new).items()} if new else {}
        fresh = {one: self._choice(bundles[one]) for one in new if one in bundles}
        with self._lock:
            self._choices = {**known, **fresh}
        return {one: choice for one, choice in (known | fresh).items() if choice is not None}

    def _choice(self, bundle: BundleView) -> Choice | None:
        try:
            report = self._sources.report(bundle)
        except EdgefleetError:  # a report that is gone says nothing
            return None
        return None if report is None else choice_of(bundle, report)


def choice_of(bundle: BundleView, report: Mapping[str, Any]) -> Choice | None:
    """Return what a conversion chose and what else kept the metric; None where its report does not say.

    A child process wrote it: what is of another kind than it should be is left out.
    """
    for profile in _list(report.get("profiles")):
        taken = profile.get("bundle")
        if profile.get("profile") != str(bundle.profile) or not isinstance(taken, Mapping):
            continue
        passed = [
            found
            for row in _list(profile.get("candidates"))
            if row.get("verdict") == "passed" and (found := _candidate(row)) is not None
        ]
        own = next((one for one in passed if one.id == taken.get("candidate")), None)
        if own is not None:
            others = tuple(one for one in passed if one.id != own.id)
            return Choice(str(bundle.ref), str(bundle.profile), own, others)
    return None


def _candidate(row: Mapping[str, Any]) -> Candidate | None:
    name, size, metric = row.get("id"), row.get("bytes"), row.get("metric")
    if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        return None
    drop = metric.get("drop") if isinstance(metric, Mapping) else None
    is_number = isinstance(drop, int | float) and not isinstance(drop, bool)
    return Candidate(name[:80], size, float(drop) if is_number and drop is not None else None)


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _of_group(facts: CostFacts, traffic: Sequence[Traffic], group: str) -> CostFacts:
    running = tuple(one for one in facts.running_in if one.group == group)
    return CostFacts(facts.seconds, tuple(traffic), running, choices=facts.choices)


def span_of(now: datetime, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime, int]:
    """Return beginning, end and the scale that it is read in; the beginning is that of an hour or day. Raises CostSpanError."""
    end = min(until or now, now)
    begin = since or end - USUAL
    oldest = now - timedelta(days=KEPT_DAYS[DAY_S])
    begin = max(begin, oldest)
    if begin >= end:
        raise CostSpanError(
            f"{begin.isoformat()} is not before {end.isoformat()}",
            next_step=f"ask for a span that ends by now; figures are kept since {oldest.date().isoformat()}",
        )
    is_fine = end - begin <= FINE and now - begin <= timedelta(days=KEPT_DAYS[HOUR_S] - 1)
    scale_s = HOUR_S if is_fine else DAY_S
    first = datetime.fromtimestamp(int(begin.timestamp()) // scale_s * scale_s, UTC)
    last = datetime.fromtimestamp(-(-int(end.timestamp()) // scale_s) * scale_s, UTC)
    return first, min(last, now) if last > now else last, scale_s
