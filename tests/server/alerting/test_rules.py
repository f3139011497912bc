"""Each built-in rule: once the real thing happens, once the nearest harmless thing. Devices speak to the real services.

The clock is turned.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.errors import BrokenTrailError
from edgefleet_server.access.model import Role
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.signing.service import DEVICE_CERT_LIFE
from tests.server.alerting.watched_fleet import WatchedDevice, WatchedFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server")
    yield made
    made.house.close()


def fires(fleet: WatchedFleet, rule: str, subject: str) -> None:
    """Hold that just this alert of a rule fires."""
    assert [found for name, found in fleet.firing() if name == rule] == [subject], fleet.firing()


def is_calm(fleet: WatchedFleet, rule: str) -> None:
    """Hold that no alert of a rule is open, not even a pending one."""
    assert [key for key in fleet.open() if key[0] == rule] == []


def nights(fleet: WatchedFleet, device: WatchedDevice, count: int, *, hours: float = 9) -> None:
    """Switch a device off each night."""
    for _ in range(count):
        device.gone()
        fleet.house.clock.turn(hours=hours)
        device.back()
        fleet.house.clock.turn(hours=24 - hours)


# ---- presence


def test_a_device_that_is_never_away_is_missed_after_ten_minutes(fleet: WatchedFleet) -> None:
    device = fleet.device()
    device.gone()
    fleet.run(minutes=10.5)
    fires(fleet, "device_offline", f"device:{device.id}")
    device.back()
    fleet.run(minutes=0.5)
    device.gone()  # it flaps: the alert that fires goes on, and no second one begins
    fleet.run(minutes=11)
    fires(fleet, "device_offline", f"device:{device.id}")


def test_a_device_that_sleeps_each_night_is_missed_only_when_it_oversleeps(fleet: WatchedFleet) -> None:
    device = fleet.device()
    nights(fleet, device, 5)
    fleet.run(minutes=2)
    device.gone()
    fleet.house.clock.turn(hours=9)
    fleet.run(minutes=1)
    is_calm(fleet, "device_offline")
    fleet.house.clock.turn(hours=13)
    fleet.run(minutes=1)
    fires(fleet, "device_offline", f"device:{device.id}")


def test_short_absences_and_a_restart_of_the_server_are_no_habit_and_no_alert(fleet: WatchedFleet) -> None:
    device, never = fleet.device(), fleet.device(connects=False)
    for _ in range(30):
        device.gone()
        fleet.house.clock.turn(seconds=50)
        device.back()
        fleet.house.clock.turn(hours=1)
    fleet.house.parts.fleet.receiver.forget_presence()
    fleet.run(minutes=9)
    is_calm(fleet, "device_offline")
    fleet.run(minutes=2)  # it did not come back after the restart
    fires(fleet, "device_offline", f"device:{device.id}")
    assert never.id not in str(fleet.open())


def test_a_silent_site_is_one_alert_and_quiets_its_devices(fleet: WatchedFleet) -> None:
    osaka = [fleet.device(labels={"site": "osaka"}) for _ in range(4)]
    lyon = [fleet.device(labels={"site": "lyon"}) for _ in range(6)]
    for one in (*osaka, *lyon[:3]):
        one.gone()
    fleet.run(minutes=5.5)
    fires(fleet, "site_silent", "site:osaka")
    fleet.run(minutes=6)
    fires(fleet, "site_silent", "site:osaka")
    assert [found for rule, found in fleet.firing() if rule == "device_offline"] == sorted(
        f"device:{one.id}" for one in lyon[:3]
    )
    assert fleet.quiet() == {("device_offline", f"device:{one.id}"): "site osaka is silent" for one in osaka}
    osaka[0].back()
    fleet.run(minutes=3)  # the site is back, three of its devices are not
    is_calm(fleet, "site_silent")
    assert len([found for rule, found in fleet.firing() if rule == "device_offline"]) == 6


def test_when_nearly_all_of_the_fleet_is_away_that_is_the_alert(fleet: WatchedFleet) -> None:
    devices = [fleet.device(labels={"site": f"s{n % 3}"}) for n in range(9)]
    for one in devices[1:]:
        one.gone()
    fleet.run(minutes=12)
    assert fleet.firing() == [("offline_share", "fleet")]
    assert set(fleet.quiet().values()) == {"the fleet is silent"}
    assert len(fleet.quiet()) == 8 + 2


def test_a_site_that_closes_each_night_is_not_silent(fleet: WatchedFleet) -> None:
    shop = [fleet.device(labels={"site": "shop"}) for _ in range(3)]
    for _ in range(3):
        for one in shop:
            one.gone()
        fleet.house.clock.turn(hours=9)
        for one in shop:
            one.back()
        fleet.house.clock.turn(hours=15)
    for one in shop:
        one.gone()
    fleet.run(minutes=1)
    fleet.house.clock.turn(hours=9)
    fleet.run(minutes=1)
    is_calm(fleet, "site_silent")


def test_a_fifth_of_a_group_away_is_an_alert_and_less_is_none(fleet: WatchedFleet) -> None:
    presses = [fleet.device(labels={"kind": "press"}) for _ in range(10)]
    others = [fleet.device() for _ in range(10)]
    fleet.house.parts.fleet.groups.create("presses", "kind=press", "ann")
    presses[0].gone()
    others[0].gone()
    others[1].gone()
    fleet.run(minutes=8)
    is_calm(fleet, "offline_share")  # 10 % of the group, 15 % of the fleet
    presses[1].gone()
    fleet.run(minutes=2)
    assert fleet.open()[("offline_share", "group:presses")].state == "pending"
    fleet.run(minutes=4)
    assert [found for rule, found in fleet.firing() if rule == "offline_share"] == ["fleet", "group:presses"]
    presses[1].back()
    others[1].back()
    fleet.run(minutes=4)
    is_calm(fleet, "offline_share")


# ---- models


def spoken(fleet: WatchedFleet, device: WatchedDevice, count: int, **figures: float) -> None:
    """Send a window every 15 minutes, and evaluate after each."""
    for _ in range(count):
        fleet.house.clock.turn(minutes=14, seconds=30)
        device.measures(**figures)  # type: ignore[arg-type]
        fleet.run(seconds=30)


def test_a_model_that_became_half_as_slow_again_is_an_alert_and_jitter_is_none(fleet: WatchedFleet) -> None:
    device, other = fleet.device(), fleet.device()
    for _ in range(20):
        spoken(fleet, other, 1, p95_ms=1.0)
        spoken(fleet, device, 1, p95_ms=20.0)
    spoken(fleet, device, 4, p95_ms=26.0)
    is_calm(fleet, "latency_up")
    spoken(fleet, device, 3, p95_ms=34.0)
    fires(fleet, "latency_up", f"model:digits@{device.id}")
    spoken(fleet, other, 4, p95_ms=2.5)  # 2.5 times, but by less than 2 ms
    assert not [found for rule, found in fleet.firing() if rule == "latency_up" and other.id in found]
    spoken(fleet, device, 4, p95_ms=20.0)
    is_calm(fleet, "latency_up")


def test_a_model_without_a_past_is_not_compared(fleet: WatchedFleet) -> None:
    device = fleet.device()
    spoken(fleet, device, 6, p95_ms=5.0)
    spoken(fleet, device, 4, p95_ms=50.0)
    is_calm(fleet, "latency_up")


def test_one_request_in_twenty_that_fails_is_an_alert_and_one_in_forty_is_none(fleet: WatchedFleet) -> None:
    device, other = fleet.device(), fleet.device()
    spoken(fleet, device, 2, n=100, errors=2)
    spoken(fleet, other, 1, n=20, errors=10)  # too few to say anything
    is_calm(fleet, "error_share")
    spoken(fleet, device, 3, n=100, errors=7)
    fires(fleet, "error_share", f"model:digits@{device.id}")
    (alert,) = (one for key, one in fleet.open().items() if key[0] == "error_share")
    assert alert.summary == "23 of 400 requests failed (5.8 %)"
    fleet.house.clock.turn(hours=2)
    fleet.run(minutes=1)  # what is old says nothing of now
    is_calm(fleet, "error_share")


def test_one_answer_in_a_hundred_that_is_nan_is_an_alert_and_one_in_a_thousand_is_none(fleet: WatchedFleet) -> None:
    device = fleet.device()
    spoken(fleet, device, 4, n=250, nonfinite=0)
    spoken(fleet, device, 1, n=250, nonfinite=1)
    is_calm(fleet, "not_finite")
    spoken(fleet, device, 1, n=250, nonfinite=10)
    fires(fleet, "not_finite", f"model:digits@{device.id}")


# ---- updates and trust


def test_a_failed_update_is_an_alert_and_one_under_way_is_none(fleet: WatchedFleet) -> None:
    device, other = fleet.device(), fleet.device()
    other.runs("digits", Phase.DOWNLOADING)
    fleet.run(minutes=1)
    is_calm(fleet, "update_failed")
    device.runs("digits", Phase.FAILED, error_class=ErrorClass.GOLDEN, reason="3 of 8 golden vectors differ")
    fleet.run(minutes=1)
    fires(fleet, "update_failed", f"model:digits@{device.id}")
    assert fleet.open()[("update_failed", f"model:digits@{device.id}")].evidence == [
        "golden: 3 of 8 golden vectors differ"
    ]
    device.runs("digits", Phase.COMMITTED)
    fleet.run(minutes=1)
    is_calm(fleet, "update_failed")


def test_a_suspect_device_is_an_alert_until_a_person_clears_it(fleet: WatchedFleet) -> None:
    device, suspicion = fleet.device(), fleet.house.parts.fleet.suspicion
    fleet.run(minutes=1)
    is_calm(fleet, "device_suspect")
    suspicion.mark(device.id, "a failure that nobody else sees")
    fleet.run(minutes=1)
    fires(fleet, "device_suspect", f"device:{device.id}")
    suspicion.clear(device.id, "ann")
    fleet.run(minutes=1)
    is_calm(fleet, "device_suspect")


def test_a_certificate_that_was_not_renewed_is_an_alert_before_it_ends(fleet: WatchedFleet) -> None:
    device = fleet.device()
    fleet.house.clock.turn(seconds=(DEVICE_CERT_LIFE - timedelta(days=15)).total_seconds())
    fleet.run(minutes=1)
    is_calm(fleet, "certificate_ends")
    fleet.house.clock.turn(days=1)
    fleet.run(minutes=1)
    fires(fleet, "certificate_ends", f"device:{device.id}")


def test_the_root_is_an_alert_a_month_before_it_ends_and_what_the_server_signs_when_it_is_late(
    fleet: WatchedFleet,
) -> None:
    fleet.house.parts.signing.resign_due()
    fleet.run(minutes=1)
    is_calm(fleet, "signing_key_ends")
    fleet.house.clock.turn(days=336)
    fleet.house.parts.signing.resign_due()
    fleet.run(minutes=1)
    fires(fleet, "signing_key_ends", "key:TUF role root")
    fleet.house.clock.turn(days=10)  # the server was away: nothing was signed again
    fleet.run(minutes=1)
    late = {found for rule, found in fleet.firing() if rule == "signing_key_ends"}
    assert {"key:TUF role root", "key:TUF role timestamp"} <= late or {
        "key:TUF role root",
        "key:TUF role snapshot",
    } <= late


# ---- protection rules


def test_a_broken_glass_and_a_rule_that_is_to_be_removed_are_alerts_at_once(fleet: WatchedFleet) -> None:
    book = fleet.house.parts.fleet.protection
    book.add("pci", "env=prod", "boss (t-1)")
    fleet.run(minutes=1)
    is_calm(fleet, "break_glass")
    is_calm(fleet, "protection_ends")
    lasts = timedelta(minutes=30)
    book.break_glass("pci", principal="t-1", by="boss (t-1)", reason="the cameras are blind", lasts=lasts)
    book.end("pci", "boss (t-1)")
    fleet.run(minutes=1)
    fires(fleet, "break_glass", "protection:pci")
    fires(fleet, "protection_ends", "protection:pci")
    book.keep("pci", "ann (t-2)")
    fleet.run(minutes=31)
    is_calm(fleet, "break_glass")
    is_calm(fleet, "protection_ends")


# ---- disks


def test_a_device_with_little_disk_is_an_alert_until_there_is_clearly_more(fleet: WatchedFleet) -> None:
    device = fleet.device()
    device.says(disk_free_bytes=230 * 1024**2)
    fleet.run(minutes=1)
    is_calm(fleet, "disk_full")
    device.says(disk_free_bytes=150 * 1024**2)
    fleet.run(minutes=1)
    fires(fleet, "disk_full", f"device:{device.id}")
    device.says(disk_free_bytes=230 * 1024**2)
    fleet.run(minutes=1)
    fires(fleet, "disk_full", f"device:{device.id}")  # a little more is not enough
    device.says(disk_free_bytes=260 * 1024**2)
    fleet.run(minutes=1)
    is_calm(fleet, "disk_full")


def test_a_nearly_full_disk_of_the_server_is_an_alert(fleet: WatchedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(free: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(total=1000, free=free))

    usage(130)
    fleet.run(minutes=3)
    is_calm(fleet, "server_disk_full")
    usage(60)
    fleet.run(minutes=3)
    fires(fleet, "server_disk_full", "disk:the data folder")
    usage(110)
    fleet.run(minutes=3)
    fires(fleet, "server_disk_full", "disk:the data folder")
    usage(130)
    fleet.run(minutes=3)
    is_calm(fleet, "server_disk_full")


def test_an_audit_trail_that_does_not_follow_is_an_alert_until_it_does(fleet: WatchedFleet) -> None:
    parts = fleet.house.parts

    def write(actor: str) -> None:
        with parts.db.session() as session:
            session.execute(text("UPDATE audit SET actor = :actor WHERE n = 2"), {"actor": actor})

    for _ in range(3):
        parts.access.record("test", "create_group", "/api/v1/groups", 201, "r")
    write("test")
    parts.access.chain.read_again()
    fleet.run(minutes=1)
    is_calm(fleet, "audit_trail_broken")

    write("mallory")
    with pytest.raises(BrokenTrailError):
        parts.access.chain.read_again()
    fleet.run(minutes=1)
    fires(fleet, "audit_trail_broken", "audit")
    found = fleet.open()["audit_trail_broken", "audit"]
    assert found.summary == "entry 2 was changed, removed or added later"

    write("test")
    parts.access.chain.read_again()
    fleet.run(minutes=1)
    is_calm(fleet, "audit_trail_broken")


def test_a_token_in_use_is_an_alert_before_it_ends_until_it_is_revoked(fleet: WatchedFleet) -> None:
    access, clock = fleet.house.parts.access, fleet.house.clock
    made = {
        name: access.create_token(name, [Role.VIEWER], by="boss", expires_at=clock.now() + timedelta(days=days))
        for name, days in (("ci", 90), ("unused", 90), ("short", 27))
    }
    clock.turn(days=14)
    access.authenticate(made["short"].token)
    fleet.run(minutes=1)
    is_calm(fleet, "token_ends")  # it was made for 27 days, so its maker knows
    clock.turn(days=61)
    access.authenticate(made["ci"].token)
    fleet.run(minutes=1)
    is_calm(fleet, "token_ends")
    clock.turn(days=2)
    fleet.run(minutes=1)
    fires(fleet, "token_ends", f"token:{made['ci'].view.id}")
    clock.turn(days=17)
    fleet.run(minutes=1)
    fires(fleet, "token_ends", f"token:{made['ci'].view.id}")  # it ended four days ago, and is missed somewhere
    assert fleet.open()["token_ends", f"token:{made['ci'].view.id}"].summary.startswith("ended on ")
    access.revoke_token(made["ci"].view.id)
    fleet.run(minutes=1)
    is_calm(fleet, "token_ends")


def test_the_device_ca_is_an_alert_before_it_ends_until_there_is_a_newer_one(fleet: WatchedFleet) -> None:
    cas, clock = fleet.house.parts.signing.cas, fleet.house.clock
    clock.turn(days=(cas.views()[0].not_after - clock.now()).days - 181)
    fleet.run(minutes=1)
    is_calm(fleet, "device_ca_ends")
    clock.turn(days=2)
    fleet.run(minutes=1)
    fires(fleet, "device_ca_ends", "device-ca")
    assert fleet.open()["device_ca_ends", "device-ca"].summary.startswith("ends on ")
    cas.make_next()
    fleet.run(minutes=1)
    is_calm(fleet, "device_ca_ends")


def test_every_rule_has_a_test_that_makes_it_fire_and_one_that_does_not() -> None:
    folders = [Path(__file__).parents[1] / name for name in ("alerting", "objectives")]
    words = "".join(path.read_text("utf-8") for folder in folders for path in sorted(folder.glob("test_*.py")))
    fired = {rule for rule in RULES if f'fires(fleet, "{rule}"' in words or f'rule == "{rule}"] == [' in words}
    calm = {rule for rule in RULES if f'is_calm(fleet, "{rule}")' in words}
    assert (RULES.keys() - fired, RULES.keys() - calm) == (set(), set())
