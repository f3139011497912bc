"""Every page for everyone: no violation of WCAG 2.2 AA that axe-core finds, in light and dark; nothing in the console; whole at 360 px.

A page is loaded once as a desk has it, once as a phone does, and once without scripts: only what differs between looks is loaded anew.
Screenshots of all pages lie in `build/screenshots` afterwards, for whoever wants to look at them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.looking import Windows
from tests.server.dashboard.serving import served
from tests.support.browsers import binary, browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(binary() is None, reason="Chromium is not installed")]

PAGES = (
    "/", "/devices", "/devices?selector=status%3Doffline", "/devices/{device}", "/groups", "/groups/berlin", "/enrolment",
    "/models", "/models/digits", "/models/digits/1.1.0", "/models/digits/compare?a=1.0.0&b=1.1.0",
    "/rollouts", "/rollouts/new", "/rollouts/new?release=digits@1.1.0&step=devices&who=all",
    "/rollouts/new?release=digits@1.1.0&who=all&step=how", "/rollouts/new?release=digits@1.1.0&who=all&step=review",
    "/rollouts/{good}", "/rollouts/{bad}", "/experiments", "/alerts", "/events", "/bundles", "/profiles",
    "/profiles/generic-x86_64-ort", "/audit", "/settings", "/devices/nobody", "/find?q=cam", "/login",
)  # fmt: skip


class House:
    """A served fleet with a story, and windows that show it."""

    def __init__(self, fleet: Fleet, windows: Windows) -> None:
        good, bad = staged(fleet)
        device = fleet.parts.rollout.reader.devices(bad)[0].device
        fleet.house.client(Role.ADMIN).post("/api/v1/groups", json={"name": "berlin", "selector": "site=hall"})
        self.names = {"good": good, "bad": bad, "device": device}
        self.windows = windows


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for all tests of this file."""
    fleet = Fleet(tmp_path_factory.mktemp("axe") / "server")
    with served(fleet.house.app) as url, browser() as chromium:
        windows = Windows(fleet, url, chromium)
        yield House(fleet, windows)
        windows.close()
    fleet.close()


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shuts_anybody_out(house: House, page: str) -> None:
    house.windows.look_at_the_desk(page.format(**house.names), page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_a_phone(house: House, page: str) -> None:
    house.windows.look_at_the_phone(page.format(**house.names), page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_without_scripts(house: House, page: str) -> None:
    house.windows.look_without_scripts(page.format(**house.names))
