"""Ground truth on the server: added up exactly, no device's word above its part, intervals that hold, and concept drift told apart."""

import datetime as dt
import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from edgefleet_protocol import ground_truth
from edgefleet_protocol.ground_truth import (
    MAX_CLASSES,
    MAX_TOTAL,
    FigureSums,
    NumberSums,
    Truth,
    TruthPart,
    added,
    class_part,
    figure_part,
    number_part,
    pack,
)
from edgefleet_protocol.ids import ModelName, ProfileName, ReleaseRef
from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_server.telemetry.ground_truth import accuracy
from edgefleet_server.telemetry.ground_truth import truth_intake as intake
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyBy
from edgefleet_server.telemetry.ground_truth.concept import days_of, judge
from edgefleet_server.telemetry.ground_truth.errors import BadPeriodError
from edgefleet_server.telemetry.ground_truth.intervals import drop_log10, share_of, t_quantile
from edgefleet_server.telemetry.ground_truth.tables import TruthBucket
from edgefleet_server.telemetry.ground_truth.truth_sums import TruthSums
from edgefleet_server.telemetry.ground_truth.views import PublishedAccuracy
from edgefleet_server.telemetry.plausibility import MAX_LENGTH_S
from tests.server.fleet.house import PROFILE, House
from tests.server.telemetry.drifting import bundle_bytes

PUMP = ModelName("pump")
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)


class Line:
    """Devices of one release whose answers are labelled."""

    def __init__(self, house: House, devices: int = 4, *, value: float = 0.95) -> None:
        self.house = house
        self.sha256 = self.publish("1.0.0", value)
        self.devices = [house.device(labels={"site": ("lyon", "osaka")[k % 2]}).id for k in range(devices)]
        self.seq = 0

    def publish(self, version: str, value: float) -> str:
        """Sign a release that was right so often at publish; return its digest."""
        ref = self.house.release(f"pump@{version}", bundles={}, profiles=[PROFILE])
        report = {"metric": {"name": "top1", "value": value, "n": 1_000, "data": "eval"}, "verdict": "passed"}
        data = bundle_bytes("pump", version, PROFILE, None)
        self.house.bundle(ref.model, ref.version, ProfileName(PROFILE), data, report)
        return str(self.house.registry.release(ReleaseRef.parse(f"pump@{version}")).bundles[0].sha256)

    def hour(self, ago: dt.timedelta = dt.timedelta()) -> int:
        """Return the hour of answers that were given so long ago."""
        return int((self.house.clock.now() - ago).timestamp()) // 3_600

    def window(self, truth: Truth | bytes, **more: Any) -> Window:
        """Return a window that ends now."""
        t0 = int(self.house.clock.now().timestamp()) - 900
        known: dict[str, Any] = {"model": "pump", "lane": "active", "sha256": self.sha256, "version": "1.0.0"}
        packed = truth if isinstance(truth, bytes) else pack(truth)
        return Window(t0=t0, length_s=900, truth=packed, **{**known, **more})

    def tell(self, device: str, *windows: Window) -> int:
        """Let a device tell windows; return how many messages were new."""
        self.seq += 1
        sent = Telemetry(device=device, boot_id="b", seq=self.seq, ts=0, windows=list(windows))
        return self.house.telemetry.ingest([sent])

    def label(
        self, device: str, right: int, wrong: int, *, ago: dt.timedelta = HOUR, segment: str = "", **more: Any
    ) -> None:
        """Let a device tell labels of answers that it gave so long ago."""
        self.tell(device, self.window(Truth(parts=labels(self.hour(ago), right, wrong, segment)), **more))


def labels(hour: int, right: int, wrong: int, segment: str = "") -> tuple[TruthPart, ...]:
    """Return labelled answers of one hour: class 0, answered as 0 or as 1."""
    pairs = [*[class_part(hour, segment, 0, 0)] * right, *[class_part(hour, segment, 0, 1)] * wrong]
    return added(pairs)


