"""Groups: their life, and what `group` means in a selector."""

import itertools
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefleet_protocol.messages import ModelState, Phase, State
from edgefleet_server.access.model import Role
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.errors import (
    BadGroupNameError,
    BadSelectorError,
    FleetError,
    GroupExistsError,
    GroupInUseError,
    GroupUnknownError,
)
from edgefleet_server.fleet.selectors.device_selector import groups_of
from edgefleet_server.fleet.selectors.grammar import Operator, Requirement, Selector, parse_selector
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import PROFILE, House

NAMES = ["alpha", "beta", "gamma"]
GROUP_SETS = st.sets(st.sampled_from(NAMES))
WANTED = st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple)


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def selected(house: House, selector: str) -> set[str]:
    """Return the devices that a selector matches."""
    return {one.id for one in house.fleet.devices.population(selector)}


def test_a_group_is_a_selector_with_a_name(house: House) -> None:
    prod, edge, both = (
        house.device(labels={"env": "prod"}).id,
        house.device(labels={"site": "edge"}).id,
        house.device(labels={"env": "prod", "site": "edge"}).id,
    )
    plain = house.device().id
    made = house.fleet.groups.create("prod", " env = prod ", "ann")
    assert (made.name, made.selector, made.devices, made.created_by) == ("prod", "env=prod", 2, "ann")
    house.fleet.groups.create("edge", "site=edge", "ann")
    for selector, expected in (
        ("group=prod", {prod, both}),
        ("group=prod,group=edge", {both}),
        ("group in (prod,edge)", {prod, edge, both}),
        ("group!=prod", {edge, plain}),
        ("group notin (prod,edge)", {plain}),
        ("group", {prod, edge, both}),
        ("!group", {plain}),
        ("group=prod,site=edge", {both}),
        (f"group=prod,id={prod}", {prod}),
        ("group>1", set()),
    ):
        assert selected(house, selector) == expected, selector
    assert house.fleet.reader.device(both).groups == ["edge", "prod"]
    assert house.fleet.reader.device(plain).groups == []
    assert [one.groups for one in house.fleet.devices.select(f"id={both},group=edge")] == [{"edge"}]
    house.fleet.edits.update(prod, {"env": None}, None)
    assert selected(house, "group=prod") == {both}
    house.fleet.revocation.revoke(both)
    assert house.fleet.groups.get("prod").devices == 0


def test_a_group_may_ask_for_what_runs(house: House) -> None:
    device, other = house.device().id, house.device().id
    running = ModelState(model="digits", phase=Phase.COMMITTED, active_target=f"digits/1.1.0/{PROFILE}.bundle")
    house.fleet.receiver.take_state(device, State(device=device, gen=1, boot_id="b", seq=1, ts=0, models=[running]))
    assert house.fleet.groups.create("new", "model.digits=1.1.0", "ann").devices == 1
    assert selected(house, "group=new") == {device}
    assert selected(house, "group!=new") == {other}
    assert house.fleet.reader.device(device).groups == ["new"]


def test_deploying_to_a_group(house: House) -> None:
    inside, outside = house.device(labels={"env": "prod"}).id, house.device().id
    house.fleet.groups.create("prod", "env=prod", "ann")
    release = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    assert [one.device for one in house.fleet.deployer.deploy(release, selector="group=prod").set] == [inside]
    assert [one.device for one in house.fleet.deployer.deploy(release, selector="!group").set] == [outside]


@pytest.mark.parametrize(
    "selector", ["group=x", "group!=x", "group in (prod,x)", "group notin (x)", "group=", "group,group=x"]
)
def test_an_unknown_group_is_refused_and_the_known_are_named(house: House, selector: str) -> None:
    house.fleet.groups.create("prod", "", "ann")
    with pytest.raises(BadSelectorError, match=r"there are: prod$") as caught:
        house.fleet.devices.select(selector)
    assert caught.value.next_step
    with pytest.raises(BadSelectorError):
        house.fleet.groups.pin(selector)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "a b", "ä"])
def test_a_bad_name_is_refused(house: House, name: str) -> None:
    with pytest.raises(BadGroupNameError):
        house.fleet.groups.create(name, "", "ann")


@pytest.mark.parametrize("selector", ["group=prod", "!group", "env=prod,group", "group notin (a)"])
def test_groups_are_not_made_of_groups(house: House, selector: str) -> None:
    house.fleet.groups.create("prod", "", "ann")
    with pytest.raises(BadSelectorError, match="groups cannot be made of groups"):
        house.fleet.groups.create("other", selector, "ann")


