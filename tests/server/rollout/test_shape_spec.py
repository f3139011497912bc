"""The form of a rollout as a spec writes it: normal form, words, candidates in the words of an install, strata and pins."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, CandidatePhase, ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.rollout.lint.preview import plan
from edgefleet_server.rollout.model import Assignment, Bundle, CandidateReport, Member, Report
from edgefleet_server.rollout.planner.observe import Terms, as_install, observe
from edgefleet_server.rollout.preparation.membership import pinned_of, stratum_of
from edgefleet_server.rollout.spec.model import Approval, DeviceTerms, Membership, Mode, Spec, Supersede, profile_of
from edgefleet_server.rollout.spec.parser import dump_document, parse_spec, stage_text
from edgefleet_server.rollout.spec.strategies import STRATEGIES

BASE: dict[str, Any] = {"release": "digits@1.1.0", "selector": ""}
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}}
NOW = datetime(2026, 1, 5, tzinfo=UTC)
DIGEST = "d" * 64
SPANS = st.integers(1, 365 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
ROLES = st.sampled_from([role for role in Role if role is not Role.VIEWER])
APPROVALS = st.none() | st.builds(Approval, ROLES, SPANS)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(Mode))
    share = draw(st.integers(1, 99)) if mode is Mode.SPLIT else 0
    match = draw(st.sampled_from(["", "site=a", "a in (b,c),!d"]))
    return {"match": match, "mode": mode, "share_pct": share, "approval": draw(APPROVALS)}


@settings(deadline=None)  # a busy machine is no failure
@given(
    shapes(),
    APPROVALS,
    st.fixed_dictionaries(
        {
            "membership": st.sampled_from(Membership),
            "supersede": st.sampled_from(Supersede),
            "rollback_to": st.sampled_from(["previous", "none", "digits@1.0.0"]),
            "strata": st.sampled_from([("profile",), ("profile", "runtime"), ("profile", "site", "hw.rev")]),
        }
    ),
)
def test_the_normal_form_of_any_form_reads_back_as_the_same_spec(
    first: dict[str, Any], last: Approval | None, whole: dict[str, Any]
) -> None:
    plain = parse_spec({**BASE, "stages": [{"name": "one", "size": {"count": 2}}, REST]})
    stages = (replace(plain.stages[0], **first), replace(plain.stages[1], approval=last))
    spec = replace(plain, stages=stages, **whole)
    assert parse_spec(json.loads(json.dumps(dump_document(spec)))) == spec


def test_a_stored_spec_of_before_reads_as_it_did() -> None:
    old = dump_document(parse_spec({**BASE, "stages": [{"name": "one", "size": {"count": 2}}, REST]}))
    for name in ("membership", "supersede", "rollback_to", "strata"):
        del old["spec"][name]
    for stage in old["spec"]["stages"]:
        for name in ("match", "mode", "approval"):
            del stage[name]
    spec = parse_spec(old)
    assert spec == parse_spec({**BASE, "stages": [{"name": "one", "size": {"count": 2}}, REST]})
    assert (spec.membership, spec.supersede) == (Membership.DYNAMIC, Supersede.REJECT)
    assert (spec.rollback_to, spec.strata) == ("previous", ("profile",))
    shapes = {(stage.match, stage.mode, stage.share_pct, stage.approval) for stage in spec.stages}
    assert shapes == {("", Mode.ACTIVE, 0, None)}


def test_an_editor_is_offered_every_strategy() -> None:
    shown = TypeAdapter(Spec).json_schema()["properties"]["strategy"]
    assert shown["enum"] == list(STRATEGIES)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_expands_to_stages_that_are_written_out(name: str) -> None:
    spec = parse_spec({**BASE, "strategy": name, "promote": "all_healthy"})
    written = dump_document(spec)
    assert "strategy" not in written["spec"]
    assert parse_spec(written) == spec
    assert {stage.promote.value for stage in spec.stages} == {"all_healthy"}


def test_a_stage_is_told_in_words() -> None:
    spec = parse_spec(
        {
            **BASE,
            "stages": [
                {"size": {"count": 2}, "mode": "shadow", "match": "site=a"},
                {"size": {"count": 2}, "mode": "split", "share_pct": 5},
                {**REST, "approval": {}},
            ],
        }
    )
    assert [stage_text(stage) for stage in spec.stages] == [
        "2 per stratum, of site=a, as a shadow",
        "2 per stratum, for 5 % of the requests",
        "100 %, once approved (approver)",
    ]


# ---- candidates in the words of an install


ROLLOUT = RolloutId("r-1")


def said(phase: str, code: str = "", sha256: str = DIGEST, gen: int = 3) -> Report:
    told = CandidateReport(sha256, phase, code, f"{code} said", DIGEST, ROLLOUT)
    return Report(reported_gen=gen, active_sha256="o" * 64, wanted_by_server="o" * 64, is_online=True, candidate=told)


def offered(state: AssignmentState = AssignmentState.OFFERED) -> Assignment:
    switched = NOW if state is AssignmentState.HEALTHY else None
    one = Assignment(DeviceId("d-1"), 0, ProfileName("rpi"), state, attempt=1, gen=3, switched_at=switched)
    return one.but(deadline=NOW + timedelta(hours=1))


TERMS = Terms(DIGEST, DeviceTerms(), timedelta(minutes=10), ROLLOUT, Mode.SHADOW)
A = AssignmentState


@pytest.mark.parametrize(
    ("before", "report", "after"),
    [
        (A.OFFERED, said("running", gen=2), A.OFFERED),
        (A.OFFERED, said("", sha256=""), A.ACKED),
        (A.OFFERED, said("waiting", "candidate.trial"), A.ACKED),
        (A.OFFERED, said("downloading"), A.DOWNLOADING),
        (A.ACKED, said("starting"), A.PARITY_OK),
        (A.PARITY_OK, said("running"), A.HEALTHY),
        (A.PARITY_OK, said("recording"), A.HEALTHY),
        (A.PARITY_OK, said("suspended", "candidate.memory"), A.PARITY_OK),
        (A.PARITY_OK, said("failed", "install.golden"), A.FAILED),
        (A.HEALTHY, said("running"), A.HEALTHY),
        (A.HEALTHY, said("suspended", "candidate.memory"), A.HEALTHY),
        (A.HEALTHY, said("", sha256=""), A.HEALTHY),
        (A.HEALTHY, said("failed", "candidate.restarts"), A.REGRESSED),
        (A.UNREACHABLE, said("running"), A.HEALTHY),
        (A.OFFERED, said("a_word_of_later"), A.ACKED),
    ],
)
def test_what_is_said_of_a_candidate_moves_the_assignment(before: A, report: Report, after: A) -> None:
    assert observe(offered(before), report, TERMS, NOW)[0].state is after


@pytest.mark.parametrize("phase", list(CandidatePhase))
@pytest.mark.parametrize("state", list(AssignmentState))
def test_every_word_of_a_candidate_has_a_meaning_in_every_state(phase: CandidatePhase, state: A) -> None:
    report = as_install(said(phase.value), offered(state), DIGEST)
    assert isinstance(report.phase, Phase)
    observe(offered(state), said(phase.value), TERMS, NOW)


def test_the_soak_stands_still_while_the_candidate_is_suspended() -> None:
    healthy = offered(A.HEALTHY)
    still, _ = observe(healthy, said("suspended", "candidate.memory"), TERMS, NOW + timedelta(minutes=5))
    assert (still.switched_at, still.reason) == (None, "candidate.memory said")
    again, _ = observe(still, said("running"), TERMS, NOW + timedelta(minutes=8))
    assert again.switched_at == NOW + timedelta(minutes=8)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("install.golden", ErrorClass.GOLDEN),
        ("candidate.restarts", ErrorClass.CRASH),
        ("install.odd", ErrorClass.INTERNAL),
    ],
)
def test_a_failure_has_the_class_that_its_code_names(code: str, kind: ErrorClass) -> None:
    assert observe(offered(A.ACKED), said("failed", code), TERMS, NOW)[0].error_class == kind.value


# ---- strata, pins, plans


def facts(**labels: str) -> DeviceFacts:
    return DeviceFacts(DeviceId("d-1"), ProfileName("rpi"), "aarch64", DeviceStatus.ONLINE, labels, None)


def test_a_stratum_is_the_profile_and_its_labels() -> None:
    assert stratum_of(("profile", "runtime"), facts(site="a")) == "rpi"
    assert stratum_of(("profile", "site", "rev"), facts(site="a")) == "rpi/site=a/rev=-"
    assert profile_of("rpi/site=a/rev=-") == "rpi"


def test_a_pin_says_why() -> None:
    assert pinned_of({"edgefleet/pinned": "rig"}) == "rig"
    assert pinned_of({"edgefleet/pinned": ""}) == "it has the label edgefleet/pinned"
    assert pinned_of({"pinned": "rig"}) == ""


def members(count: int, **more: Any) -> list[Member]:
    return [Member(DeviceId(f"d-{n:03}"), ProfileName("rpi"), **more) for n in range(count)]


BUNDLES = {ProfileName("rpi"): Bundle("digits/1.1.0/rpi.bundle", Sha256("0" * 64), 9)}


def test_evidence_that_cannot_be_had_is_refused_unless_an_approval_stands_in() -> None:
    stages = [{"name": "canary", "size": {"count": 5}, "promote": "evidence"}, REST]
    refused = plan(parse_spec({**BASE, "stages": stages}), "salt", members(200), BUNDLES)
    assert (refused.ok, refused.findings[0].code) == (False, "stage_too_small")
    asked = [stages[0], {**REST, "approval": {"role": "approver"}}]
    view = plan(parse_spec({**BASE, "stages": asked}), "salt", members(200), BUNDLES)
    assert view.ok
    assert ("approval_stands_in", 0) in {(one.code, one.stage) for one in view.findings}
    assert view.stages[0].strata[0].rule == "all_healthy"


def test_a_plan_whose_devices_are_all_pinned_is_refused_with_that_reason() -> None:
    view = plan(parse_spec(BASE), "salt", members(3, pinned="rig"), BUNDLES)
    assert (view.ok, view.findings[0].message) == (False, "3 devices would take part, but each is pinned")
    assert {one.reason for one in view.excluded} == {"pinned: rig"}


def test_a_plan_bars_devices_from_stages_and_counts_candidates_anew() -> None:
    stages = [
        {"name": "beside", "size": {"count": 2}, "mode": "shadow"},
        {"name": "canary", "size": {"count": 2}},
        REST,
    ]
    some = [*members(4), *(Member(DeviceId(f"e-{n}"), ProfileName("rpi"), frozenset({0})) for n in range(4))]
    view = plan(parse_spec({**BASE, "stages": stages}), "salt", some, BUNDLES)
    beside, canary, rest = (stage.strata[0] for stage in view.stages)
    assert all(device.device.startswith("d-") for device in beside.devices)
    assert (beside.cumulative, canary.cumulative + rest.new, rest.cumulative) == (2, 8, 8)
    assert "stage_adds_nothing" not in {one.code for one in view.findings}