@pytest.fixture
def line(house: House) -> Line:
    """Return four devices."""
    return Line(house)


def rows(house: House) -> list[TruthBucket]:
    """Return all steps, the short ones first."""
    with house.db.read() as session:
        found = session.execute(select(TruthBucket)).scalars()
        return sorted(found, key=lambda one: (one.scale_s, one.at, one.device_id, one.segment))


def test_windows_add_up_exactly_by_hour_and_day_and_a_replay_counts_once(any_house: House) -> None:
    line = Line(any_house, 1)
    (device,) = line.devices
    parts = [
        *labels(line.hour(30 * HOUR), 3, 1),
        *labels(line.hour(), 5, 0),
        *labels(line.hour(), 2, 2, "line-1"),
        number_part(line.hour(), "", 10.0, 12.5, 2.0),
        figure_part(line.hour(), "", {"scrap": 2.5}),
    ]
    for some in (parts[:3], parts[3:], parts):
        line.tell(device, line.window(Truth(1, 2.0, 2, 1, 1, added(some))))
    sent = Telemetry(device=device, boot_id="b", seq=line.seq, ts=0, windows=[line.window(Truth(parts=added(parts)))])
    assert any_house.telemetry.ingest([sent]) == 0
    hours = [one for one in rows(any_house) if one.scale_s == 3_600]
    assert [(one.segment, one.labelled, one.correct, one.n, one.total) for one in hours if one.labelled] == [
        ("", 8, 6, 0, 0),
        ("", 10, 10, 2, 2 * 80),
        ("line-1", 8, 4, 0, 0),
    ]
    assert [(sum(getattr(one, name) for one in hours)) for name in ("unmatched", "late", "repeated")] == [6, 3, 3]
    view = any_house.accuracy.of_model(PUMP, by=AccuracyBy.SEGMENT)
    assert [(one.name, one.labelled, one.right) for one in view.lines] == [("", 18, 16), ("line-1", 8, 4)]
    (figure,) = view.figures
    assert (figure.name, figure.total, figure.reports) == ("scrap", 5.0, 2)
    numbers = next(one for one in view.lines if one.numbers)
    assert (numbers.error, numbers.bias) == (2.5, 2.5)
    assert numbers.rmse == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize(
    "lie",
    [
        {"truth": b"\xc1"},
        {"truth": pack(Truth(parts=(TruthPart(5, "", 2, 2, (ground_truth.Cell(0, 1, 2),)),)))},
        {"truth": pack(Truth(parts=(TruthPart(5, "", 10**9, 10**9, (ground_truth.Cell(0, 0, 10**9),)),)))},
        {"truth": pack(Truth(unmatched=10**9))},
        {"truth": b"\x00" * (intake.MAX_BYTES + 1)},
    ],
)
def test_what_no_device_can_have_counted_is_refused_with_its_window(line: Line, lie: dict[str, Any]) -> None:
    bad = msgspec.structs.replace(line.window(b""), **lie)
    line.tell(line.devices[0], bad, line.window(b"", lane="candidate"))
    assert line.house.telemetry.refused() == {line.devices[0]: 1}
    assert not rows(line.house)


def test_labels_of_hours_that_cannot_be_are_left_out_and_the_window_counts(line: Line) -> None:
    (device, *_) = line.devices
    parts = [
        *labels(5, 3, 0),
        *labels(line.hour(), 2, 1),
        *labels(line.hour(-5 * HOUR), 7, 0),
        *labels(500_000_000, 9, 0),
    ]
    line.tell(device, line.window(Truth(parts=added(parts)), n=10))
    assert not line.house.telemetry.refused()
    assert [one.labelled for one in rows(line.house)] == [3, 3]


