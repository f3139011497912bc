"""What the page of a rollout is made of: lengths, gauges, the story, the strip, the simulation; each a function over frozen values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.rollout_page.decision_story import sentence_of
from edgefleet_server.dashboard.rollout_page.decision_story import story as told_story
from edgefleet_server.dashboard.rollout_page.evidence_chart import is_enough, stop_chart
from edgefleet_server.dashboard.rollout_page.gate_panels import gate_lines, gate_panels, metric_words
from edgefleet_server.dashboard.rollout_page.promotion_answer import answer, cost_of, state_of
from edgefleet_server.dashboard.rollout_page.rollout_picture import MOST_SQUARES, strip_of
from edgefleet_server.dashboard.rollout_page.stage_steps import pipeline, span
from edgefleet_server.dashboard.rollout_page.stop_curve import simulation
from edgefleet_server.dashboard.rollout_page.turn_marks import Turn, turn_marks
from edgefleet_server.dashboard.rollouts.gauges import evidence_gauge
from edgefleet_server.events.model import EventView
from edgefleet_server.rollout.status.decision_views import DecisionView, Recomputed
from edgefleet_server.rollout.status.metric_views import MetricView
from edgefleet_server.rollout.status.reader import StratumView
from edgefleet_server.rollout.status.whereabouts import DeviceFlow, WayBack
from edgefleet_server.telemetry.timelines.model import LinesBy, MetricLine, Scope, Timeline
from tests.server.dashboard.fleet import LITERT, ORT, STAGES, Fleet, follow, small
from tests.server.dashboard.test_pages import part_of, text_of

NOW = datetime(2026, 11, 25, 12, 6, 30, tzinfo=UTC)
INSTALL = {"max_failure": 0.03, "promote_below": 0.05, "alpha_abort": 0.01, "alpha_promote": 0.05, "liars": 0.01}
COUNTS = st.integers(0, 100_000)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (52, "52 s"), (60, "1:00 min"), (372, "6:12 min"), (1620, "27 min"), (7200, "2 h"), (11_100, "3 h 5 min"),
     (172_800, "2 d")],
)  # fmt: skip
def test_lengths_of_time_are_said_as_people_say_them(seconds: int, words: str) -> None:
    assert span(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("value", "words", "is_reached"),
    [(0.0, "0.0 of 100 to stop", False), (0.04, "less than 0.1 of 100 to stop", False), (0.6, "0.6 of 100 to stop", False),
     (9.08, "9.1 of 100 to stop", False), (138.0, "138 of 100, reached", True), (1e9, "more than 1000 of 100, reached", True)],
)  # fmt: skip
def test_evidence_is_said_in_words(value: float, words: str, is_reached: bool) -> None:
    found = evidence_gauge(value, 100.0)
    assert (found.words, found.is_reached) == (words, is_reached)


@given(st.floats(0, 1e30), st.floats(2, 1e6))
def test_evidence_lies_on_its_line_and_before_its_limit_exactly_where_it_is_not_reached(e: float, limit: float) -> None:
    found = evidence_gauge(e, limit)
    assert 0 <= found.at <= 100
    assert 0 < found.enough < 100
    assert (found.at > found.enough + 0.02) <= found.is_reached <= (found.at >= found.enough - 0.02)
    assert all(0 <= at <= 100 for at, _ in found.ticks)


@given(st.lists(COUNTS, min_size=7, max_size=7))
def test_the_strip_draws_every_place_that_has_devices_and_few_squares(counts: list[int]) -> None:
    flow = DeviceFlow(*counts)
    places, each = strip_of(flow)
    assert sum(one.count for one in places) == flow.total
    assert sum(one.squares for one in places) <= MOST_SQUARES + len(places)
    assert all((one.squares > 0) == (one.count > 0) for one in places)
    assert all(one.squares * each >= one.count for one in places)


def test_the_simulation_names_the_smallest_failure_that_the_stages_stop() -> None:
    found = simulation(INSTALL, [("canary", 5), ("half", 62), ("all", 124)])
    assert found is not None
    assert (found.bad_pct, found.median, found.devices) == (10, 98, 124)
    assert [mark.chance for mark in found.stages] == sorted(mark.chance for mark in found.stages)
    few = simulation(INSTALL, [("canary", 1), ("all", 1)])
    assert few is not None
    assert few.median is None, "one device is no evidence"
    half = simulation(INSTALL, [("half", 40)], 80)
    assert half is not None
    assert half.median != (simulation(INSTALL, [("half", 40)]) or half).median, "80 devices are no small stratum"
    assert simulation(INSTALL, []) is None
    assert simulation(INSTALL, [("all", 0)]) is None


@pytest.mark.parametrize(
    ("reason", "words"),
    [("waiting for 1 of 62 devices to take the release up", "1 of 62 devices has yet to take the release up"),
     ("waiting for 3 of 6 devices to install and prove the release", "3 of 6 devices have yet to install and prove the release"),
     ("no device has taken the release up yet", "no device has taken the release up yet")],
)  # fmt: skip
def test_a_wait_is_told_as_who_has_yet_to_do_what(reason: str, words: str) -> None:
    assert sentence_of(reason) == words


@pytest.mark.parametrize(
    ("back", "words"),
    [(WayBack(62, 0), "The other slot of each device still holds its previous release. Nothing to download."),
     (WayBack(4, 0, 0, 1), "1 ran no version of the model before and stops digits@2. Nothing to download."),
     (WayBack(3, 900, 2), "2 of 3 devices have to download their previous release."),
     (WayBack(0, 0), "No device has it: the rollout only ends."),
     (WayBack(9000), "its previous release; what it downloads for that is not known here.")],
)  # fmt: skip
def test_what_a_rollback_costs_is_said_before_it_is_done(back: WayBack, words: str) -> None:
    assert words in cost_of(back, "digits@2")


def test_what_a_rollback_costs_follows_the_spec() -> None:
    assert "Each of the 4 devices goes back to digits@1;" in cost_of(WayBack(4), "digits@2", "digits@1")
    assert cost_of(WayBack(4), "digits@2", "none").endswith("devices that run digits@2 keep it.")


def test_the_story_of_a_bad_release_and_its_replay(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    browser = fleet.browser(Role.VIEWER)
    page = browser.get(f"/rollouts/{bad}").text
    told = part_of(page, "decisions")
    assert "3 decisions, all shown here agree when made again" in told
    assert told.index("Stage canary stopped: 1 of 1 devices failed (nonfinite ×1)") < told.index(
        "Held: no device has taken"
    )
    assert "Evidence to stop 9.1 of 100" in told or "evidence to stop 9.1 of 100" in told
    assert "ann started the rollout" in told
    decisions = fleet.parts.rollout.reader.decisions(bad)
    first, last = decisions[-1].id, decisions[0].id
    assert f"/rollouts/{bad}?at={first}" in page
    replay = browser.get(f"/rollouts/{bad}?at={first}")
    assert replay.status_code == 200
    assert "Decision 1 of 3" in text_of(replay.text)
    assert 'rel="next" href' not in replay.text
    assert f"?at={decisions[1].id}" in replay.text
    assert "no device has taken the release up yet" in part_of(replay.text, "decision")
    assert "canary 2 per stratum Open 0 of 2 healthy" in part_of(replay.text, "pipeline")
    end = browser.get(f"/rollouts/{bad}?at={last}").text
    assert "canary 2 per stratum Stopped 1 of 2 failed" in part_of(end, "pipeline")
    assert "Evidence that more devices fail than allowed: 9.1 of 100 to stop" in part_of(end, "decision")
    assert "Comes out the same when it is made again" in part_of(end, "decision")
    assert 'hx-sse:connect="/live' not in end, "a past moment does not move"
    assert "has no such decision" in browser.get(f"/rollouts/{bad}?at=999999").text
    assert browser.get("/rollouts/r-none?at=1").status_code == 404
    signed_out = fleet.browser().get(f"/rollouts/{bad}?at={first}")
    assert signed_out.status_code == 303


def found_at(second: int, stratum: str, e_abort: float | None, verdict: str = "hold") -> DecisionView:
    """Return a decision with its evidence, so many seconds after NOW."""
    figures = {} if e_abort is None else {"e_abort": e_abort, "abort_at": 100.0}
    again = Recomputed(verdict, "", "", figures, 2)
    return DecisionView(
        second,
        NOW + timedelta(seconds=second),
        "canary",
        stratum,
        verdict,
        "",
        "",
        "",
        2,
        figures,
        {},
        "engine",
        again,
        True,
    )


def test_how_it_was_stopped_is_drawn_from_the_decisions() -> None:
    decisions = [
        found_at(9, "pi", 120.0, "roll_back"), found_at(0, "pi", 0.5), found_at(4, "pi", 12.0), found_at(4, "jetson", 0.8),
        found_at(5, "pi", None),
    ]  # fmt: skip
    happened = [
        Turn(NOW + timedelta(seconds=9), "rollback", "stopped", " b"),
        Turn(NOW, "deploy", "canary opened"),
        Turn(NOW + timedelta(seconds=40), "deploy", "too late to be seen"),
    ]
    chart = stop_chart(decisions, happened, NOW + timedelta(seconds=20))
    assert chart is not None
    begin = int(NOW.timestamp())
    assert list(chart.names) == ["pi", "jetson"], "the one with the most evidence first"
    assert chart.data == [[begin, begin + 4, begin + 9, begin + 20], [0.5, 12.0, 120.0, 120.0], [None, 0.8, 0.8, 0.8]]
    assert [(one.at, one.label) for one in chart.marks] == [(0.0, "canary opened"), (45.0, "stopped")]
    assert [(one.name, one.value) for one in chart.limits] == [("stops at", 100.0)]
    assert chart.drawing.is_log
    assert is_enough(chart)
    early = stop_chart(decisions[1:], happened, NOW)
    assert early is not None
    assert not is_enough(early)
    assert stop_chart(decisions[:1], happened, NOW) is None, "one moment is no course"


def test_a_label_stands_only_where_it_has_room() -> None:
    turns = [
        Turn(NOW + timedelta(seconds=at), "deploy", f"{name} opened", label=name)
        for at, name in ((6, "b"), (5, "canary"))
    ]
    begin = int(NOW.timestamp())
    marks = turn_marks([*turns, Turn(NOW, "rollback", "stopped", " b")], begin, begin + 10, 2.0)
    assert [(one.at, one.sign, one.title, one.label) for one in marks] == [
        (0.0, "▼", "stopped", "stopped"),
        (50.0, "◆", "canary opened", ""),
        (60.0, "◆", "b opened", "b"),
    ]


def test_what_went_back_begins_with_what_happened(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text
    head = part_of(page, "head")
    course = part_of(page, "stopped")
    assert "generic-x86_64-ort: latest 9.083, range 0.75 to 9.083" in course
    assert "The evidence alone was not enough yet: another rule or a person stopped it." in course
    assert "Never opened 1 device never got it" in part_of(page, "pipeline")
    assert part_of(fleet.browser(Role.VIEWER).get(f"/rollouts/{good}").text, "stopped") == ""
    assert "digits@1.2.0 was stopped automatically; devices go back" in head
    assert "1 of 1 devices failed (nonfinite ×1)" in head
    assert "Devices that ever ran it 1 of" in head
    assert "First failed device to the decision" in head


def test_a_device_that_never_took_it_up_is_not_counted_as_back(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES[-1:])
    one, *_rest = fleet.offered(rollout, devices)
    one.report(Phase.PROBATION)
    fleet.tick(seconds=2)
    fleet.parts.rollout.abort(rollout, "ann", "lunch", rollback=True)
    fleet.tick(seconds=2)
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{rollout}").text
    assert "1 device was sent back, not confirmed yet" in part_of(page, "waits")
    assert "0 of 1 confirmed that they are back." in part_of(page, "head")


def test_failed_leads_to_what_failed_and_not_to_what_was_sent_back(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text
    assert '<a href="#failures">Failed</a>' in page
    assert 'id="failures"' in page


def test_profiles_have_a_row_each_only_where_they_differ(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    view = fleet.parts.rollout.reader.rollout(good)
    differs = pipeline(view, NOW)
    assert differs.strata == (sorted([LITERT, ORT])), "one device of the one never took it up"
    alike = replace(
        view,
        stages=[
            replace(s, strata=[replace(c, counts=replace(c.counts, unreachable=0)) for c in s.strata])
            for s in view.stages
        ],
    )
    found = pipeline(alike, NOW)
    assert (found.strata, found.count) == ([], 2)
    assert [one.says for one in found.steps] == ["Passed"] * 3
    assert [(one.kind, one.icon) for one in found.steps] == [("done", "check")] * 3


def test_a_silent_device_is_no_yes_and_has_a_button(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    fleet.tick()
    quiet, _other = fleet.offered(rollout, devices)
    for device in fleet.offered(rollout, devices):
        device.report(Phase.PROBATION)
        device.report(Phase.COMMITTED)
    fleet.tick(seconds=4)
    assert part_of(browser.get(path).text, "flow").endswith(
        "Waiting 2 Installing 0 Silent 0 Soaking 2 Healthy 0 Failed 0"
    )
    quiet.connect(on=False)
    page = browser.get(path).text
    assert part_of(page, "flow").endswith("Waiting 2 Installing 0 Silent 1 Soaking 1 Healthy 0 Failed 0")
    told = part_of(page, "answer")
    assert "Not yet 1 device is silent, which never counts as good." in told
    assert "Safe to promote" not in told
    waits = part_of(page, "waits")
    assert f"{quiet.id} is silent" in waits
    assert "Ask now" in waits
    assert "1 silent" in part_of(page, "head")
    assert '<a href="#answer">Silent</a>' in page, "it is named there; the list knows states only"
    listed = browser.get(f"{path}?state=soaking").text
    assert '<option value="soaking" selected>soaking</option>' in listed, "the form says what is listed"


def test_states_that_a_person_made_are_no_failure_of_the_release(fleet: Fleet) -> None:
    small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    view = fleet.parts.rollout.reader.rollout(rollout)
    ended = replace(view, state="rolled_back", stopped_by="ann")
    assert state_of(ended) == ("off", "hand", "Rolled back by ann")
    failed = replace(ended, counts=replace(view.counts, failed=1))
    assert state_of(failed)[0] == "bad"
    assert answer(view, DeviceFlow()).kind == "run"
    assert (
        answer(replace(view, state="paused", reason="paused by ann: lunch"), DeviceFlow()).text
        == "Paused by ann: lunch."
    )


def test_what_passed_by_its_rule_is_safe_though_one_device_failed(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    first, *others = view.stages
    counts = replace(first.strata[0].counts, failed=1)
    cells = [replace(one, verdict="advance", reason="1 of 200 failed", counts=counts) for one in first.strata]

    def told(*strata: StratumView) -> str:
        stage = replace(first, state="judging", strata=strata)
        return answer(replace(view, stages=[stage, *others]), DeviceFlow(silent=1)).title

    assert told(*cells) == "Safe to promote"
    assert told(*cells, replace(cells[0], verdict=None)) == "Not safe to promote"
    going = replace(cells[0], verdict="hold", code="finishing", state="exposing", reason="enough is known to pass")
    assert told(going) == told(*cells, going) == "Safe to promote"
    assert told(going, replace(going, code="pending")) == "Not safe to promote"


def test_an_approval_is_asked_with_the_truth_about_what_was_before(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    waits = replace(view, state="awaiting_approval")
    assert answer(waits, DeviceFlow()).text.startswith("Everything before it passed, by its rules.")
    first, *others = view.stages
    by_word = replace(first, strata=[replace(one, strength="override") for one in first.strata])
    text = answer(replace(waits, stages=[by_word, *others]), DeviceFlow()).text
    assert "a person promoted a stage" in text


def test_nothing_is_counted_of_no_devices(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    first, *others = view.stages
    mute = [replace(one, counts=replace(one.counts, unreachable=one.members), e_abort=1.0) for one in first.strata]
    silent = replace(view, stages=[replace(first, strata=mute), *others])
    lane = pipeline(silent, NOW).steps[0].together
    assert (lane.count, lane.words, lane.good) == ("", f"{sum(one.members for one in mute)} silent", 0.0)
    failures = gate_panels(silent, "", None)[0]
    assert list(failures.says) == ["No device has accepted it."]
    young = replace(view, counts=replace(view.counts, exposed=3))
    assert (gate_panels(young, "", None)[0].kind, gate_panels(young, "", None)[0].word) == ("run", "None failed so far")


def test_devices_in_their_soak_have_it_and_are_not_called_zero_healthy(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    first, *others = view.stages

    def seen(state: str, **counts: int) -> tuple[str, str]:
        now = replace(first.strata[0].counts, members=4, **counts)
        stage = replace(first, state=state, strata=[replace(first.strata[0], state=state, members=4, counts=now)])
        shown = replace(view, stages=[replace(stage, counts=now), *others])
        lane = pipeline(shown, NOW).steps[0].together
        return f"{lane.count} {lane.words}", answer(shown, DeviceFlow()).text

    assert seen("soaking", exposed=4, pending=4)[0] == "4 of 4 have it"
    assert (
        seen("exposing", exposed=3, pending=3)[1]
        == "Devices still install it. 3 of 4 devices have it so far, none failed."
    )
    assert seen("exposing", exposed=3, healthy=1, pending=2) == (
        "3 of 4 have it",
        "Devices still install it. 3 of 4 devices have it, 1 through its soak so far, none failed.",
    )
    assert seen("passed", exposed=4, healthy=4)[0] == "4 of 4 healthy"
    assert seen("passed", exposed=4, pending=4)[0] == "4 of 4 have it", "a person let it pass before its soak was over"


def test_every_gate_of_the_spec_has_a_line_next_to_the_answer(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    plain = gate_lines(view, gate_panels(view, "1.0.0", None))
    assert [(one.title, one.word, one.at) for one in plain] == [
        ("Failures", "Nothing known yet", "#gate-failures-card"),
        ("Latency p95", "Not judged", "#gate-latency-card"),
    ]
    names = ("latency_p95_ms", "inference_error_rate", "drift")
    gates = {**view.spec["gates"], "quality": {"metrics": [{"name": name} for name in names]}}
    stage = view.stages[0]
    drift = replace(METRIC, name="drift", verdict="fail")
    judged = replace(
        view,
        spec={**view.spec, "gates": gates},
        stages=[replace(stage, strata=[replace(one, quality=[METRIC, drift]) for one in stage.strata])],
    )
    assert [(one.title, one.word) for one in gate_lines(judged, gate_panels(judged, "1.0.0", None))] == [
        ("Failures", "Nothing known yet"),
        ("Latency p95", "Not sure yet"),
        ("Error rate", "Nothing known yet"),
        ("Drift", "Beyond limit"),
    ]


def turn(before: str, to: str, **more: str) -> EventView:
    """Return an event of a rollout, of the moment of a decision."""
    detail = {"from": before, "to": to, "actor": "ann", **more}
    return EventView(1, "", NOW, NOW, "rollout", "rollout.changed", "digits", "r-1", detail)


@pytest.mark.parametrize(
    ("event", "title"),
    [(turn("validating", "running"), "ann started the rollout"),
     (turn("validating", "running", actor="engine"), "The server started the rollout"),
     (turn("paused", "running"), "Resumed by ann"),
     (turn("awaiting_approval", "running", reason="approved by bo"), "Goes on: approved by bo"),
     (turn("running", "finished", reason="every stage passed in every stratum"), "Finished: every stage passed in every stratum"),
     (turn("running", "finished", code="partial", reason="finished in 1 of 2 strata; it crashed"),
      "Finished in part: in 1 of 2 strata; it crashed"),
     (turn("running", "superseded", reason="r-2 began"), "Superseded: r-2 began"),
     (turn("running", "cancelled"), "Aborted")],
)  # fmt: skip
def test_a_turn_of_a_rollout_is_told_as_it_was(event: EventView, title: str) -> None:
    assert [one.title for one in told_story([], [event])] == [title]


def test_what_follows_from_a_decision_stands_above_it(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    newest = fleet.parts.rollout.reader.decisions(good)[0]
    ends = turn("running", "finished", reason="every stage passed in every stratum")
    told = told_story([newest], [replace(ends, at=newest.at)])
    assert [one.title.partition(":")[0] for one in told] == ["Finished", "Stage rest passed"]


METRIC = MetricView(
    name="latency_p95_ms", bound="non_inferior_rel", verdict="hold", code="", reason="", devices=4, missing=1, value=-3.0,
    low=-5.0, high=1.0, threshold=10.0, unit="%", confidence_low=0.99, confidence_high=0.95,
)  # fmt: skip


def lines(**figures: Any) -> MetricLine:
    """Return a line of two steps."""
    none: list[Any] = [None, None]
    given: dict[str, Any] = dict.fromkeys(("requests_per_s", "p50_ms", "p99_ms", "crashes", "timeouts"), none)
    return MetricLine(**given | {"classes": (), "nonfinite": [0, 0]} | figures)


def test_a_gate_shows_both_versions_its_limit_and_what_the_gate_says(fleet: Fleet) -> None:
    small(fleet)
    view = fleet.parts.rollout.reader.rollout(fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES))
    at = [NOW, NOW + timedelta(minutes=1)]
    new = lines(key="1.1.0", requests=[None, 100], errors=[None, 2], p95_ms=[None, 41.8])
    old = lines(key="1.0.0", requests=[90, 110], errors=[0, 1], p95_ms=[43.0, 40.0])
    timeline = Timeline(
        scope=Scope.MODEL, name="digits", by=LinesBy.VERSION, since=at[0], until=at[1], step_s=60, at=at, lines=[new, old],
        system={}, system_most={}, drift=[], marks=[],
    )  # fmt: skip
    failures, latency = gate_panels(view, "1.0.0", timeline)
    assert failures.chart is not None
    assert failures.chart.names == ["new 1.1.0", "old 1.0.0"]
    assert failures.chart.data[1:] == [[None, 2.0], [0.0, pytest.approx(0.9091)]]
    assert "2 of 100 answers failed on 1.1.0, 1 of 200 on 1.0.0." in failures.says
    assert (latency.word, latency.says, latency.chart and latency.chart.limits) == (
        "Not judged",
        ["The plan sets no limit for it."],
        (),
    )
    stage = view.stages[0]
    judged = replace(view, stages=[replace(stage, strata=[replace(one, quality=[METRIC]) for one in stage.strata])])
    chart = gate_panels(judged, "1.0.0", timeline)[1].chart
    assert chart is not None
    assert [one.value for one in chart.limits] == [44.0], "ten percent above the old one"
    assert chart.band is not None
    assert list(chart.band.high) == [pytest.approx(43.43), pytest.approx(40.4)]
    assert metric_words(METRIC)[0] == "Change per device: -3 % (between -5 and +1 %). Allowed: at most +10 %."
    assert gate_panels(view, "1.0.0", None)[1].says == ["No answers were measured yet."]
    assert failures.word == "Nothing known yet", "0 of 0 is not none failed"


def test_an_open_question_is_no_yes(fleet: Fleet) -> None:
    devices = small(fleet, 8)
    stages = [{"name": "canary", "size": {"count": 3}, "soak": "30s"}, *STAGES[1:]]
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=stages)
    first, *rest = fleet.offered(rollout, devices)
    for device in (first, *rest):
        device.report(Phase.PROBATION)
    fleet.tick(seconds=4)
    first.report(Phase.ROLLED_BACK, error_class=ErrorClass.CRASH, reason="it crashed", error_code="probation.crash")
    fleet.tick(seconds=4)
    page = fleet.browser(Role.OPERATOR).get(f"/rollouts/{rollout}").text
    assert "Not now A failure waits for confirmation by other devices." in part_of(page, "answer")
    assert "none of 2 drawn devices has answered" in part_of(page, "answer")


def test_the_report_has_everything_opened_and_no_buttons(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    page = fleet.browser(Role.OPERATOR).get(f"/rollouts/{good}?report").text
    assert '<details id="all-stages" open>' in page
    assert "/do/" not in page.partition("<main")[2].partition("</main>")[0]
    assert 'id="decide"' not in page


def test_the_story_folds_decisions_of_one_moment(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    decisions = fleet.parts.rollout.reader.decisions(good)
    told = told_story(decisions, [])
    assert len(told) < len(decisions), "two hardware profiles began to wait at once"
    assert sum(len(one.decisions) for one in told) == len(decisions)
    assert all(one.agrees for one in told)
    assert told[0].title == "Stage rest passed"


def test_a_rollout_that_ran_well_follows_its_devices_to_healthy(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES[-1:])
    for _ in range(3):
        follow(fleet, devices)
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{rollout}").text
    assert part_of(page, "flow").endswith("Healthy 4 Failed 0")
    assert "Replaces 1.0.0 on 4 devices. 4 have it, none failed." in part_of(page, "head")
    assert "What to do next Compare 1.1.0 with 1.0.0" in part_of(page, "answer")
