"""Drift over the fleet as a grid: a row a signal of a model, a column a site, and what all of it says in a sentence. Pure.

Rules:
1. A cell says in a word how the signal is at the site; its shade is the effect (PSI) in steps, and only repeats what word and figure say.
2. Sites come worst first: where most signals drift, then with the largest effect. At most MOST_SITES have a column.
3. What nobody could judge, or not lately, is never called calm: without figures the page says so, and what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.telemetry.drift.views import ModelDrift, SignalDrift, SiteDrift

MOST_SITES: Final = 8
MOST_SIGNALS: Final = 6
STEPS: Final = (0.02, 0.05, 0.1, 0.25)
"""Effects (PSI) from which on a cell is one shade stronger."""
UNSURE: Final = 3
"""The shade from which on nothing is called as before."""
NO_SITE: Final = "no site"
DRIFT: Final = "drift"
_CALM_WORDS: Final[Mapping[str, str]] = {"few": "too few", "small": "small"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A signal at a site. word: drifts, as before, not sure, small, too few or nothing; step: its shade, 0 to 4.

    Not sure: it differs as much as drift does, but no device for sure.
    """

    site: str
    word: str
    psi: float = 0.0
    devices: int = 0
    moved: int = 0
    step: int = 0

    @property
    def drifts(self) -> bool:
        """Say whether devices moved here, by a signal that drifts."""
        return self.word == "drifts"


@dataclass(frozen=True, slots=True)
class SignalRow:
    """A signal with its cells, in the order of the columns. hidden: sites without a column where it drifts."""

    signal: SignalDrift
    cells: Sequence[Cell]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class ModelGrid:
    """A model with its signals, what drifts first. more: signals that are left out; words: devices that report drift themselves."""

    view: ModelDrift
    rows: Sequence[SignalRow]
    more: int
    words: int

    @property
    def drifts(self) -> bool:
        """Say whether it drifts, by the server's figures or by a device's own."""
        return self.view.state == DRIFT or self.words > 0

    @property
    def is_known(self) -> bool:
        """Say whether the server judged it, and by figures of now."""
        return self.view.state == DRIFT or (self.view.state == "same" and not self.view.is_old)


@dataclass(frozen=True, slots=True)
class SiteLine:
    """A site where something drifts. what: model and signal; moved of devices: the most of any of these signals."""

    site: str
    what: Sequence[tuple[str, str]]
    moved: int
    devices: int
    psi: float

    @property
    def selector(self) -> str:
        """The selector of its devices, "" for those without a site."""
        return f"site={self.site}" if self.site else ""


@dataclass(frozen=True, slots=True)
class FleetGrid:
    """The page. kind: bad, ok or off; sites: the columns; more_sites: without one; models: what drifts first; quiet: not judged here."""

    kind: str
    title: str
    lead: str
    sites: Sequence[str]
    more_sites: int
    models: Sequence[ModelGrid]
    lines: Sequence[SiteLine]
    quiet: Sequence[str]


Judged = tuple[ModelDrift, Sequence[Sequence[SiteDrift]]]
"""A model, and of each of its signals how it is at each site."""


def fleet_grid(judged: Sequence[Judged], quiet: Sequence[str] = ()) -> FleetGrid:
    """Return the page of the models that were judged. quiet: names of others, which nothing is said of here."""
    cells = {
        (view.model, signal.name): {one.site: _cell(signal, one) for one in sites}
        for view, by_signal in judged
        for signal, sites in zip(view.signals, by_signal, strict=True)
    }
    lines = _site_lines(cells)
    order = _site_order(cells)
    shown = order[:MOST_SITES]
    grids = [_model_grid(view, cells, order) for view, _ in judged]
    grids.sort(key=lambda one: (not one.drifts, -_strongest(one.view), one.view.model))
    kind, title, lead = said(grids, lines)
    return FleetGrid(kind, title, lead, shown, len(order) - len(shown), grids, lines, sorted(quiet))