def test_sums_of_a_bucket_end_at_what_it_can_hold(any_house: House) -> None:
    line = Line(any_house, 2)
    device, other = line.devices
    n = 30_000_000_000
    numbers = NumberSums(n, n * 64_000, n * 64_000, n * 64_000_000)
    for sign in (1, -1):
        part = TruthPart(line.hour(), f"s{sign}", 0, 0, (), numbers, {"scrap": FigureSums(5_000, sign * MAX_TOTAL)})
        window = msgspec.structs.replace(line.window(Truth(parts=(part,))), length_s=MAX_LENGTH_S)
        for _ in range(6):
            assert line.tell(device, window) == 1
    line.label(other, 1, 0)
    assert not any_house.telemetry.refused()
    view = any_house.accuracy.of_model(PUMP)
    assert [(one.labelled, one.numbers) for one in view.lines] == [(1, 12 * n)]
    assert [(one.total, one.reports) for one in view.figures] == [(0, 60_000)]


def test_a_period_ends_now_at_the_latest(line: Line) -> None:
    now = line.house.clock.now()
    assert line.house.accuracy.of_model(PUMP).until == now
    assert line.house.accuracy.of_model(PUMP, since=now - 2 * HOUR, until=now + DAY).until == now


def test_errors_of_numbers_are_means_over_devices_in_whatever_units(line: Line) -> None:
    one, two, three, four = line.devices
    for device, unit, error, n in (
        (one, 2.0, 1.0, 1),
        (two, 0.5, 3.0, 9),
        (three, 2.0, 2.0, 1),
        (four, 1e12, 1e15, 99),
    ):
        part = added([number_part(line.hour(), "", 10.0, 10.0 + error, unit)] * n)
        line.tell(device, line.window(Truth(unit=unit, parts=part)))
    (found,) = line.house.accuracy.of_model(PUMP).lines
    assert (found.numbers, found.devices) == (110, 4)
    assert found.error == pytest.approx((1 + 3 + 2 + 1e15) / 4)
    line.house.fleet.suspicion.mark(four, "lies")
    (found,) = line.house.accuracy.of_model(PUMP).lines
    assert (found.error, found.bias, found.points[0].error) == (2.0, 2.0, 2.0)
    assert found.rmse == pytest.approx(2.0)


def test_lines_without_labels_are_none_and_devices_are_those_with_labels(line: Line) -> None:
    one, two, *_ = line.devices
    line.label(one, 9, 1, segment="line-1")
    line.tell(two, line.window(Truth(unmatched=3)))
    assert [
        (found.name, found.devices) for found in line.house.accuracy.of_model(PUMP, by=AccuracyBy.SEGMENT).lines
    ] == [("line-1", 1)]
    numbers = (number_part(line.hour(), "", 0.0, 1.0, 1.0),)
    line.tell(one, line.window(Truth(parts=numbers), sha256=line.publish("1.1.0", 0.9), version="1.1.0"))
    line.tell(two, line.window(Truth(unmatched=3), sha256=line.sha256))
    assert [found.devices for found in line.house.accuracy.of_model(PUMP, version="1.1.0").lines] == [1]


def test_of_more_than_is_read_at_once_the_newest_count(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "MOST_BUCKETS", 4)
    newer = line.publish("1.1.0", 0.95)
    for ago in (5 * DAY, 3 * DAY, DAY):
        for device in line.devices:
            line.label(device, 4, 0, ago=ago)
            line.label(device, 1, 3, ago=ago, sha256=newer, version="1.1.0")
    view = line.house.accuracy.of_model(PUMP, version="1.0.0")
    assert (view.is_cut, [one.labelled for one in view.lines]) == (True, [16])
    assert [one.at.date() for one in view.lines[0].points] == [(line.house.clock.now() - DAY).date()]
    since, until = line.house.clock.now() - 6 * DAY, line.house.clock.now()
    assert [found[1:] for found in line.house.accuracy.hourly("pump", since, until)] == [(20, 32)] * 3


