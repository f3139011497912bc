"""The fields of a pace: what is read, what is refused with which words, and what its lint finds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import ErrorClass
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.lint.rate_findings import pace_findings, time_to_offer
from edgefleet_server.rollout.spec.maintenance_windows import Window
from edgefleet_server.rollout.spec.model import CountAs, DeviceTerms, Limits, Offline, Rate, Retries
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec

BASE: dict[str, Any] = {"release": "digits@1.1.0", "selector": "demo=yes"}
WHOLE = """
release: digits@1.1.0
selector: ''
stages: [{size: {percent: 100}, rate: {start: 50/min, factor: 1.5, max: 2000/min}}]
limits: {concurrent_downloads: 500, per_site: 5, bandwidth: 200Mbps}
windows: [{cron: "0  1 * * *", duration: 4h, tz: Europe/Berlin}]
device: {retries: {max: 4, backoff: 2m..90m, on: [disk, memory]}}
offline: {after: 3d, count: failed, on_return: join}
"""


def staged(rate: Any) -> dict[str, Any]:
    return {**BASE, "stages": [{"size": {"percent": 100}, "rate": rate}]}


def test_the_whole_of_it_is_read_and_written_back() -> None:
    spec = parse_spec(yaml.safe_load(WHOLE))
    assert spec.stages[0].rate == Rate(50, 1.5, 2000)
    waits = (timedelta(minutes=2), timedelta(minutes=90))
    assert spec.limits == Limits(500, 5, 200_000_000)
    assert spec.windows == (Window("0 1 * * *", timedelta(hours=4), "Europe/Berlin"),)
    assert spec.device == DeviceTerms(retries=Retries(4, waits, (ErrorClass.DISK, ErrorClass.MEMORY)))
    assert spec.offline == Offline(timedelta(days=3), CountAs.FAILED)
    assert parse_spec(dump_spec(spec)) == spec


def test_without_it_all_is_as_it_was_before() -> None:
    spec = parse_spec({**BASE, "device": {"ack_deadline": "7d"}})
    assert (spec.limits, spec.windows, spec.offline) == (Limits(), (), Offline(timedelta(days=7)))
    assert (spec.device.retries, spec.device.start_within) == (None, None)
    assert not spec.recalls
    assert {stage.rate for stage in spec.stages} == {None}
    assert parse_spec(dump_spec(spec)) == spec


def test_a_span_to_begin_in_is_read_and_written_back_only_where_it_is_told() -> None:
    spec = parse_spec({**BASE, "device": {"start_within": "10m"}})
    assert spec.device.start_within == timedelta(minutes=10)
    assert parse_spec(dump_spec(spec)) == spec
    assert "start_within" not in dump_spec(parse_spec(BASE))["device"], "an older server reads what this one stores"
    assert parse_spec({**BASE, "device": {"start_within": 0}}).device.start_within == timedelta()


def test_defaults_of_a_rate() -> None:
    assert parse_spec(staged({"start": "50/min"})).stages[0].rate == Rate(50, 2.0, 1000)
    assert parse_spec(staged({"start": "1500/min"})).stages[0].rate == Rate(1500, 2.0, 1500)


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({**BASE, "device": {"start_within": "6h"}}, "$.device.start_within", "must be shorter than that"),
        ({**BASE, "device": {"start_within": "soon"}}, "$.device.start_within", "expected a duration"),
        (staged({"start": 50}), "$.stages[0].rate.start", "expected devices a minute from 1/min to 3000/min, got 50"),
        (staged({"start": "50/h"}), "$.stages[0].rate.start", "expected devices a minute"),
        (staged({"start": "4000/min"}), "$.stages[0].rate.start", "to 3000/min"),
        (staged({"factor": 2}), "$.stages[0].rate.start", "is missing; write for example 50/min"),
        (staged({"start": "5/min", "factor": 0.5}), "$.stages[0].rate.factor", "expected at least 1"),
        (staged({"start": "50/min", "max": "5/min"}), "$.stages[0].rate.max", "5/min is less than start"),
        (staged({"start": "5/min", "faktor": 2}), "$.stages[0].rate.faktor", "did you mean factor?"),
        ({**BASE, "limits": {"per_site": 0}}, "$.limits.per_site", "expected a whole number from 1"),
        ({**BASE, "limits": {"bandwidth": "200 MB"}}, "$.limits.bandwidth", "for example 200Mbps"),
        ({**BASE, "limits": {"downloads": 5}}, "$.limits.downloads", "is not a field here"),
        ({**BASE, "windows": [{"cron": "0 1 * *", "duration": "4h"}]}, "$.windows[0].cron", "it has not five fields"),
        ({**BASE, "windows": [{"cron": "0 25 * * *", "duration": "4h"}]}, "$.windows[0].cron", "is no cron expression"),
        ({**BASE, "windows": [{"cron": "0 1 * * *"}]}, "$.windows[0].duration", "is missing"),
        ({**BASE, "windows": [{"cron": "0 1 * * *", "duration": "8d"}]}, "$.windows[0].duration", "at most 7d"),
        (
            {**BASE, "windows": [{"cron": "0 1 * * *", "duration": "4h", "tz": "Mars"}]},
            "$.windows[0].tz",
            "expected device, UTC or a time zone such as Europe/Berlin, got 'Mars'",
        ),
        ({**BASE, "device": {"retries": {"max": 21}}}, "$.device.retries.max", "from 0 to 20"),
        ({**BASE, "device": {"retries": {"backoff": "2m"}}}, "$.device.retries.backoff", "for example 2m..1h"),
        ({**BASE, "device": {"retries": {"backoff": "2h..1m"}}}, "$.device.retries.backoff", "write 1m..2h"),
        ({**BASE, "device": {"retries": {"on": ["golden"]}}}, "$.device.retries.on[0]", "is never tried again"),
        (
            {**BASE, "device": {"retries": {"on": ["wifi"]}}},
            "$.device.retries.on[0]",
            "is no such class; expected some",
        ),
        ({**BASE, "offline": {"count": "maybe"}}, "$.offline.count", "expected excluded or failed"),
        ({**BASE, "offline": {"on_return": "leave"}}, "$.offline.on_return", "expected join, got 'leave'"),
        ({**BASE, "offline": {"on_return": True}}, "$.offline.on_return", "expected join, got true"),
        ({**BASE, "offline": {"after": "0s"}}, "$.offline.after", "at least 1s"),
    ],
)
def test_a_mistake_is_told_with_its_place(document: Any, path: str, words: str) -> None:
    with pytest.raises(BadSpecError) as caught:
        parse_spec(document)
    told = [(one["path"], one["message"]) for one in caught.value.errors]
    assert any(where == path and words in message for where, message in told), told


def test_the_key_on_is_read_whatever_yaml_made_of_it() -> None:
    for key in ("on", True, "true"):
        document = {**BASE, "device": {"retries": {key: ["disk"]}}}
        assert parse_spec(document).device.retries == Retries(on=(ErrorClass.DISK,))


# ---- lint


def devices(**labels: str) -> list[DeviceFacts]:
    return [DeviceFacts(DeviceId("d-1"), ProfileName("p"), "x86_64", DeviceStatus.ONLINE, labels, None)]


@pytest.mark.parametrize(
    ("spec", "labels", "found"),
    [
        ({"windows": [{"cron": "0 1 * * *", "duration": "4h"}]}, {}, [("error", "no_time_zone")]),
        ({"windows": [{"cron": "0 1 * * *", "duration": "4h"}]}, {"tz": "Mars"}, [("error", "no_time_zone")]),
        ({"windows": [{"cron": "0 1 * * *", "duration": "4h"}]}, {"tz": "Asia/Kolkata"}, []),
        ({"windows": [{"cron": "0 1 * * *", "duration": "4h", "tz": "UTC"}]}, {}, []),
        ({"windows": [{"cron": "0 1 * * SUN", "duration": "4h", "tz": "UTC"}]}, {}, [("warning", "rare_window")]),
        ({"limits": {"per_site": 2}}, {}, [("warning", "no_site")]),
        ({"limits": {"per_site": 2}}, {"site": "lab"}, []),
        ({"device": {"start_within": "10m"}}, {}, []),
        ({"device": {"start_within": "4h"}}, {}, [("warning", "long_spread")]),
        ({"device": {"start_within": "3h"}}, {}, []),
        (
            {"device": {"start_within": "10m"}, "limits": {"concurrent_downloads": 9}},
            {},
            [("warning", "spread_holds_places")],
        ),
        (
            {"device": {"start_within": "1h"}, "windows": [{"cron": "0 1 * * *", "duration": "1h", "tz": "UTC"}]},
            {},
            [("warning", "spread_beyond_window")],
        ),
        ({"device": {"start_within": "0s"}, "limits": {"concurrent_downloads": 9}}, {}, []),
    ],
)
def test_what_the_lint_finds(spec: dict[str, Any], labels: dict[str, str], found: list[tuple[str, str]]) -> None:
    told = list(pace_findings(parse_spec(BASE | spec), devices(**labels), datetime(2026, 11, 25, tzinfo=UTC)))
    assert [(one.level, one.code) for one in told] == found
    assert all(one.next and one.message for one in told)


def test_a_ramp_that_takes_longer_than_patience_lasts_is_told() -> None:
    spec = parse_spec({**staged({"start": "1/min", "factor": 1}), "on_inconclusive": {"after": "1h"}})
    told = list(pace_findings(spec, devices() * 90, datetime(2026, 11, 25, tzinfo=UTC)))
    assert [(one.code, one.stage) for one in told] == [("slow_rate", 0)]
    assert "takes up to 1.5 h to offer the release to 90 devices" in told[0].message


@pytest.mark.parametrize(
    ("rate", "count", "minutes"),
    [
        (Rate(50, 2, 2000), 50, 1.0),
        (Rate(50, 2, 2000), 150, 2.0),
        (Rate(50, 2, 100), 450, 5.0),
        (Rate(10, 1, 10), 95, 9.5),
    ],
)
def test_how_long_a_ramp_takes(rate: Rate, count: int, minutes: float) -> None:
    assert time_to_offer(rate, count) == timedelta(minutes=minutes)