def said(models: Sequence[ModelGrid], lines: Sequence[SiteLine]) -> tuple[str, str, str]:
    """Return the colour, the sentence, and what stands below it."""
    drifting = [one for one in models if one.drifts]
    known = [one for one in models if one.is_known]
    unknown = len([one for one in models if not one.drifts and not one.is_known])
    rest = f" Nothing can be said of {unknown} more: see below." if unknown else ""
    if drifting:
        first = drifting[0]
        where = f", most at {place_text(lines[0].site)}" if lines else ""
        some = f"{len(drifting)} of {len(models)} models drift{'s' if len(drifting) == 1 else ''}"
        title = f"{first.view.model} drifts{where}" if len(models) == 1 else f"{some}{where}"
        if first.view.state == DRIFT:
            return "bad", title, f"{first.view.said}{rest}"
        reports = "1 device reports" if first.words == 1 else f"{first.words} devices report"
        return "bad", title, f"{reports} drift of {first.view.model}. {first.view.said}{rest}"
    if known:
        most = max(one.view.judged for one in known)
        where = f"the {most} devices that were judged" if most != 1 else "the 1 device that was judged"
        if len(known) > 1:
            where = f"the devices that were judged, up to {most} a model"
        names = ", ".join(one.view.model for one in known[:3]) + (" and others" if len(known) > 3 else "")
        title = f"{names} does not drift" if len(models) == 1 else "No judged model drifts"
        return (
            "ok",
            title,
            f"{names}: inputs and answers are as before on {where}.{rest}",
        )
    if any(one.view.is_old for one in models):
        return (
            "off",
            "Drift was not judged lately",
            "No new figures came: nothing is known of how inputs and answers are now.",
        )
    if models:
        return "off", "Drift cannot be judged yet", models[0].view.said
    return (
        "off",
        "There is no model to judge yet",
        "Publish one with reference data, and devices say how far inputs moved.",
    )


def place_text(site: str) -> str:
    """Return a site in words."""
    return f"site {site}" if site else "devices without a site"


def judging_order(names: Sequence[str], drifting: Sequence[str], most: int) -> list[str]:
    """Return the models to judge for one page: those that drifted when they were judged last, then the others by name."""
    first = [one for one in drifting if one in names]
    return [*dict.fromkeys([*first, *sorted(names)])][:most]


def _cell(signal: SignalDrift, one: SiteDrift) -> Cell:
    step = sum(one.psi >= least for least in STEPS)
    word = _CALM_WORDS.get(signal.state, "as before" if step < UNSURE else "not sure")
    if signal.state == DRIFT and one.moved:
        word = "drifts"
    return Cell(one.site, word, one.psi, one.devices, one.moved, step)


Cells = Mapping[tuple[str, str], Mapping[str, Cell]]


def _site_order(cells: Cells) -> list[str]:
    sites = {site for row in cells.values() for site in row}
    return sorted(
        sites,
        key=lambda site: (
            -sum(row[site].drifts for row in cells.values() if site in row),
            -max(row[site].psi for row in cells.values() if site in row),
            site == "",
            site,
        ),
    )


def _site_lines(cells: Cells) -> list[SiteLine]:
    found = []
    for site in _site_order(cells):
        mine = {what: row[site] for what, row in cells.items() if site in row and row[site].drifts}
        if mine:
            most = max(mine.values(), key=lambda one: (one.moved, one.psi))
            what = sorted(mine, key=lambda one: -mine[one].psi)
            found.append(SiteLine(site, what, most.moved, most.devices, max(one.psi for one in mine.values())))
    return found


def _model_grid(view: ModelDrift, cells: Cells, order: Sequence[str]) -> ModelGrid:
    rows = []
    for one in view.signals[:MOST_SIGNALS]:
        mine = cells.get((view.model, one.name), {})
        hidden = sum(mine[site].drifts for site in order[MOST_SITES:] if site in mine)
        rows.append(SignalRow(one, [mine.get(site, Cell(site, "nothing")) for site in order[:MOST_SITES]], hidden))
    return ModelGrid(view, rows, len(view.signals) - len(rows), len({one.device for one in view.words}))


def _strongest(view: ModelDrift) -> float:
    return max((one.psi for one in view.signals if one.state == DRIFT), default=0.0)
