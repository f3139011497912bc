"""Drift over the fleet: which models, signals and sites drift, the worst first; and that what nobody judged is not called calm."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgefleet_server.dashboard.drift.site_matrix import MOST_SIGNALS, MOST_SITES, Judged, fleet_grid, judging_order
from edgefleet_server.telemetry.drift.views import DriftReference, DriftWord, ModelDrift, SignalDrift, SiteDrift


def signal(name: str, state: str = "same", psi: float = 0.01) -> SignalDrift:
    return SignalDrift(
        name=name, kind="numeric", state=state, where="site" if state == "drift" else "nowhere", place="", also=[], said="", moved=0,
        devices=4, psi=psi, shift=None, mean_before=None, mean_after=None, spread=None, missing=0, missing_before=0, beyond=0,
        log10_p=0, bins=[], before=[], after=[], history=[], named=[],
    )  # fmt: skip


def model(name: str, signals: Sequence[SignalDrift], state: str = "", **more: Any) -> ModelDrift:
    drifts = any(one.state == "drift" for one in signals)
    made = ModelDrift(
        model=name, version="1.0.0", release=f"{name}@1.0.0", scale="1h", state=state or ("drift" if drifts else "same"),
        kind="data" if drifts else "none", said=f"What is said of {name}.", since=None, until=None, is_old=False, devices=8, judged=8,
        learned=0, answers=100, reference=DriftReference("reference", 10), versions=[], signals=signals, words=[],
    )  # fmt: skip
    return replace(made, **more)


CALM = (model("calm", [signal("a")]), [[SiteDrift("berlin", 4, 0, 0.004), SiteDrift("lyon", 4, 0, 0.03)]])
WARM = (
    model("warm", [signal("t", "drift", 0.4), signal("p")]),
    [[SiteDrift("berlin", 4, 0, 0.01), SiteDrift("lyon", 4, 3, 0.4)], [SiteDrift("lyon", 4, 0, 0.002)]],
)


def test_the_worst_comes_first() -> None:
    grid = fleet_grid([CALM, WARM], ["quiet"])
    assert (grid.kind, grid.title) == ("bad", "1 of 2 models drifts, most at site lyon")
    assert grid.lead == "What is said of warm."
    assert [one.view.model for one in grid.models] == ["warm", "calm"]
    assert list(grid.sites) == ["lyon", "berlin"]
    assert [(one.site, one.selector, list(one.what), one.moved, one.devices) for one in grid.lines] == [
        ("lyon", "site=lyon", [("warm", "t")], 3, 4)
    ]
    cells = grid.models[0].rows[0].cells
    assert [(one.word, one.step, one.drifts) for one in cells] == [("drifts", 4, True), ("as before", 0, False)]
    assert grid.models[0].rows[1].cells[1].word == "nothing"


def test_a_large_effect_that_is_not_sure_is_not_called_as_before() -> None:
    effects = (0.0, 0.09, 0.1, 1.86)
    lone = (model("lone", [signal("a")]), [[SiteDrift(f"s{n}", 1, 0, psi) for n, psi in enumerate(effects)]])
    cells = {one.site: one.word for one in fleet_grid([lone]).models[0].rows[0].cells}
    assert cells == {"s0": "as before", "s1": "as before", "s2": "not sure", "s3": "not sure"}


def test_what_was_not_judged_is_not_called_calm() -> None:
    unknown: Judged = (model("dumb", [], "no_reference", judged=0), [])
    assert fleet_grid([]).kind == "off"
    assert fleet_grid([unknown]).title == "Drift cannot be judged yet"
    grid = fleet_grid([CALM, unknown])
    assert grid.kind == "ok"
    assert "Nothing can be said of 1 more" in grid.lead
    assert fleet_grid([CALM]).title == "calm does not drift"


def test_what_was_judged_long_ago_is_not_called_calm() -> None:
    old: Judged = (replace(CALM[0], model="old", is_old=True), CALM[1])
    grid = fleet_grid([old])
    assert (grid.kind, grid.title) == ("off", "Drift was not judged lately")
    grid = fleet_grid([CALM, old])
    assert (grid.kind, grid.title) == ("ok", "No judged model drifts")
    assert grid.lead.startswith("calm: inputs")
    assert "Nothing can be said of 1 more" in grid.lead


def test_a_device_that_runs_several_models_is_not_counted_for_each() -> None:
    two = fleet_grid([CALM, (replace(CALM[0], model="cold", judged=5), CALM[1])])
    assert two.lead == "calm, cold: inputs and answers are as before on the devices that were judged, up to 8 a model."
    one = fleet_grid([(replace(CALM[0], judged=1), CALM[1])])
    assert one.lead == "calm: inputs and answers are as before on the 1 device that was judged."


def test_a_device_that_says_so_counts_where_nothing_is_measured() -> None:
    word = DriftWord("d-1", "", "dumb", "1.0.0", "t", "numeric", "1h", 0.4, 1.0, None)  # type: ignore[arg-type]
    grid = fleet_grid([(model("dumb", [], "no_reference", words=[word]), [])])
    assert (grid.kind, grid.title) == ("bad", "dumb drifts")
    assert grid.lead.startswith("1 device reports drift of dumb.")


def test_many_sites_and_signals_are_cut_and_counted() -> None:
    sites = [SiteDrift(f"s{n:02}", 1, 0, n / 1000) for n in range(MOST_SITES + 5)]
    signals = [signal(f"x{n}") for n in range(MOST_SIGNALS + 2)]
    grid = fleet_grid([(model("wide", signals), [sites for _ in signals])])
    assert (len(grid.sites), grid.more_sites) == (MOST_SITES, 5)
    assert grid.sites[0] == "s12"
    assert (len(grid.models[0].rows), grid.models[0].more) == (MOST_SIGNALS, 2)


def test_a_site_without_a_column_still_counts_where_it_drifts() -> None:
    loud = [SiteDrift(f"s{n}", 4, 4, 0.5) for n in range(MOST_SITES)]
    grid = fleet_grid(
        [(model("two", [signal("a", "drift"), signal("b", "drift")]), [loud, [SiteDrift("z", 4, 4, 0.3)]])]
    )
    assert (list(grid.sites), grid.more_sites) == ([one.site for one in loud], 1)
    assert [row.hidden for row in grid.models[0].rows] == [0, 1]


def test_what_drifted_last_is_judged_first() -> None:
    assert judging_order(["b", "a", "c"], ["c", "gone"], 2) == ["c", "a"]
