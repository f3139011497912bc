"""Display names: which are taken, who gives them, and that they identify nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.model import Role
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.model import TaskOrder
from edgefleet_server.fleet.display_name import MAX_CHARS, check_name, numbered, readable
from edgefleet_server.fleet.errors import BadDisplayNameError
from edgefleet_server.fleet.inventory.display_names import COST, MIN_AGE_S, DisplayNames
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import FACTS, House, KeyedDevice


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Roof 3", "Roof 3"),
        ("  Roof \t 3 ", "Roof 3"),
        ("Dachgescho\u0308\u00df", "Dachgesch\u00f6\u00df"),
        ("line\u2028two", "line two"),
        ("x" * 64, "x" * 64),
    ],
)
def test_a_name_is_stored_composed_and_with_single_spaces(given: str, stored: str) -> None:
    assert check_name(given) == stored


@pytest.mark.parametrize(
    "given",
    ["", "  ", "x" * 65, "a\x00b", "roof\u202e3", "zero\u200bwidth", "esc\x1b[31m", "\u3164", "\u2800", "\u0301"],
)
def test_a_name_that_does_not_show_as_it_is_is_refused(given: str) -> None:
    with pytest.raises(BadDisplayNameError):
        check_name(given)


@given(st.text(max_size=200))
def test_what_a_device_calls_itself_is_a_name_or_nothing(text: str) -> None:
    name = readable(text)
    assert name == "" or check_name(name) == name


@given(st.text(alphabet="ab", max_size=MAX_CHARS), st.integers(1, 100_000), st.integers(1, 100_000))
def test_a_numbered_name_still_fits(name: str, number: int, count: int) -> None:
    assert len(numbered(numbered(name, number, count), number, count)) <= MAX_CHARS


def test_several_devices_of_one_name_are_numbered() -> None:
    assert [numbered("Roof", n, 2) for n in (1, 2)] == ["Roof 1", "Roof 2"]
    assert (numbered("Roof", 1, 1), numbered("", 1, 2)) == ("Roof", "")


def _named(house: House, own: str = "", **claim: object) -> str:
    token = house.fleet.enrolment.create_claims(**claim)[0].token  # type: ignore[arg-type]
    device = KeyedDevice()
    made = house.fleet.enrolment.enroll(token, device.csr(), FACTS | ({"display_name": own} if own else {}))
    view = house.fleet.reader.device(made.device_id)
    assert "display_name" not in view.facts
    return view.display_name


def test_the_name_of_the_token_goes_before_the_one_that_the_device_gives(house: House) -> None:
    assert _named(house) == ""
    assert _named(house, own="Shed") == "Shed"
    assert _named(house, own="evil\x1b[2J") == ""
    assert _named(house, own="Shed", display_name="Roof 3") == "Roof 3"


def test_a_token_for_several_devices_numbers_them_in_the_order_they_come(house: House) -> None:
    claim = house.fleet.enrolment.create_claims(uses=2, display_name="Roof")[0]
    names = []
    for _ in range(2):
        made = house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
        names.append(house.fleet.reader.device(made.device_id).display_name)
    assert names == ["Roof 1", "Roof 2"]


def test_a_device_is_renamed_found_by_its_name_and_addressed_by_its_id(house: House) -> None:
    operator = Operators(house).as_role(Role.OPERATOR)
    first, second = house.device().id, house.device().id
    for device in (first, second):
        tag = operator.get(f"devices/{device}").headers["etag"]
        answer = operator.patch(f"devices/{device}", json={"display_name": " Roof  3 "}, headers={"if-match": tag})
        assert answer.json()["display_name"] == "Roof 3"
        assert answer.headers["etag"] != tag
    assert {one.id for one in house.fleet.finder.devices("roof", 5)} == {first, second}
    assert {one.display_name for one in house.fleet.finder.devices("roof", 5)} == {"Roof 3"}
    missing = operator.get("devices/Roof 3")
    assert missing.status_code == 404
    assert all(device in missing.json()["next"] for device in (first, second))
    assert operator.patch(f"devices/{first}", json={"display_name": ""}).json()["display_name"] == ""
    refused = operator.patch(f"devices/{first}", json={"display_name": "a\x00"})
    assert (refused.status_code, refused.json()["code"]) == (422, "fleet.bad_name")


def test_pages_read_names_again_after_a_while_and_not_before(house: House) -> None:
    now = [0.0]
    names = DisplayNames(house.db, lambda: now[0])
    device = house.device().id
    assert names.name_of(device) == ""
    with house.db.session():
        house.fleet.edits.update(device, {}, None, "Roof 3")
    now[0] = MIN_AGE_S / 2
    assert names.name_of(device) == ""
    now[0] = MIN_AGE_S + COST
    assert names.name_of(device) == "Roof 3"


def test_events_and_skipped_devices_have_the_name_beside_the_id(house: House) -> None:
    device = house.device().id
    house.fleet.edits.update(device, {}, None, "Roof 3")
    [first] = house.fleet.feed.add([NewEvent("desired", device)])
    listed = Operators(house).as_role(Role.VIEWER).get("events").json()["items"]
    assert {one["display_name"] for one in listed if one["device"] == device} == {"Roof 3"}
    assert {one["display_name"] for one in listed if not one["device"]} <= {""}
    assert house.fleet.feed.by_id([first])[first].display_name == "Roof 3"
    orders = [house.fleet.tasks.create_many([device], TaskOrder("diag", {}), "ann", dry_run=False) for _ in range(30)]
    assert {one.display_name for order in orders for one in order.skipped} == {"Roof 3"}
