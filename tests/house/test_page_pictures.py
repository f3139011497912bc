"""Pictures of all pages: none is forgotten, the same page has the same name in two states, and the sheet shows both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from tests.house.page_pictures import DETAILS, SCHEMES, WIDTHS, Walk, kind_of, name_of, places, sheet, shown_in, take
from tests.house.tree import ROOT
from tests.server.dashboard import test_axe, test_registry_browser
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary

NO_PAGES = {
    "/static/{}",
    "/models/{}/{}/card/{}.png",
    "/find/list",
    "/models/{}/{}/report",
    "/help/{}",
    "/bundles/requests/{}",
}
"""Files, pictures, parts of pages, a document, a file to be carried, and the documentation, which is a site of its own."""
_ROUTE = re.compile(r'@router\.get\(\s*"([^"]+)",\s*operation_id="show_')


def routes() -> Iterator[str]:
    """Yield the pages of the dashboard, with `{}` for their parameters."""
    for file in (ROOT / "server/edgefleet_server/dashboard").rglob("*.py"):
        yield from (re.sub(r"\{[^}]+\}", "{}", path) for path in _ROUTE.findall(file.read_text("utf-8")))


def test_of_every_page_pictures_are_taken() -> None:
    taken = {path.partition("?")[0] for path in places()} | DETAILS.keys()
    assert set(routes()) - taken - NO_PAGES == set()


def test_every_page_is_looked_at_with_axe() -> None:
    every = set(routes())
    looked_at = {path.partition("?")[0] for path in (*test_axe.PAGES, *test_axe.OTHERS, *test_registry_browser.PAGES)}
    seen = {path if path in every else kind_of(path) for path in looked_at}
    assert every - seen - NO_PAGES - {"/docs"} == set()  # Swagger UI brings that one


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/rollouts/r-1", "/rollouts/{}"),
        ("/models/digits/1.0.0", "/models/{}/{}"),
        ("/models/digits/compare?a=1.0.0&b=1.1.0", "/models/{}/compare"),
        ("/models/digits/drift/classes", "/models/{}/drift/{}"),
        ("/static/components.css", None),
        ("/devices", None),
    ],
)
def test_a_link_is_of_the_kind_that_names_most_of_it(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_names_do_not_depend_on_what_a_page_is_about() -> None:
    assert name_of("/") == "overview"
    assert name_of("/devices/d-7f", "/devices/{}", 2) == "devices-one-2"
    names = [name for name, _path in Walk()]
    assert len(names) == len(set(names))


def test_links_are_followed_once_and_of_each_kind_a_few() -> None:
    walk = Walk()
    before = len(list(walk))
    assert before == len(places())
    walk.follow(
        '<a href="/slos/a&amp;b">a</a> <a href="/slos/c"> <a href="/rollouts/new?step=how"> <a href="/rollouts/r-1?x=1">'
    )
    walk.follow('<a href="/rollouts/r-1"> <a href="https://elsewhere.example/devices/d-1">')
    assert list(walk) == [("slos-one", "/slos/a&b"), ("rollouts-one", "/rollouts/r-1?x=1")]


@pytest.mark.slow
@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_a_sheet_shows_two_states_of_a_page(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    before, after, page = tmp_path / "before", tmp_path / "after", tmp_path / "sheet.html"
    with served(fleet.house.own_app()) as url:
        shown = take(url + link_of(fleet, Role.ADMIN), before, Walk("^glossary$", ["/glossary"]))
    fleet.close()
    assert [one.name for one in shown] == ["glossary"]
    assert {one.status for one in shown} == {200}
    assert not any(one.said or one.wide for one in shown)
    pictures = {f"{name}-{width}-{scheme}.png" for name in shown_in(before) for width in WIDTHS for scheme in SCHEMES}
    assert pictures == {path.name for path in before.glob("*.png")}
    after.mkdir()
    (after / "pages.json").write_text("[]")
    assert sheet(before, after, page) == 1
    text = page.read_text()
    assert all(f'src="before/{picture}"' in text for picture in pictures)
    assert text.count("no such page") == len(pictures) + 1
