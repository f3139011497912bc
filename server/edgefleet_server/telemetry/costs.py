"""Cost models of profiles: what a bundle will cost on its devices, learnt from what devices reported of other bundles.

- A window counts only from a device that has the bundle's profile: which digest a device names is its own word.
- What is read is bounded: the newest bundles of a profile, so many devices a bundle, so many windows a device, so many days.
- The forecast of a new bundle is made once, when it is published, and kept in its report; a fit is kept in memory for some seconds.
- The model file is never opened: what it does was counted by the converter and stands in the bundle's report.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from math import expm1
from typing import Any, Final, Protocol

from edgefleet_profiles.cost.model import (
    QUANTITIES,
    CostModel,
    Estimate,
    Example,
    Figure,
    Subject,
    distinct,
    fit_profile,
    is_kin,
    predict,
)
from edgefleet_profiles.cost.observed import MIN_ANSWERS, DeviceWindow, Observation, observe
from edgefleet_profiles.cost.regression import LEVEL
from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.registry.model import BundleView
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.model import CostExample, CostState, Observed, Performance, rounded_ms
from edgefleet_server.telemetry.service import view

MAX_BUNDLES: Final = 128
MAX_DEVICES: Final = 32
MAX_WINDOWS: Final = 8
MAX_PAIRS: Final = 20_000
MAX_NAMED: Final = 1_000
"""Pairs of bundle and device that are looked through, and devices of one bundle: of a large fleet one would take the room of all others."""
REACH: Final = timedelta(days=30)
KEPT_S: Final = 15.0
PATIENCE: Final = 50
"""Fitting takes a fiftieth of the time at most, however many devices report."""

_Examples = list[tuple[BundleView, Example]]


class Registry(Protocol):
    """What cost models need of the registry."""

    def profile(self, name: str) -> HardwareProfile:
        """Return a hardware profile. Raises an error when there is none."""
        ...

    def profiles(self) -> list[HardwareProfile]:
        """Return all known hardware profiles."""
        ...

    def newest_bundles(self, profile: str, limit: int) -> list[BundleView]:
        """Return the newest signed bundles of a profile."""
        ...


class CostService:
    """Fits and predicts. Thread-safe; calls block, a first one for at most about a second."""

    def __init__(
        self, db: Database, clock: Clock, registry: Registry, profiles_of: Callable[[Sequence[str]], Mapping[str, str]]
    ) -> None:
        """Wire the parts. profiles_of: returns the profile of each device that is known and not revoked."""
        self._db = db
        self._clock = clock
        self._registry = registry
        self._profiles_of = profiles_of
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, CostModel, _Examples]] = {}

    def forecast(self, bundle: BundleView) -> dict[str, Any]:
        """Return the estimate of a bundle as plain data, from a fresh fit: it is kept with the bundle for good."""
        return estimate_view(self._estimate(bundle, is_fresh=True))

    def performance(self, bundles: Sequence[BundleView]) -> list[Performance]:
        """Return prediction and observation of each bundle of a release."""
        with self._db.read():
            observed = self._observed(bundles)
            return [self._performance(bundle, observed.get(bundle.sha256)) for bundle in bundles]

    def state(self, profile: HardwareProfile) -> CostState:
        """Return what the cost model of a profile rests on."""
        model, examples = self._model(profile.name, is_fresh=False)
        reason = f"{model.models} models were reported on" if model.models != 1 else "1 model was reported on"
        return CostState(
            profile=profile.name, basis=model.basis, reason=reason, level=LEVEL, models=model.models, devices=model.devices,
            error={name: _rounded(made.error) for name, made in model.fits.items()},
            examples=[
                CostExample(str(bundle.ref), _plain(one.observation), _left_out(model, [e for _, e in examples], index))
                for index, (bundle, one) in enumerate(examples)
            ],
        )  # fmt: skip

    def _performance(self, bundle: BundleView, observation: Observation | None) -> Performance:
        predicted = bundle.report.get("predicted") or None
        if observation is None:
            return Performance(
                bundle.profile, predicted, estimate_view(self._estimate(bundle, is_fresh=False)), None, {}, {}
            )
        error, within = {}, {}
        for name in QUANTITIES:
            figure, true = (predicted or {}).get(name), getattr(observation, name)
            if figure and true:
                error[name] = _rounded(figure["value"] / true - 1)
                within[name] = figure["low"] <= true <= figure["high"]
        return Performance(bundle.profile, predicted, None, _plain(observation), error, within)

    def _estimate(self, bundle: BundleView, *, is_fresh: bool) -> Estimate:
        profile = self._registry.profile(bundle.profile)
        own, _ = self._model(profile.name, is_fresh=is_fresh)
        kin = [other for other in self._registry.profiles() if is_kin(profile, other)]
        relatives = [(other, self._model(other.name, is_fresh=False)[0]) for other in kin]
        return predict(profile, subject_of(bundle.report), own, relatives)

    def _model(self, profile: str, *, is_fresh: bool) -> tuple[CostModel, _Examples]:
        """Return the fit of a profile and the examples it was made of."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            kept = self._kept.get(profile)
        if kept is not None and not is_fresh and now_s < kept[0]:
            return kept[1], kept[2]
        with self._db.read():
            bundles = self._registry.newest_bundles(profile, MAX_BUNDLES)
            observed = self._observed(bundles)
        found = [
            (bundle, Example(subject, observed[bundle.sha256]))
            for bundle in bundles
            if bundle.sha256 in observed and (subject := subject_of(bundle.report)) is not None
        ]
        used = distinct([example for _, example in found])
        model = fit_profile(profile, used)
        examples = [(bundle, example) for bundle, example in found if any(example is one for one in used)]
        took_s = self._clock.monotonic_s() - now_s
        with self._lock:
            self._kept[profile] = (now_s + max(KEPT_S, PATIENCE * took_s), model, examples)
        return model, examples

    def _observed(self, bundles: Sequence[BundleView]) -> dict[str, Observation]:
        """Return what devices reported, by bundle digest; joins the caller's transaction."""
        wanted = {str(bundle.sha256): bundle.profile for bundle in bundles}
        since = self._clock.now() - REACH
        windows: dict[str, dict[str, list[DeviceWindow]]] = {digest: {} for digest in wanted}
        with self._db.read(streams=True) as session:
            each = min(MAX_NAMED, MAX_PAIRS // max(1, len(wanted)))
            reporting = [
                (digest, device)
                for digest in sorted(wanted)
                for device in store.reporting_devices(session, digest, since, min_answers=MIN_ANSWERS, limit=each)
            ]
            profiles = self._profiles_of(sorted({device for _, device in reporting}))
            heard = _heard(reporting, wanted, profiles)
            rows = store.loaded_windows(
                session, list(wanted), heard, since, min_answers=MIN_ANSWERS, windows=MAX_WINDOWS
            )
            for row in rows:
                seen = view(row)
                windows[row.sha256].setdefault(row.device_id, []).append(
                    DeviceWindow(seen.n, seen.errors, seen.latency_p50_ms, seen.latency_p95_ms, seen.worker_rss_bytes)
                )
        found = {}
        for digest, of_bundle in windows.items():
            own = [device for device in sorted(of_bundle) if profiles.get(device) == wanted[digest]][:MAX_DEVICES]
            observation = observe({device: of_bundle[device] for device in own})
            if observation is not None:
                found[digest] = observation
        return found


def _heard(reporting: Sequence[tuple[str, str]], wanted: Mapping[str, str], profiles: Mapping[str, str]) -> list[str]:
    """Return the devices to read: of each bundle the first MAX_DEVICES that have its profile."""
    of_bundle: dict[str, list[str]] = {}
    for digest, device in reporting:
        if profiles.get(device) == wanted[digest]:
            of_bundle.setdefault(digest, []).append(device)
    return sorted({device for devices in of_bundle.values() for device in devices[:MAX_DEVICES]})


def subject_of(report: Mapping[str, Any]) -> Subject | None:
    """Return what a bundle's report says of its model, None when it says too little."""
    latency, memory, work = (report.get(name) for name in ("latency_ms", "peak_rss_bytes", "work"))
    if not (isinstance(latency, Mapping) and isinstance(work, Mapping) and work and isinstance(memory, int)):
        return None
    try:
        return Subject(work, float(latency["p50"]), memory)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def estimate_view(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as plain data, figures rounded to what they are worth."""
    data = asdict(estimate)
    for name in QUANTITIES:
        figure: Figure | None = getattr(estimate, name)
        if figure is not None:
            shown = round if name == "memory_bytes" else rounded_ms
            data[name] = {key: shown(value) for key, value in asdict(figure).items()}
            data[name]["error"] = _rounded(figure.error)
    return data


def _plain(observation: Observation) -> Observed:
    data = asdict(observation)
    return Observed(**data | {name: rounded_ms(data[name]) for name in ("latency_p50_ms", "latency_p95_ms")})


def _left_out(model: CostModel, examples: Sequence[Example], index: int) -> dict[str, float]:
    """Return how far off each figure of an example is when it is predicted from the others: predicted ÷ observed - 1."""
    errors = {}
    for name, made in model.fits.items():
        known = [number for number, one in enumerate(examples) if getattr(one.observation, name) is not None]
        if index in known:
            errors[name] = _rounded(expm1(-made.left_out[known.index(index)]))
    return errors


def _rounded(share: float) -> float:
    return round(share, 4)
