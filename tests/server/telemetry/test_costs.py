"""Cost models on the server: who may tell, what is kept with a bundle, what the routes show."""

import math
import random
from typing import Any

import pytest

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.composition.worker_container import build_converter_parts
from edgefleet_server.telemetry import costs
from edgefleet_server.telemetry.costs import MAX_DEVICES, MAX_WINDOWS, REACH, subject_of
from tests.profiles.simulated import model_work, subject, true_figures
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import PROFILE, House

OTHER = "generic-x86_64-litert"


class Trial:
    """Publishes made-up models and lets devices report the truth of a simulated board."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.seq = 0
        self.truth: dict[str, tuple[float, float, int]] = {}

    def publish(self, ref: str, seed: int, profile: str = PROFILE, **report: Any) -> str:
        """Publish a model and return its bundle's digest."""
        chance = random.Random(seed)
        work = model_work(chance)
        known = subject(work, chance)
        facts: dict[str, Any] = {
            "work": work, "latency_ms": {"p50": known.host_ms},
            "peak_rss_bytes": known.host_memory_bytes, **report,
        }  # fmt: skip
        parsed = self.house.release(ref, bundles={}, profiles=(profile,))
        data = ref.encode()
        self.house.bundle(parsed.model, parsed.version, ProfileName(profile), data, facts)
        digest = sha256_hex(data)
        self.truth[digest] = true_figures(work, chance)
        return digest

    def report(
        self, device: str, digest: str, factor: float = 1.0, windows: int = 3, n: int = 60, lane: str = "active"
    ) -> None:
        """Let a device send windows of a bundle: the truth times a factor."""
        p50, p95, memory = self.truth[digest]
        for _ in range(windows):
            sketch = LatencySketch()
            for index in range(n):
                sketch.add((p50 if index < 0.9 * n else p95) * factor / 1000)
            self.seq += 1
            told = Window(
                t0=1_764_000_000, length_s=60, model="m", lane=lane, sha256=digest, version="1.0.0", n=n,
                latency=sketch.packed(), worker_rss_bytes=round(memory * factor),
            )  # fmt: skip
            batch = Telemetry(device=device, boot_id="b", seq=self.seq, ts=1_764_000_000_000, windows=[told])
            self.house.telemetry.ingest([batch])

    def fleet(self, count: int, models: int) -> list[str]:
        """Enrol devices and let each report on each of so many models; return the devices."""
        devices = [str(self.house.device(profile=ProfileName(PROFILE)).id) for _ in range(count)]
        for number in range(models):
            digest = self.publish(f"model{number}@1.0.0", number)
            for device in devices:
                self.report(device, digest)
        self.house.clock.turn(minutes=1)  # what was fitted before is forgotten
        return devices


def bundle_of(house: House, ref: str) -> dict[str, Any]:
    """Return the report of the only bundle of a release."""
    (bundle,) = house.registry.release(ReleaseRef.parse(ref)).bundles
    return dict(bundle.report)


def test_a_new_bundle_keeps_its_prediction_and_is_compared_later(any_house: House) -> None:
    house = any_house
    trial = Trial(house)
    devices = trial.fleet(2, 9)
    assert bundle_of(house, "model0@1.0.0")["predicted"]["basis"] == "none"
    digest = trial.publish("new@1.0.0", 50)
    predicted = bundle_of(house, "new@1.0.0")["predicted"]
    assert (predicted["basis"], predicted["models"], predicted["devices"]) == ("fitted", 9, 2)
    viewer = Operators(house).as_role(Role.VIEWER)
    (before,) = viewer.get("/releases/new@1.0.0/performance").json()["items"]
    assert (before["predicted"], before["observed"], before["error"]) == (predicted, None, {})
    assert before["current"]["basis"] == "fitted"
    for device in devices:
        trial.report(device, digest)
    (after,) = viewer.get("/releases/new@1.0.0/performance").json()["items"]
    true = trial.truth[digest][0]
    assert after["observed"]["latency_p50_ms"] == pytest.approx(true, rel=0.011)
    assert (after["observed"]["devices"], after["predicted"], after["current"]) == (2, predicted, None)
    figure = predicted["latency_p50_ms"]
    assert after["error"]["latency_p50_ms"] == pytest.approx(
        figure["value"] / after["observed"]["latency_p50_ms"] - 1, abs=1e-3
    )
    assert after["within"]["latency_p50_ms"] is (figure["low"] <= after["observed"]["latency_p50_ms"] <= figure["high"])
    shown = viewer.get("/releases/new@1.0.0").json()["bundles"][0]
    assert shown["predicted"] == predicted


