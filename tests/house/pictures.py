"""Pictures of the pages for the documentation: `./dev run python -m tests.house.pictures` makes `docs/pictures/*.png`, light and dark.

The stories are those of the page tests: a good rollout, and one whose release answers NaN; a shadow beside what serves; devices that
wait to be let in. A test makes them all in a folder of its own; the pixels are not compared, for a browser's next version draws text a
little differently.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_enrolment_page import crowd
from tests.server.dashboard.test_experiment_pages import FIGURES, SHADOW, tell, trying
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import browser

FOLDER = ROOT / "docs" / "pictures"
ENDINGS: dict[Literal["light", "dark"], str] = {"light": "", "dark": "-dark"}
"""Of the names of files, by the colours of the page. The documentation site shows the one that fits (`docs_nodes`)."""
SETTLE_MS = 300
"""Charts are drawn after the page is there."""
NEW = "/rollouts/new?step=review&release=digits@1.1.0&who=selector&selector=site=hall&strategy=canary"


def make(folder: Path) -> None:
    """Make all pictures in `folder`. Raises AssertionError where a page is not there."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        _rollouts(Path(place), chromium, folder)
        _trial(Path(place), chromium, folder)


def _rollouts(place: Path, chromium: Browser, folder: Path) -> None:
    """A good rollout and a bad one, and the form of a new one."""
    fleet = Fleet(place / "rollouts")
    good, bad = staged(fleet)
    assert good != bad
    device = fleet.parts.rollout.reader.devices(bad)[0].device
    pages = {"overview": "/", "rollout": f"/rollouts/{bad}", "device": f"/devices/{device}", "devices": "/devices"}
    _look(fleet, chromium, folder, {**pages, "new-rollout": NEW})
    fleet.close()


def _trial(place: Path, chromium: Browser, folder: Path) -> None:
    """A shadow beside what serves, and devices that wait."""
    fleet = Fleet(place / "trial")
    rollout, devices = trying(fleet, SHADOW)
    tell(fleet, devices, shadow=FIGURES)
    crowd(fleet, 3)
    _look(fleet, chromium, folder, {"experiment": f"/experiments/{rollout}", "enrolment": "/enrolment"})
    fleet.close()


def _look(fleet: Fleet, chromium: Browser, folder: Path, pages: Mapping[str, str]) -> None:
    with served(fleet.house.own_app()) as url:
        context = chromium.new_context(viewport={"width": 1280, "height": 860})
        page = context.new_page()
        page.goto(url + link_of(fleet, Role.OPERATOR))
        page.click("form button")
        for name, path in pages.items():
            answer = page.goto(url + path, wait_until="load")
            assert answer is not None
            assert answer.status == 200, f"{path}: {answer.status}"
            for scheme, ending in ENDINGS.items():
                page.emulate_media(color_scheme=scheme)
                page.wait_for_timeout(SETTLE_MS)
                _keep(page.screenshot(), folder / f"{name}{ending}.png")
        context.close()


def _keep(picture: bytes, file: Path) -> None:
    """Write a picture in 256 colours: pages have few, and the file has a third of the bytes."""
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    """Make all pictures of the documentation."""
    make(FOLDER)


if __name__ == "__main__":
    main()
