"""Pictures of the pages for the documentation: `./dev run python -m tests.house.pictures` makes `docs/pictures/*.png` anew.

The story is that of the page tests: a good rollout, and one whose release answers NaN. Not compared by a test: a browser's next version
draws text a little differently.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import browser

FOLDER = ROOT / "docs" / "pictures"


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder) / "server")
        good, bad = staged(fleet)
        device = fleet.parts.rollout.reader.devices(bad)[0].device
        pages = {"overview": "/", "rollout": f"/rollouts/{bad}", "device": f"/devices/{device}", "devices": "/devices"}
        with served(fleet.house.app) as url, browser() as chromium:
            context = chromium.new_context(viewport={"width": 1280, "height": 860})
            page = context.new_page()
            page.goto(url + link_of(fleet, Role.OPERATOR))
            page.click("form button")
            for name, path in pages.items():
                page.goto(url + path, wait_until="load")
                page.screenshot(path=FOLDER / f"{name}.png")
            context.close()
        assert good != bad
        fleet.close()


if __name__ == "__main__":
    main()
