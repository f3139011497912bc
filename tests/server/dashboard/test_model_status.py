"""The head of a model's page, what runs where, and the steps of its origin: rules over plain values."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.dashboard.models.model_status import (
    RiseStanding,
    RolloutStanding,
    VersionStanding,
    standing_of,
    version_state,
)
from edgefleet_server.dashboard.models.version_bars import by_profile, by_site
from edgefleet_server.dashboard.registry.candidate_views import accuracy_text
from edgefleet_server.dashboard.registry.lineage import OriginFacts, origin_steps
from edgefleet_server.fleet.inventory.fleet_counts import VersionPlace
from edgefleet_server.telemetry.bundle_metrics import Metric

NEW = VersionStanding("2.3.0", 61)
OLD = VersionStanding("2.2.1", 63)
REFUSED = VersionStanding("2.4.0", has_bundle=False)
ROLLOUT = RolloutStanding("r1", "2.3.0", "running")


def lead(*versions: VersionStanding, objectives: tuple[tuple[str, str], ...] = (("a", "ok"),)) -> str:
    return " ".join(one.text for one in standing_of(versions, [], objectives, None).lead)


@pytest.mark.parametrize(
    ("versions", "rollouts", "kind", "words"),
    [
        ((NEW, OLD), (ROLLOUT,), "run", "2.3.0 rolling out"),
        ((NEW, OLD), (RolloutStanding("r", "2.3.0", "paused"),), "warn", "2.3.0 paused"),
        ((NEW, OLD), (RolloutStanding("r", "2.3.0", "rolling_back"),), "bad", "2.3.0 rolling back"),
        ((NEW, OLD), (RolloutStanding("r", "2.3.0", "finished"),), "ok", "2 versions running"),
        ((REFUSED, OLD), (), "ok", "2.2.1 running"),
        ((VersionStanding("1.0.0", 3, is_withdrawn=True),), (), "warn", "1.0.0 withdrawn"),
        (
            (VersionStanding("1.0.0", 3, silent=3), VersionStanding("0.9.0", 1, silent=1)),
            (),
            "off",
            "no device is connected",
        ),
        ((VersionStanding("1.0.0", 3, silent=2),), (), "ok", "1.0.0 running"),
        ((VersionStanding("1.0.0", is_converting=True, has_bundle=False),), (), "run", "1.0.0 converting"),
        ((VersionStanding("1.0.0"),), (), "off", "not in use"),
        ((REFUSED,), (), "off", "nothing to roll out yet"),
        ((), (), "off", "nothing to roll out yet"),
    ],
)
def test_the_state_is_that_of_what_is_live(
    versions: tuple[VersionStanding, ...], rollouts: tuple[RolloutStanding, ...], kind: str, words: str
) -> None:
    found = standing_of(versions, rollouts, [], None)
    assert (found.kind, found.words) == (kind, words)


def test_the_lead_names_what_runs_where_and_the_silent() -> None:
    assert lead(NEW, OLD) == "2.2.1 runs on 63 devices, 2.3.0 on 61. Its objective is met."
    assert lead(VersionStanding("1.0.0", 1)).startswith("1.0.0 runs on 1 device.")
    assert lead(REFUSED).startswith("No device runs it.")
    assert "2 of them are not connected and count as last reported." in lead(VersionStanding("1.0.0", 9, silent=2))
    many = [VersionStanding(f"1.{n}.0", 10 - n) for n in range(5)]
    assert lead(*many).startswith("1.0.0 runs on 10 devices, 1.1.0 on 9, 1.2.0 on 8, 2 other versions on 13.")


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ((), "No objective is set."),
        ((("a", "ok"), ("b", "ok")), "Both objectives are met."),
        ((("a", "ok"),) * 3, "All three objectives are met."),
        ((("a", "ok"),) * 12, "All 12 objectives are met."),
        ((("a", "no_data"),), "Its objective has no figures yet."),
        ((("a", "ok"), ("b", "no_data")), "1 of 2 objectives has no figures yet."),
        ((("a", "ok"), ("fast", "spent")), "“fast” is missed: its error budget is used up."),
        (
            (("a", "no_data"), ("fast", "burning")),
            "“fast” is at risk: its error budget burns fast. 1 of 2 objectives has no figures yet.",
        ),
    ],
)
def test_objectives_are_met_only_with_figures(objectives: tuple[tuple[str, str], ...], said: str) -> None:
    assert lead(OLD, objectives=objectives) == f"2.2.1 runs on 63 devices. {said}"


def test_a_rise_of_latency_stands_in_the_lead() -> None:
    rise = RiseStanding(41.8, 63.21, datetime(2026, 1, 1, tzinfo=UTC))
    said = standing_of([OLD], [], [], rise).lead[-1]
    assert (said.text, said.kind, said.to) == ("Latency p95 rose from 41.8 to 63.2 ms.", "warn", "latency")
    long = standing_of([OLD], [], [], RiseStanding(999.7, 12_345.6, datetime(2026, 1, 1, tzinfo=UTC))).lead[-1]
    assert long.text == "Latency p95 rose from 1\N{NARROW NO-BREAK SPACE}000 to 12\N{NARROW NO-BREAK SPACE}346 ms."


def test_a_version_without_a_bundle_is_refused_and_not_red() -> None:
    assert version_state(REFUSED, []) == ("off", "refused")
    assert version_state(NEW, [ROLLOUT]) == ("run", "rolling out")
    assert version_state(OLD, [ROLLOUT]) == ("ok", "running")


def test_a_version_of_which_no_device_is_connected_is_not_good() -> None:
    assert version_state(VersionStanding("1.0.0", 2, silent=2), []) == ("off", "not connected")
    assert version_state(VersionStanding("1.0.0", 2, silent=1), []) == ("ok", "running")


PLACES = st.lists(
    st.builds(
        VersionPlace,
        version=st.sampled_from(["1", "2", "3"]),
        profile=st.sampled_from(["p", "q"]),
        site=st.sampled_from(["", "x", "y"]),
        devices=st.integers(1, 100_000),
        silent=st.just(0),
    ),
    max_size=12,
)


@given(PLACES)
def test_bars_hold_every_device_once_and_fill_their_width(places: list[VersionPlace]) -> None:
    for found in (by_site("m", places, ["3", "2"]), by_profile("m", places, ["3", "2"])):
        assert sum(one.devices for one in found.shown) in {0, sum(one.devices for one in places)}
        for bar in found.shown:
            assert sum(part.devices for part in bar.parts) == bar.devices
            last = bar.parts[-1]
            assert last.at + last.width == pytest.approx(100, abs=0.1)
            assert [part.at for part in bar.parts] == sorted(part.at for part in bar.parts)


def test_bars_lead_to_their_devices() -> None:
    places = [VersionPlace("2", "p", "hall", 3, 0), VersionPlace("1", "p", "", 1, 0)]
    hall, nowhere = by_site("m", places, ["2", "1"]).shown
    assert (hall.name, hall.selector, hall.parts[0].selector) == ("hall", "model.m,site=hall", "model.m=2,site=hall")
    assert (nowhere.name, nowhere.selector, nowhere.parts[0].colour) == ("", "model.m,!site", 2)
    assert by_site("m", places[1:], ["1"]).shown == ()
    assert [part.version for part in by_profile("m", places, ["2", "1"]).shown[0].parts] == ["2", "1"]


def origin(**changes: object) -> OriginFacts:
    digest = sha256_hex(b"x")
    values: dict[str, object] = {
        "model": "ocr", "version": "1.0.0", "files": [("ocr.onnx", 2048)], "source_sha256": digest, "lineage": {}, "data": {}, "samples": 0,
        "tried": 0, "passed": 0, "profiles": ["a"], "refused": 0, "bundle": digest, "signed": "2026-01-01", "devices": 0,
        "doing": "not in use",
    }  # fmt: skip
    return OriginFacts(**(values | changes))  # type: ignore[arg-type]


def test_the_origin_shows_what_is_recorded_and_nothing_else() -> None:
    assert [one.title for one in origin_steps(origin())] == ["ocr.onnx", "1 bundle", "Signed", "0 devices"]
    whole = origin(
        data={"eval": sha256_hex(b"e"), "calibration": sha256_hex(b"c")}, samples=360, tried=5, passed=4,
        lineage={"git_commit": "a" * 40}, devices=61, profiles=["a", "b"], bundle="",
    )  # fmt: skip
    steps = origin_steps(whole)
    assert [one.title for one in steps] == [
        "Calibration and evaluation data", "Git commit", "ocr.onnx", "5 candidates", "2 bundles", "Signed", "61 devices",
    ]  # fmt: skip
    assert steps[0].said == "360 samples judged it"
    assert steps[-1].link == "/devices?selector=model.ocr%3D1.0.0"
    assert steps[-1].is_now
    refused = origin_steps(origin(profiles=[], refused=2))
    assert [one.title for one in refused] == ["ocr.onnx", "No bundle"]


def score(value: float, name: str = "top1", *, is_measured: bool = True) -> Metric:
    return Metric(name, value, 0.9, 0.0, 100, "", is_measured)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ([], ""),
        ([None], ""),
        ([score(0.985)], "98.5 % top1"),
        ([score(0.985), score(0.97)], "97.0 % top1"),
        ([score(1.0, is_measured=False)], "not measured"),
        ([score(0.985), score(1.0, is_measured=False)], "98.5 % top1, 1 of 2 not measured"),
        ([score(0.12345, "mae")], "0.1235 mae"),
        ([score(0.1, "mae"), score(0.3, "mae")], "0.3 mae"),
        ([score(0.1, "mae"), score(0.9)], "measured by several metrics"),
    ],
)
def test_accuracy_is_the_worst_that_was_measured(metrics: list[Metric | None], text: str) -> None:
    assert accuracy_text(metrics) == text