def test_a_model_of_microseconds_is_shown_as_exactly_as_a_slow_one(house: House) -> None:
    trial = Trial(house)
    device = str(house.device(profile=ProfileName(PROFILE)).id)
    digest = trial.publish("tiny@1.0.0", 1)
    factor = 0.001645 / trial.truth[digest][0]
    trial.report(device, digest, factor)
    (shown,) = Operators(house).as_role(Role.VIEWER).get("/releases/tiny@1.0.0/performance").json()["items"]
    assert shown["observed"]["latency_p50_ms"] == pytest.approx(0.001645, rel=0.011)


def test_a_conversion_worker_predicts_what_the_server_does(any_house: House) -> None:
    house = any_house
    trial = Trial(house)
    trial.fleet(2, 9)
    trial.publish("new@1.0.0", 50)
    (bundle,) = house.registry.release(ReleaseRef.parse("new@1.0.0")).bundles
    parts = build_converter_parts(house.settings, house.clock)
    assert bundle.report["predicted"]["devices"] == 2
    assert parts.registry.with_forecast(bundle) == bundle
    parts.db.dispose()


def test_the_state_of_a_profile_tells_each_model_and_its_error(house: House) -> None:
    trial = Trial(house)
    trial.fleet(1, 6)
    state = Operators(house).as_role(Role.VIEWER).get(f"/profiles/{PROFILE}/cost").json()
    assert (state["basis"], state["models"], state["devices"], state["level"]) == ("fitted", 6, 1, 0.8)
    assert set(state["error"]) == {"latency_p50_ms", "latency_p95_ms", "memory_bytes"}
    assert {one["release"] for one in state["examples"]} == {f"model{number}@1.0.0" for number in range(6)}
    assert all(set(one["left_out"]) == set(state["error"]) for one in state["examples"])
    nothing = Operators(house).as_role(Role.VIEWER).get(f"/profiles/{OTHER}/cost").json()
    assert (nothing["basis"], nothing["models"], nothing["error"]) == ("none", 0, {})
    assert Operators(house).as_role(None).get(f"/profiles/{OTHER}/cost").status_code == 401


def test_only_devices_that_have_the_profile_are_heard(house: House) -> None:
    trial = Trial(house)
    digest = trial.publish("model@1.0.0", 1)
    stranger = str(house.device(profile=ProfileName(OTHER)).id)
    gone = str(house.device(profile=ProfileName(PROFILE)).id)
    for device in (stranger, gone, "d-unknown"):
        trial.report(device, digest, factor=50)
    house.fleet.revocation.revoke(gone)
    release = house.registry.release(ReleaseRef.parse("model@1.0.0"))
    assert house.costs.performance(release.bundles)[0].observed is None
    trial.report(str(house.device(profile=ProfileName(PROFILE)).id), digest)
    (told,) = house.costs.performance(release.bundles)
    assert told.observed is not None
    assert told.observed.devices == 1
    assert told.observed.latency_p50_ms == pytest.approx(trial.truth[digest][0], rel=0.011)


