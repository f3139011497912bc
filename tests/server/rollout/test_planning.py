"""The plan of a rollout: which device goes when and why, by which rule, and what can never work."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from edgefleet_cli.demo import demo_rollouts
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis.facts import devices_needed
from edgefleet_server.rollout.analysis.model import Rule
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.lint.findings import lint
from edgefleet_server.rollout.lint.preview import MAX_DEVICES_SHOWN, PlanView, plan
from edgefleet_server.rollout.model import FULL_CUT, Bundle, Member
from edgefleet_server.rollout.placement import is_countable, rank
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.spec.parser import parse_spec
from tests.house.tree import ROOT
from tests.server.rollout.corpus import accepted

SALT = "salt"
ALL: dict[str, Any] = {"name": "rest", "size": {"percent": 100}}


def members_of(fleet: Mapping[str, int]) -> list[Member]:
    return [
        Member(DeviceId(f"{name}-{n:04}"), ProfileName(name)) for name, count in fleet.items() for n in range(count)
    ]


def bundles_of(*profiles: str) -> dict[ProfileName, Bundle]:
    return {ProfileName(one): Bundle(f"digits/1.1.0/{one}.bundle", Sha256("0" * 64), 9) for one in profiles}


def planned(fleet: Mapping[str, int], without: tuple[str, ...] = (), **fields: Any) -> PlanView:
    spec = parse_spec({"release": "digits@1.1.0", "selector": "demo=yes", **fields})
    return plan(spec, SALT, members_of(fleet), bundles_of(*(name for name in fleet if name not in without)))


def codes(view: PlanView, level: str) -> set[tuple[str, int | None, str | None]]:
    return {(one.code, one.stage, one.stratum) for one in view.findings if one.level == level}


def canary(**size: Any) -> list[dict[str, Any]]:
    return [{"name": "canary", "size": size, "soak": "1h"}, ALL]


def test_a_plan_says_who_goes_when_and_why() -> None:
    view = planned({"rpi": 4, "jet": 2}, stages=[*canary(count=2)[:1], {"name": "half", "size": {"percent": 60}}, ALL])
    assert (view.matched, view.ok, view.release, view.selector) == (6, True, "digits@1.1.0", "demo=yes")
    assert [(s.stratum, s.population, s.bundle) for s in view.strata] == [
        ("jet", 2, "digits/1.1.0/jet.bundle"),
        ("rpi", 4, "digits/1.1.0/rpi.bundle"),
    ]
    assert [(s.idx, s.name, s.size_text, s.soak_s) for s in view.stages] == [
        (0, "canary", "2 per stratum", 3600),
        (1, "half", "60 %", 600),
        (2, "rest", "100 %", 0),
    ]
    by_rank = sorted((f"rpi-{n:04}" for n in range(4)), key=lambda device: rank(SALT, device))
    cells = [stage.strata[1] for stage in view.stages]
    assert [(cell.stratum, cell.new, cell.cumulative) for cell in cells] == [
        ("rpi", 2, 2),
        ("rpi", 1, 3),
        ("rpi", 1, 4),
    ]
    assert [one.device for cell in cells for one in cell.devices] == by_rank
    assert cells[1].devices[0].why == "number 3 of 4 by rank; the stage reaches number 3"
    assert [stage.strata[0].new for stage in view.stages] == [2, 0, 0]
    json.dumps(dataclasses.asdict(view))


@given(
    st.dictionaries(st.sampled_from(["rpi", "jet", "odd"]), st.integers(1, 150), max_size=3),
    st.lists(
        st.one_of(
            st.builds(lambda p, m: {"percent": p, "min": m}, st.sampled_from([0.5, 10, 33.3]), st.integers(1, 90)),
            st.builds(lambda n: {"count": n}, st.integers(1, 120)),
            st.builds(lambda n: {"count": n, "count_total": True}, st.integers(1, 120)),
        ),
        max_size=3,
    ),
)
@settings(max_examples=60, deadline=None)
def test_what_is_found_by_counting_is_what_a_plan_finds(fleet: dict[str, int], sizes: list[dict[str, Any]]) -> None:
    stages = [{"name": f"s{number}", "size": size, "soak": "1m"} for number, size in enumerate(sizes)]
    try:
        spec = parse_spec({"release": "digits@1.1.0", "selector": "demo=yes", "stages": [*stages, ALL]})
    except BadSpecError:
        reject()  # sizes that cannot follow each other
    bundles = bundles_of("rpi", "jet")
    assert is_countable(spec)
    counts = {ProfileName(name): count for name, count in fleet.items()}
    assert lint(spec, counts, 0, bundles) == plan(spec, SALT, members_of(fleet), bundles, with_power=False).findings


def test_stages_that_choose_cannot_be_counted() -> None:
    for shape in ({"match": "tz=EU"}, {"mode": "shadow"}):
        spec = parse_spec(
            {"release": "digits@1.1.0", "selector": "", "stages": [{"name": "a", "size": {"percent": 5}, **shape}, ALL]}
        )
        assert not is_countable(spec)


def test_a_plan_says_which_rule_judges_and_why() -> None:
    fleet = {"few": 72, "many": 73}
    assert [(cell.rule, cell.why) for cell in planned(fleet, stages=[ALL]).stages[0].strata] == [
        ("all_healthy", "fewer than 73 devices: all must be healthy"),
        (
            "evidence",
            "73 devices, 73 suffice: evidence must show that less than 5 % fail, also if 1 % of the devices hide a failure",
        ),
    ]
    assert [(cell.rule, cell.why) for cell in planned(fleet, stages=[ALL], promote="all_healthy").stages[0].strata] == [
        ("all_healthy", "the spec says so: all must be healthy")
    ] * 2
    assert [(cell.rule, cell.why) for cell in planned(fleet, stages=[ALL], promote="evidence").stages[0].strata] == [
        ("evidence", "evidence must show that less than 5 % fail, also if 1 % of the devices hide a failure")
    ] * 2


def test_devices_without_a_bundle_are_left_out_with_what_to_do() -> None:
    view = planned({"rpi": 9, "mcu": 2}, without=("mcu",))
    assert [(one.device, one.profile) for one in view.excluded] == [("mcu-0000", "mcu"), ("mcu-0001", "mcu")]
    assert view.excluded[0].reason == "digits@1.1.0 has no bundle for profile mcu"
    assert "profile!=mcu" in view.excluded[0].next
    assert codes(view, "warning") == {("stratum_without_bundle", None, "mcu")}
    assert view.ok
    assert all(cell.stratum == "rpi" for stage in view.stages for cell in stage.strata)


@pytest.mark.parametrize(
    ("fleet", "fields", "error"),
    [
        ({}, {}, ("nothing_matched", None, None)),
        ({"rpi": 20}, {"stages": canary(count=1)}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 20}, {"stages": canary(percent=5)}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 2}, {"stages": canary(percent=50)}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 73}, {"stages": canary(count=72)}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 1000}, {"stages": canary(percent=7)}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 1000}, {"stages": canary(count=1), "promote": "all_healthy"}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 1000}, {"stages": canary(count=72), "promote": "evidence"}, ("stage_too_small", 0, "rpi")),
        ({"rpi": 72}, {"stages": [{**ALL, "promote": "evidence"}]}, ("stratum_too_small", 0, "rpi")),
        (
            {"rpi": 150},
            {
                "stages": [{**ALL, "promote": "evidence"}],
                "gates": {"install": {"max_failure": 0.01, "promote_below": 0.02}},
            },
            ("stratum_too_small", 0, "rpi"),
        ),
    ],
)
def test_what_can_never_pass_is_an_error(
    fleet: dict[str, int], fields: dict[str, Any], error: tuple[str, int | None, str | None]
) -> None:
    view = planned(fleet, **fields)
    assert error in codes(view, "error")
    assert not view.ok
    assert view.findings[0].level == "error", "errors come first"
    assert all(one.message and one.next for one in view.findings)


def test_no_bundle_at_all_is_an_error() -> None:
    view = planned({"rpi": 3, "mcu": 2}, without=("mcu", "rpi"))
    assert codes(view, "error") == {("no_bundle", None, None)}


@pytest.mark.parametrize(
    ("fleet", "fields"),
    [
        ({"rpi": 20}, {"stages": canary(count=2)}),
        ({"rpi": 2}, {"stages": canary(percent=50, min=2)}),
        ({"rpi": 1}, {"stages": canary(count=1)}),
        ({"rpi": 200}, {"stages": canary(count=73)}),
        ({"rpi": 200}, {"stages": canary(count=2), "promote": "all_healthy"}),
        ({"rpi": 20, "jet": 1}, {}),
        ({"rpi": 2000}, {}),
    ],
)
def test_what_can_pass_is_no_error(fleet: dict[str, int], fields: dict[str, Any]) -> None:
    assert codes(planned(fleet, **fields), "error") == set()


@pytest.mark.parametrize(
    ("fleet", "fields", "warning"),
    [
        ({"rpi": 9, "jet": 1}, {}, ("single_device", None, "jet")),
        ({"rpi": 9}, {"stages": [{**ALL, "name": "a"}, ALL]}, ("stage_adds_nothing", 1, None)),
        ({"rpi": 2}, {}, ("stage_adds_nothing", 1, None)),
        ({"rpi": 9}, {"stages": [{"name": "a", "size": {"count": 2}, "soak": 0}, ALL]}, ("no_soak", 0, None)),
        ({"rpi": 9}, {"device": {"ack_deadline": "59s"}}, ("short_ack_deadline", None, None)),
        ({"rpi": 9}, {"on_inconclusive": {"after": "10m"}}, ("inconclusive_before_soak", 0, None)),
        ({"rpi": 200}, {"stages": canary(count=100)}, ("no_room_for_failures", 0, "rpi")),
        (
            {"rpi": 20, "jet": 3},
            {"stages": canary(count=2, count_total=True)},
            ("stage_skipped", 0, "jet"),
        ),
    ],
)
def test_what_deserves_a_second_look_is_a_warning(
    fleet: dict[str, int], fields: dict[str, Any], warning: tuple[str, int | None, str | None]
) -> None:
    view = planned(fleet, **fields)
    assert warning in codes(view, "warning")
    assert view.ok


def test_a_stratum_without_a_device_in_a_stage_is_skipped_there() -> None:
    view = planned({"rpi": 20, "jet": 3}, stages=canary(count=2, count_total=True))
    assert [(cell.stratum, cell.new, cell.cumulative) for cell in view.stages[0].strata] == [
        ("jet", 0, 0),
        ("rpi", 2, 2),
    ]
    assert view.stages[0].strata[0].why == "skipped here once it has passed in another stratum"


def test_the_plan_of_a_running_rollout_keeps_the_cuts_that_are_fixed() -> None:
    spec = parse_spec({"release": "digits@1.1.0", "selector": "", "stages": canary(count=2)})
    members = members_of({"rpi": 9})
    cut = sorted(rank(SALT, one.device) for one in members)[4] + 1
    view = plan(spec, SALT, members, bundles_of("rpi"), {(0, ProfileName("rpi")): cut})
    assert [stage.strata[0].cumulative for stage in view.stages] == [5, 9]
    view = plan(spec, SALT, members, bundles_of("rpi"), {(0, ProfileName("rpi")): FULL_CUT})
    assert [stage.strata[0].cumulative for stage in view.stages] == [9, 9]


def test_a_long_list_of_devices_is_cut() -> None:
    (cell,) = planned({"rpi": 120}, stages=[ALL]).stages[0].strata
    assert (cell.new, len(cell.devices)) == (120, MAX_DEVICES_SHOWN)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 120), min_size=1),
    st.sampled_from(accepted()),
    st.text(max_size=4),
)
def test_every_device_is_in_exactly_one_stage_and_a_plan_without_error_can_pass(
    fleet: dict[str, int], case: Any, salt: str
) -> None:
    spec = parse_spec(case.document)
    view = plan(spec, salt, members_of(fleet), bundles_of(*fleet))
    for index, stratum in enumerate(sorted(fleet)):
        cells = [stage.strata[index] for stage in view.stages]
        modes = [stage.mode for stage in spec.stages]
        serving = [cell for cell, mode in zip(cells, modes, strict=True) if mode is Mode.ACTIVE]  # once; beside it, too
        assert sum(cell.new for cell in serving) == fleet[stratum] == cells[-1].cumulative
        assert all(before.cumulative <= after.cumulative for before, after in pairwise(serving))
        if view.ok:
            for cell, stage in zip(cells, spec.stages, strict=True):
                needed = devices_needed(type_of(cell.rule), fleet[stratum], spec.gates.install)
                assert cell.cumulative == 0 or cell.cumulative >= needed, (stage.name, stratum)


def type_of(rule: str) -> Rule:
    return Rule(rule)


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
def test_an_accepted_spec_of_the_corpus_lints_as_it_says_for_its_fleet(case: Any) -> None:
    spec = parse_spec(case.document)
    fits = set(case.fleet.devices) - case.fleet.without_bundle
    view = plan(spec, SALT, members_of(case.fleet.devices), bundles_of(*fits))
    assert {one.code for one in view.findings if one.level == "error"} == case.lint
    assert view.ok is (not case.lint), view.findings


@pytest.mark.parametrize(
    ("name", "fleets"),
    [
        ("canary.yaml", [{"rpi5-ort": 4, "jetson-trt": 72}, {"rpi5-ort": 8}, {"rpi5-ort": 33, "jetson-trt": 12}]),
        ("small-fleet.yaml", [{"rpi5-ort": 2}, {"rpi5-ort": 9, "jetson-trt": 3}]),
        ("large-fleet.yaml", [{"rpi5-ort": 2500}, {"rpi5-ort": 9000, "jetson-trt": 4000}]),
    ],
)
def test_an_example_lints_without_any_finding_for_the_fleets_that_it_is_for(
    name: str, fleets: list[dict[str, int]]
) -> None:
    text = (ROOT / "examples/rollouts" / name).read_text()
    spec = parse_spec(yaml.safe_load(text))
    for fleet in fleets:
        assert plan(spec, SALT, members_of(fleet), bundles_of(*fleet)).findings == ()


@pytest.mark.parametrize("count", range(1, 65))
def test_the_rollout_of_the_demo_may_run_on_every_number_of_devices_and_no_stage_only_waits(count: int) -> None:
    fleet = Counter(demo_rollouts.profiles_for(count, ("rpi5-ort", "rpi5-tflite")))
    spec = parse_spec(demo_rollouts.spec("digits@1.1.0", count))
    view = plan(spec, SALT, members_of(fleet), bundles_of(*fleet))
    known = {"single_device"} if count == 1 else {"stage_skipped"}
    assert codes(view, "error") == set()
    assert {code for code, _, _ in codes(view, "warning")} <= known
    assert [stage.name for stage in spec.stages][-1] == ("all" if count == 1 else "rest")


@pytest.mark.parametrize("count", [8, 40, 120])
def test_the_example_with_a_lab_lints_without_any_finding_where_half_of_the_devices_are_in_it(count: int) -> None:
    spec = parse_spec(yaml.safe_load((ROOT / "examples/rollouts/shadow-first.yaml").read_text()))
    outside = frozenset(index for index, stage in enumerate(spec.stages) if stage.match)
    some = [
        dataclasses.replace(one, barred=outside) if place % 2 else one
        for place, one in enumerate(members_of({"rpi5-ort": count}))
    ]
    view = plan(spec, SALT, some, bundles_of("rpi5-ort"))
    assert view.findings == ()
    assert [stage.strata[0].cumulative for stage in view.stages] == [max(2, -(-count // 20)), count // 2, count]


def test_every_example_is_tested() -> None:
    found = {path.name for path in (ROOT / "examples/rollouts").iterdir()}
    assert found == {"canary.yaml", "small-fleet.yaml", "large-fleet.yaml", "shadow-first.yaml"}


def test_the_reference_page_names_every_finding() -> None:
    text = (ROOT / "docs/reference/rollout-spec.md").read_text()
    source = (ROOT / "server/edgefleet_server/rollout/lint/findings.py").read_text()
    known = set(re.findall(r'^[A-Z_]+: Final = "([a-z_]+)"$', source, re.MULTILINE))
    assert len(known) == 19
    assert {code for code in known if f"`{code}`" not in text} == set()