def test_an_objective_counts_the_labels_of_active_versions_and_of_devices_that_count(any_house: House) -> None:
    line = Line(any_house, 3)
    line.label(line.devices[0], 3, 1)
    line.label(line.devices[1], 0, 4, lane="candidate")
    line.label(line.devices[2], 0, 4)
    any_house.fleet.suspicion.mark(line.devices[2], "lies")
    since, until = any_house.clock.now() - DAY, any_house.clock.now()
    assert [found[1:] for found in any_house.accuracy.hourly("pump", since, until)] == [(3, 4)]


def test_classes_beyond_the_table_are_right_as_often_as_they_were(line: Line) -> None:
    pairs = [(0, 0), (70, 70), (70, 71), (71, 70)]
    part = added([class_part(line.hour(), "", *pair) for pair in pairs])
    line.tell(line.devices[0], line.window(Truth(parts=part)))
    found = {one.label: one for one in line.house.accuracy.of_model(PUMP).classes}
    assert (found["(others)"].labelled, found["(others)"].right, found["0"].right) == (3, 1, 1)


def test_labels_of_a_bundle_that_nobody_signed_or_of_a_measurement_do_not_count(line: Line) -> None:
    line.label(line.devices[0], 5, 0, sha256="f" * 64)
    line.label(line.devices[0], 5, 0, lane="measure")
    assert not rows(line.house)


@pytest.mark.parametrize(
    ("crying", "least", "most"),
    [((1_000_000, 0), 0.90, 0.93), ((0, 500_000), 0.67, 0.69), ((0, 1), 0.67, 0.69)],
)
def test_a_liar_moves_accuracy_by_its_part_at_most(
    line: Line, crying: tuple[int, int], least: float, most: float
) -> None:
    for device in line.devices[1:]:
        line.label(device, 9, 1)
    right, wrong = crying
    cells = ((ground_truth.Cell(0, 0, right),) if right else ()) + ((ground_truth.Cell(0, 1, wrong),) if wrong else ())
    part = TruthPart(line.hour(), "", right + wrong, right, cells)
    line.tell(line.devices[0], line.window(Truth(parts=(part,))))
    (found,) = line.house.accuracy.of_model(PUMP).lines
    assert found.accuracy is not None
    assert found.low is not None
    assert least <= found.accuracy <= most
    assert found.low < 0.9, "what one device says makes nothing sure"


def test_lines_are_of_releases_sites_and_groups_and_suspects_do_not_count(line: Line) -> None:
    newer = line.publish("1.1.0", 0.95)
    for device in line.devices:
        line.label(device, 9, 1)
        line.label(device, 5, 5, sha256=newer, version="1.1.0")
    by_release = line.house.accuracy.of_model(PUMP, by=AccuracyBy.RELEASE)
    assert [(one.name, round(one.accuracy or 0, 2)) for one in by_release.lines] == [("1.0.0", 0.9), ("1.1.0", 0.5)]
    by_site = line.house.accuracy.of_model(PUMP, version="1.0.0", by=AccuracyBy.SITE)
    assert [(one.name, one.devices) for one in by_site.lines] == [("lyon", 2), ("osaka", 2)]
    assert by_site.published is not None
    assert by_site.published.value == 0.95
    assert by_site.classes[0].label == "0"
    assert (by_site.classes[0].mistaken_for, by_site.classes[0].mistakes) == ("1", 4)
    line.house.fleet.suspicion.mark(line.devices[3], "lies")
    assert [one.devices for one in line.house.accuracy.of_model(PUMP, version="1.0.0", by=AccuracyBy.SITE).lines] == [
        2,
        1,
    ]


def test_labels_that_come_days_later_count_when_their_answers_were_given(line: Line) -> None:
    now = line.house.clock.now()
    line.label(line.devices[0], 4, 0, ago=10 * DAY)
    line.label(line.devices[0], 0, 4, ago=HOUR)
    (found,) = line.house.accuracy.of_model(PUMP).lines
    assert [(one.at.date(), one.accuracy) for one in found.points] == [
        ((now - 10 * DAY).date(), 1.0),
        ((now - HOUR).date(), 0.0),
    ]
    hours = line.house.accuracy.of_model(PUMP, since=now - DAY, until=now)
    assert (hours.step_s, len(hours.lines[0].points)) == (3_600, 1)
    with pytest.raises(BadPeriodError):
        line.house.accuracy.of_model(PUMP, since=now, until=now - DAY)


