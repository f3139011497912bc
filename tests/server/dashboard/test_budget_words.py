"""Objectives in words, and the file that pickers write: it is one that the server takes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.objectives.budget_words import (
    METRICS,
    Choice,
    burn_chart,
    burn_text,
    document_of,
    headline,
)
from edgefleet_server.objectives.error_budget import Counts, largest_uses
from edgefleet_server.objectives.model import BudgetPoint, BudgetState, BurnView, Indicator, SloView
from edgefleet_server.objectives.openslo import parsed
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.test_pages import text_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def burn(long: float | None, short: float | None, *, factor: float = 14.4, long_s: int = 3600) -> BurnView:
    return BurnView(long_s, 300, factor, True, long, short, 9, 100, True, "calm")


def slo(state: BudgetState = BudgetState.OK, left: float | None = 0.8, **more: Any) -> SloView:
    made = SloView(
        name="fast", model="digits", title="Fast", description="", indicator=Indicator.LATENCY, says="99 % of answers within 100 ms",
        threshold=100, counted_at=100, target=0.99, window_s=28 * 86_400, where={}, state=state, left=left, good=90, total=100, since=NOW,
        looked_at=NOW, burns=[burn(0.5, 0.4)], created_at=NOW, created_by="a", changed_at=NOW, changed_by="a",
    )  # fmt: skip
    return replace(made, **more)


UNKNOWN = slo(BudgetState.NO_DATA, None, title="Silent", burns=[])


@pytest.mark.parametrize(
    ("slos", "kind", "title"),
    [
        ([], "off", "No model has an objective yet"),
        ([UNKNOWN], "off", "Nothing was counted yet"),
        ([slo()], "ok", "Fast is kept"),
        ([slo(), slo()], "ok", "All 2 objectives are kept"),
        ([slo(), UNKNOWN], "ok", "1 of 2 objectives are kept"),
        ([slo(BudgetState.SLOW_BURN), slo()], "warn", "Fast burns its budget faster than it may"),
        ([slo(BudgetState.SPENT, -0.2), slo(BudgetState.SLOW_BURN), slo()], "bad", "2 of 3 objectives are not kept or will not last"),
    ],
)  # fmt: skip
def test_the_page_begins_with_a_sentence(slos: list[SloView], kind: str, title: str) -> None:
    assert headline(slos)[:2] == (kind, title)
    if any(one.state is BudgetState.NO_DATA for one in slos) and kind == "ok":
        assert "nothing is said of it" in headline(slos)[2]


@pytest.mark.parametrize(
    ("burns", "said"),
    [
        ([], "Nothing was counted lately."),
        ([burn(None, 3)], "Nothing was counted lately."),
        ([burn(0, 0)], "Nothing fails now."),
        ([burn(0.5, 0.4)], "Burns 0.4× as fast as it may: the budget lasts."),
        ([burn(1, 1), burn(7, 9, factor=6, long_s=6 * 3600)],
         "Burns 7× as fast as it may over the last 6 h: a whole budget would last 4 days."),
        ([replace(burn(16, 16), state="burning"), burn(2, 4, factor=1, long_s=3 * 86_400)],
         "Burns 16× as fast as it may over the last 1 h: a whole budget would last 2 days."),
        ([burn(60, 60)], "Burns 60× as fast as it may over the last 1 h: a whole budget would last hours."),
    ],
)  # fmt: skip
def test_a_burn_is_said_in_words(burns: list[BurnView], said: str) -> None:
    assert burn_text(slo(burns=burns)) == said


def test_several_objectives_without_events_are_said_of_as_several() -> None:
    assert headline([slo(), UNKNOWN, UNKNOWN])[2].endswith(
        "2 objectives had no events in the window, so nothing is said of them."
    )


@pytest.mark.parametrize("typed", ["nan", "inf", "-inf", "1e999", "many", ""])
def test_a_limit_that_is_no_number_is_the_usual_one(typed: str) -> None:
    assert Choice("digits", "latency_ms", typed).limit == 100


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_picked_is_a_file_that_the_server_takes(metric: str) -> None:
    choice = Choice("digits.v2", metric, "", "0.995", "7d", "lyon")
    found = parsed(document_of(choice))
    assert (found.name, found.model, found.indicator.value) == (choice.name, "digits.v2", metric)
    assert (found.target, found.window_s, found.where) == (
        0.995,
        7 * 86_400,
        () if metric == "accuracy" else (("site", "lyon"),),
    )
    assert (found.threshold is not None) == bool(choice.unit)


def test_the_burn_of_a_step_is_its_bad_share_over_what_may_be() -> None:
    points = [
        BudgetPoint(NOW + timedelta(hours=n), 1.0, good, total) for n, (good, total) in enumerate([(0, 0), (98, 100)])
    ]
    chart = burn_chart(points, 0.01)
    assert chart is not None
    assert chart.data[1] == [None, 2.0]
    assert burn_chart(points[:1], 0.01) is None


def test_the_largest_uses_have_their_share_of_all_that_was_bad() -> None:
    found = largest_uses({"a": Counts(9, 10), "b": Counts(7, 10), "c": Counts(5, 5)}, 1)
    assert found == [("b", Counts(7, 10), 0.75)]
    assert largest_uses({}, 5) == []


def test_an_objective_is_set_from_what_was_picked(fleet: Fleet) -> None:
    browser = fleet.browser(Role.OPERATOR)
    assert "No model yet" in text_of(browser.get("/slos/new").text)
    assert "No objective yet" in text_of(browser.get("/slos").text)
    empty = browser.get("/drift").text
    assert "There is no model to judge yet" in text_of(empty)
    assert "edgectl publish MODEL" in empty
    fleet.release("digits@1.0.0", ORT)
    page = browser.get("/slos/new?model=digits&metric=latency_ms&threshold=80&target=0.9").text
    assert send(browser, form(page, "/do/put_slo"), {}).status_code == 303
    (set_,) = fleet.parts.objectives.slos()
    assert (set_.name, set_.threshold, set_.target) == ("digits-latency", 80, 0.9)
    assert "Nothing was counted yet" in text_of(browser.get("/slos").text)
    assert "Nothing was counted in the window." in text_of(browser.get("/slos/digits-latency").text)