def test_a_bundle_with_many_devices_leaves_room_for_the_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MAX_PAIRS", 6)
    trial = Trial(house)
    trial.fleet(4, 2)
    refs = [ReleaseRef.parse(f"model{number}@1.0.0") for number in range(2)]
    told = house.costs.performance([one for ref in refs for one in house.registry.release(ref).bundles])
    assert [one.observed.devices for one in told if one.observed is not None] == [3, 3]


def test_a_minority_that_lies_changes_no_prediction(house: House) -> None:
    trial = Trial(house)
    trial.fleet(3, 8)
    known = house.registry.profile(PROFILE)
    before = house.costs.state(known)
    liar = str(house.device(profile=ProfileName(PROFILE)).id)
    for digest in list(trial.truth):
        trial.report(liar, digest, factor=1000, windows=20, n=5000)
    house.clock.turn(minutes=1)
    after = house.costs.state(known)
    assert after.devices == 4
    for one, other in zip(before.examples, after.examples, strict=True):
        assert other.observed.latency_p50_ms == pytest.approx(one.observed.latency_p50_ms, rel=0.021)
    assert after.error["latency_p50_ms"] == pytest.approx(before.error["latency_p50_ms"], rel=0.3, abs=0.05)


@pytest.mark.parametrize(
    "told", [{"windows": 1}, {"n": 9}, {"lane": "shadow"}, {"factor": 1e9}], ids=["one", "idle", "shadow", "impossible"]
)
def test_what_is_no_load_is_not_counted(house: House, told: dict[str, Any]) -> None:
    trial = Trial(house)
    digest = trial.publish("model@1.0.0", 1)
    trial.report(str(house.device(profile=ProfileName(PROFILE)).id), digest, **told)
    release = house.registry.release(ReleaseRef.parse("model@1.0.0"))
    assert house.costs.performance(release.bundles)[0].observed is None


def test_what_is_read_is_bounded_and_old_reports_end(any_house: House) -> None:
    house = any_house
    trial = Trial(house)
    digest = trial.publish("model@1.0.0", 1)
    device = str(house.device(profile=ProfileName(PROFILE)).id)
    trial.report(device, digest, windows=MAX_WINDOWS + 5)
    release = house.registry.release(ReleaseRef.parse("model@1.0.0"))
    (told,) = house.costs.performance(release.bundles)
    assert told.observed is not None
    assert told.observed.windows == MAX_WINDOWS
    for number in range(MAX_DEVICES + 3):  # strangers that come first in order do not crowd the only true one out
        trial.report(f"a-{number:03}", digest, factor=30)
    assert house.costs.performance(release.bundles) == [told]
    house.clock.turn(seconds=REACH.total_seconds() + 1)
    assert house.costs.performance(release.bundles)[0].observed is None
    trial.report(device, digest)
    (anew,) = house.costs.performance(release.bundles)
    assert anew.observed is not None
    assert anew.observed.windows == 3


@pytest.mark.parametrize(
    "report",
    [
        {}, {"work": {"nodes": 1}}, {"work": {}, "latency_ms": {"p50": 1}, "peak_rss_bytes": 1},
        {"work": {"nodes": 1}, "latency_ms": {"p95": 1}, "peak_rss_bytes": 1},
        {"work": {"nodes": 1}, "latency_ms": {"p50": "much"}, "peak_rss_bytes": 1},
        {"work": {"nodes": 1}, "latency_ms": {"p50": 10**400}, "peak_rss_bytes": 1},
    ],
)  # fmt: skip
def test_a_report_that_says_too_little_is_no_subject(report: dict[str, Any]) -> None:
    assert subject_of(report) is None


def test_a_bundle_without_counts_is_published_without_an_estimate(house: House) -> None:
    trial = Trial(house)
    trial.fleet(1, 3)
    trial.publish("bare@1.0.0", 60, work={})
    predicted = bundle_of(house, "bare@1.0.0")["predicted"]
    assert (predicted["basis"], predicted["latency_p50_ms"]) == ("none", None)
    assert "older converter" in predicted["reason"]
    assert math.isclose(predicted["level"], 0.8)