def test_old_steps_are_forgotten_short_ones_first(line: Line) -> None:
    line.label(line.devices[0], 4, 0)
    line.house.telemetry.prune(line.house.clock.now() + 91 * DAY)
    assert [one.scale_s for one in rows(line.house)] == [86_400]


# ---- intervals


@pytest.mark.parametrize(("devices", "spread"), [(1, 0.0), (4, 0.0), (4, 0.05), (25, 0.1), (200, 0.1)])
def test_intervals_hold_what_they_promise(devices: int, spread: float) -> None:
    draw = random.Random(devices)
    truth, held, rounds = 0.9, 0, 400
    for _ in range(rounds):
        counts = []
        for _ in range(devices):
            own = truth if spread == 0 else _beta(draw, truth, spread)
            n = draw.choice((10, 40, 160))
            counts.append((n, sum(draw.random() < own for _ in range(n))))
        found = share_of(counts)
        assert found is not None
        held += found.low <= truth <= found.high
    assert held / rounds >= 0.925


def _beta(draw: random.Random, mean: float, std: float) -> float:
    size = mean * (1 - mean) / std**2 - 1
    return draw.betavariate(mean * size, (1 - mean) * size)


def test_a_device_with_many_labels_does_not_decide_how_sure_the_others_are() -> None:
    honest = [(40, 35)] * 99
    without, found = share_of(honest), share_of([*honest, (1_000_000, 875_000)])
    assert without is not None
    assert found is not None
    assert found.high - found.low == pytest.approx(without.high - without.low, rel=0.05)
    liar = share_of([*honest, (1_000_000, 0)])
    assert liar is not None
    assert 0.81 < liar.low < liar.high < 0.92


def test_intervals_at_the_ends_are_no_points() -> None:
    clean = share_of([(20, 20)] * 3)
    assert clean is not None
    assert (clean.value, clean.high) == (1.0, 1.0)
    assert 0.9 < clean.low < 1.0
    assert share_of([(0, 0)]) is None
    assert t_quantile(0.975, 1) == pytest.approx(12.706, rel=1e-3)
    assert t_quantile(0.975, 10) == pytest.approx(2.228, rel=1e-3)


def test_a_drop_by_chance_is_as_rare_as_it_says() -> None:
    draw = random.Random(5)

    def drawn(devices: int) -> list[tuple[int, int]]:
        found = []
        for _ in range(devices):
            own, n = _beta(draw, 0.9, 0.05), 50
            found.append((n, sum(draw.random() < own for _ in range(n))))
        return found

    rare = 0
    for _ in range(1_000):
        now, before = share_of(drawn(6)), share_of(drawn(6))
        assert now is not None
        assert before is not None
        rare += drop_log10(now, before) <= -2
    assert rare <= 20, "one in a hundred was promised"


# ---- concept drift

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
PUBLISHED = PublishedAccuracy("top1", 0.95, 2_000)


def history(before: float, after: float, *, devices: int = 6, mix: float = 0.5, days: int = 40, seed: int = 1) -> Any:
    """Return labels of 40 days: two classes, the second twice as often wrong; mix: its part in the last ten days."""
    draw = random.Random(seed)
    found: list[tuple[str, dt.datetime, TruthSums]] = []
    for day in range(days):
        late = day >= days - 10
        for device in range(devices):
            cells: dict[tuple[int, int], int] = {}
            for _ in range(20):
                label = int(draw.random() < (mix if late else 0.5))
                wrong = (1 - (after if late else before)) * (1 + label) / 1.5
                pair = label, 1 - label if draw.random() < wrong else label
                cells[pair] = cells.get(pair, 0) + 1
            right = cells.get((0, 0), 0) + cells.get((1, 1), 0)
            sums = TruthSums(labelled=20, correct=right, cells=cells)
            found.append((f"d-{device}", NOW - (days - day) * DAY, sums))
    return days_of(found)