def test_a_group_is_made_once_and_removed(house: House) -> None:
    house.fleet.groups.create("prod", "", "ann")
    with pytest.raises(GroupExistsError):
        house.fleet.groups.create("prod", "env=prod", "ben")
    with pytest.raises(BadSelectorError):
        house.fleet.groups.create("other", "a b", "ann")
    house.fleet.groups.delete("prod")
    with pytest.raises(GroupUnknownError):
        house.fleet.groups.delete("prod")
    with pytest.raises(GroupUnknownError):
        house.fleet.groups.get("prod")


def test_a_guard_keeps_a_group(house: House) -> None:
    house.fleet.groups.create("prod", "", "ann")
    house.fleet.groups.create("free", "", "ann")
    house.fleet.groups.add_guard(lambda name: "rollout r-1 names it" if name == "prod" else None)
    with pytest.raises(GroupInUseError, match="rollout r-1 names it"):
        house.fleet.groups.delete("prod")
    assert house.fleet.groups.get("prod").name == "prod"
    house.fleet.groups.delete("free")


def test_a_group_gets_another_selector_unless_something_names_it(client: TestClient, house: House) -> None:
    house.device(labels={"env": "prod"})
    client.post("groups", json={"name": "prod", "selector": "env=test"})
    changed = client.patch("groups/prod", json={"selector": " env = prod "})
    assert (changed.status_code, changed.json()["selector"], changed.json()["devices"]) == (200, "env=prod", 1)
    assert changed.json()["created_by"] == "ann"
    house.fleet.groups.add_guard(lambda _name: "rollout r-1 names it")
    assert client.patch("groups/prod", json={"selector": "env=prod"}).status_code == 200, "nothing changes"
    refused = client.patch("groups/prod", json={"selector": "env=test"})
    assert (refused.status_code, refused.json()["code"]) == (409, "group.in_use")
    assert house.fleet.groups.get("prod").selector == "env=prod"


def test_a_group_is_not_removed_while_something_that_names_it_is_made(house: House) -> None:
    house.fleet.groups.create("prod", "", "ann")

    def named_by(_name: str) -> str | None:
        return "rollout r-1 names it" if house.fleet.feed.page(rollout="r-1", limit=1)[0] else None

    house.fleet.groups.add_guard(named_by)
    refused: list[FleetError] = []

    def delete() -> None:
        try:
            house.fleet.groups.delete("prod")
        except FleetError as error:
            refused.append(error)

    other = threading.Thread(target=delete)
    with house.db.session():
        house.fleet.groups.pin("group=prod,env!=dev")
        house.fleet.feed.add([NewEvent("rollout", rollout="r-1")])
        other.start()
    other.join(60)
    assert [error.code for error in refused] == ["group.in_use"]
    house.fleet.groups.pin("env=prod")


def test_groups_named_by_a_selector() -> None:
    for text, names, asks, any_group in (
        ("env=prod", set(), False, False),
        ("group in (a,b),group!=c", {"a", "b", "c"}, True, False),
        ("!group,group=a", {"a"}, True, True),
        ("group>1", set(), True, False),
    ):
        parsed = parse_selector(text)
        assert (set(parsed.groups()), parsed.asks_for_groups(), parsed.asks_for_any_group()) == (names, asks, any_group)


@given(GROUP_SETS, WANTED)
def test_in_means_any_of_them_and_notin_none_of_them(inside: set[str], wanted: tuple[str, ...]) -> None:
    shared = bool(inside & set(wanted))
    assert Requirement("group", Operator.IN, wanted).holds({}, inside) is shared
    assert Requirement("group", Operator.NOT_IN, wanted).holds({}, inside) is (not shared)
    one = wanted[:1]
    assert Requirement("group", Operator.EQUALS, one).holds({}, inside) is (one[0] in inside)
    assert Requirement("group", Operator.NOT_EQUALS, one).holds({}, inside) is (one[0] not in inside)
    assert Requirement("group", Operator.EXISTS).holds({}, inside) is bool(inside)
    assert Requirement("group", Operator.MISSING).holds({}, inside) is (not inside)


@given(GROUP_SETS, st.sampled_from(NAMES))
def test_for_one_group_it_is_an_ordinary_fact(inside: set[str], name: str) -> None:
    """With at most one group the answers are those of a label of that value."""
    single = sorted(inside)[:1]
    facts = {"label": single[0]} if single else {}
    for operator in Operator:
        value = ("1",) if operator in (Operator.GREATER, Operator.LESS) else (name,)
        assert Requirement("group", operator, value).holds({}, single) == Requirement("label", operator, value).holds(
            facts
        )


LABELS = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["0", "1"]))
GROUP_SELECTORS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["0", "1"])), max_size=2)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(LABELS, min_size=1, max_size=3),
    st.lists(GROUP_SELECTORS, min_size=2, max_size=2),
    st.sampled_from([Operator.EQUALS, Operator.NOT_EQUALS, Operator.IN, Operator.NOT_IN]),
)
def test_a_group_matches_what_its_selector_matches(
    any_house: House, fleet: list[dict[str, str]], selectors: list[list[tuple[str, str]]], operator: Operator
) -> None:
    house, run = any_house, f"run{next(_RUNS)}"
    ids = {house.device(labels={**labels, "run": run}).id: labels for labels in fleet}
    names = [f"{run}-{i}" for i in range(len(selectors))]
    texts = [",".join(f"{key}={value}" for key, value in pairs) for pairs in selectors]
    for name, text in zip(names, texts, strict=True):
        house.fleet.groups.create(name, text, "ann")
    values = tuple(names) if operator in (Operator.IN, Operator.NOT_IN) else tuple(names[:1])
    asked = Selector((Requirement("group", operator, values), Requirement("run", Operator.EQUALS, (run,))))
    members = {
        device
        for device, labels in ids.items()
        if any(parse_selector(text).matches(labels) for text in texts[: len(values)])
    }
    is_inside = operator in (Operator.EQUALS, Operator.IN)
    assert selected(house, str(asked)) == (members if is_inside else ids.keys() - members)
    for device, labels in ids.items():
        expected = groups_of(labels, {name: parse_selector(text) for name, text in zip(names, texts, strict=True)})
        assert set(house.fleet.reader.device(device).groups) & set(names) == expected


_RUNS = itertools.count()


@pytest.fixture
def client(any_house: House) -> TestClient:
    """An operator's client."""
    return Operators(any_house).as_role(Role.OPERATOR)


def test_groups_over_the_api(client: TestClient, house: House) -> None:
    device = house.device(labels={"env": "prod"}).id
    gone = house.device(labels={"env": "prod"}).id
    house.fleet.revocation.revoke(gone)
    made = client.post("groups", json={"name": "prod", "selector": "env=prod"})
    assert made.status_code == 201
    body: dict[str, Any] = made.json()
    assert {**body, "created_at": None} == {
        "name": "prod",
        "selector": "env=prod",
        "devices": 1,
        "created_at": None,
        "created_by": "ann",
    }
    assert client.get("groups/prod").json() == body
    client.post("groups", json={"name": "all", "selector": ""})
    first = client.get("groups", params={"limit": 1}).json()
    rest = client.get("groups", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [one["name"] for one in first["items"] + rest["items"]] == ["all", "prod"]
    assert (first["total"], rest["next_cursor"]) == (2, None)
    members = client.get("groups/prod/members").json()
    assert ([one["id"] for one in members["items"]], members["total"]) == ([device], 1)
    assert members["items"][0]["groups"] == ["all", "prod"]
    shown = client.get("devices", params={"selector": "group=prod,status!=revoked"}).json()
    assert shown["items"] == members["items"]
    house.fleet.groups.add_guard(lambda name: "rollout r-1 names it" if name == "all" else None)
    refused = client.delete("groups/all")
    assert (refused.status_code, refused.json()["code"]) == (409, "group.in_use")
    assert "rollout r-1 names it" in refused.json()["detail"]
    assert client.delete("groups/prod").status_code == 204
    assert client.get("devices", params={"selector": "group=prod"}).json()["code"] == "fleet.bad_selector"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "groups", {"name": "all", "selector": ""}, 409, "group.exists"),
        ("POST", "groups", {"name": "A", "selector": ""}, 422, "group.bad_name"),
        ("POST", "groups", {"name": "a", "selector": "a b"}, 422, "fleet.bad_selector"),
        ("POST", "groups", {"name": "a", "selector": "group=all"}, 422, "fleet.bad_selector"),
        ("POST", "groups", {"name": "a"}, 422, "request.invalid"),
        ("POST", "groups", {"name": "a", "selector": "", "more": 1}, 422, "request.invalid"),
        ("GET", "groups/none", None, 404, "group.unknown"),
        ("GET", "groups/none/members", None, 404, "group.unknown"),
        ("DELETE", "groups/none", None, 404, "group.unknown"),
        ("PATCH", "groups/none", {"selector": ""}, 404, "group.unknown"),
        ("PATCH", "groups/all", {"selector": "a b"}, 422, "fleet.bad_selector"),
        ("PATCH", "groups/all", {"selector": "group=all"}, 422, "fleet.bad_selector"),
        ("PATCH", "groups/all", {"name": "b", "selector": ""}, 422, "request.invalid"),
    ],
)
def test_refusals_say_what_and_what_next(
    client: TestClient, house: House, method: str, path: str, body: Any, status: int, code: str
) -> None:
    house.fleet.groups.create("all", "", "ann")
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["next"]