def concept(days: Any, *, inputs: bool = False, published: PublishedAccuracy | None = PUBLISHED) -> Any:
    """Return the judgement."""
    return judge(days, published, NOW, lambda: inputs)


def test_worse_answers_to_the_same_inputs_are_concept_drift() -> None:
    found = concept(history(0.95, 0.80))
    assert (found.state, found.devices) == ("drift", 6)
    assert "what is right has changed" in found.said
    assert found.after < 0.85
    assert concept(history(0.95, 0.80), inputs=True).state == "inputs"


@pytest.mark.parametrize("seed", range(6))
def test_as_good_as_ever_is_none(seed: int) -> None:
    assert concept(history(0.95, 0.95, seed=seed)).state == "none"


def test_worse_answers_of_classes_beyond_the_table_are_seen() -> None:
    def sums(right: int) -> TruthSums:
        return TruthSums(labelled=20, correct=right, cells={(MAX_CLASSES, MAX_CLASSES): 20})

    days = days_of(
        (f"d-{device}", NOW - ago * DAY, sums(19 if ago > 10 else 14)) for ago in range(1, 40) for device in range(6)
    )
    found = concept(days, published=None)
    assert (found.state, found.source) == ("drift", "first_labels")
    assert (found.before, found.after) == (pytest.approx(0.95), pytest.approx(0.7))


def test_more_of_a_hard_class_is_no_concept_drift() -> None:
    days = history(0.85, 0.85, mix=0.95, seed=3)
    found = concept(days, published=None)
    assert (found.state, found.source) == ("none", "first_labels")
    assert found.after == pytest.approx(0.85, abs=0.05)


def test_worse_than_at_publish_from_the_first_day_on_is_said_so() -> None:
    found = concept(history(0.80, 0.80, days=9))
    assert (found.state, found.source) == ("drift", "publish")


def test_one_device_of_many_says_nothing_of_the_concept() -> None:
    days = history(0.95, 0.95)
    liar = days_of([("d-0", NOW - DAY, TruthSums(labelled=10**6, correct=0, cells={(0, 1): 10**6}))])
    assert concept({**{day: one for day, one in days.items() if day < NOW - 10 * DAY}, **liar}).state == "few"
    both: Mapping[dt.datetime, Mapping[str, TruthSums]] = {**days, NOW - DAY: {**days[NOW - DAY], **liar[NOW - DAY]}}
    assert concept(both).state == "none"


def test_a_drop_on_few_devices_that_differ_is_said_and_not_called_one_yet() -> None:
    day = NOW - DAY
    counts = [(20, 18)] * 6 + [(20, 10)] * 6
    found = concept(
        days_of(
            (f"d-{k}", day, TruthSums(labelled=n, correct=right, cells={(0, 0): right, (0, 1): n - right}))
            for k, (n, right) in enumerate(counts)
        ),
        published=PublishedAccuracy("top1", 0.975, 360),
    )
    assert found.state == "unsure"
    assert "not sure enough yet" in found.said


def test_few_labels_say_nothing() -> None:
    assert concept(history(0.95, 0.5, devices=1, days=2)).state == "few"
    assert concept({}).state == "few"
    assert concept(history(0.95, 0.5, days=9), published=None).state == "few"


def test_drift_of_a_model_says_so(line: Line) -> None:
    for _ in range(3):
        for device in line.devices:
            line.label(device, 30, 20)
    found = line.house.drift.of_model(PUMP, "1.0.0")
    assert found.concept.state == "drift"
    assert "Answers became worse on 4 devices" in found.said
    assert line.house.accuracy.of_model(PUMP, version="1.0.0").concept == found.concept
