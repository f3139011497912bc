"""Pictures of every page of a running server, and a sheet that shows two states of them next to each other.

    ./dev demo --devices 4 --data DEMO                                     # in another terminal
    ./dev run python -m tests.house.page_pictures fill DEMO                # objectives, groups and others: fuller pages
    ./dev run python -m tests.house.page_pictures take DEMO before         # or: take ONE-TIME-SIGN-IN-LINK before
    ./dev run python -m tests.house.page_pictures sheet before after sheet.html

`take` opens the places of the navigation, then what their links lead to: of each kind of page an example or two (`DETAILS`, to which a
test holds the routes of the dashboard). Each page is taken light and dark at a desk's and at a phone's width. What the console said,
and pages that are wider than their window, are kept with the pictures and shown on the sheet.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page

from edgefleet_server.dashboard.core.navigation import ACTIONS, NAVIGATION, PARTS, Place
from tests.support.browsers import browser

WIDTHS = {1280: 800, 360: 740}
"""Widths of windows, with their heights."""
SCHEMES = ("light", "dark")
TALLEST = 5000
"""Longer pages are cut off below: a list of a thousand rows looks like one of fifty."""
INDEX = "pages.json"
DETAILS = {
    "/devices/{}": 2,
    "/devices/{}/predictions": 1,
    "/models/{}": 1,
    "/models/{}/{}": 2,
    "/models/{}/{}/card": 1,
    "/models/{}/accuracy": 1,
    "/models/{}/compare": 1,
    "/models/{}/drift": 1,
    "/models/{}/drift/{}": 1,
    "/models/{}/latency": 1,
    "/rollouts/{}": 3,
    "/experiments/{}": 1,
    "/alerts/{}": 1,
    "/settings/contacts/{}": 1,
    "/slos/{}": 1,
    "/retraining/{}": 3,
    "/retraining/triggers/{}": 1,
    "/groups/{}": 1,
    "/bundles/{}": 1,
    "/profiles/{}": 1,
    "/settings/webhooks/{}": 1,
    "/settings/webhooks/{}/deliveries/{}": 1,
}
"""Pages about one thing, with how many of each are taken. A `{}` stands for one part of an address; words go before it."""
OTHERS = (
    "/fleet",
    "/fleet/bulk?do=label&all=1&selector=demo%3Dyes",
    "/find?q=cam",
    "/rollouts/new?release=digits@1.1.0&step=devices&who=all",
    "/rollouts/new?release=digits@1.1.0&step=how&who=all",
    "/rollouts/new?release=digits@1.1.0&step=review&who=all",
    "/rollouts/undo?name=digits",
    "/devices/nobody",
    "/login",
    "/invitation",
    "/settings/account",
    "/docs",
)
"""Pages that no menu names. Their examples are of `edgectl demo`."""
OBJECTIVE = """apiVersion: openslo/v1
kind: SLO
metadata: {name: digits-fast}
spec:
  service: digits
  indicator:
    spec: {thresholdMetric: {metricSource: {type: edgefleet, spec: {metric: latency_ms}}}}
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{op: lte, value: 100, target: 0.99}]
"""
FILLING = (
    "group create cameras -l demo=yes",
    "alert silence create --match rule=device_offline --for 2h --comment maintenance",
    "predictions keep digits",
    "device enroll --count 2 --label site=hall",
    "slo set -f {slo}",
    "rollout create digits@1.0.0 --to demo=yes --strategy shadow",
    "trigger create fog --model digits --on drift",
    "retrain start fog --reason fog",
)
"""What `fill` does at a demo, as commands: each makes a page that is empty without it."""
_LINK = re.compile(r'href="(/[^"#]*)')


@dataclass(frozen=True, slots=True)
class Shown:
    """A page of which pictures were taken. name: of its files. said: by its console. wide: windows that it did not fit into."""

    name: str
    path: str
    title: str
    status: int
    said: tuple[str, ...] = ()
    wide: tuple[int, ...] = ()


def places() -> list[str]:
    """Return the addresses that the navigation and the search box offer, without parts of pages, switches and the documentation."""
    every: Iterable[Place] = (*NAVIGATION, *PARTS, *ACTIONS)
    found = (one.path.partition("#")[0] for one in every if not one.path.startswith(("/preferences", "/help")))
    return list(dict.fromkeys((*found, *OTHERS)))


def kind_of(path: str) -> str | None:
    """Return which of DETAILS an address is, None for every other. Of two that fit, the one with fewer `{}`."""
    parts = urlsplit(path).path.strip("/").split("/")
    fits = [kind for kind in DETAILS if _fits(kind.strip("/").split("/"), parts)]
    return min(fits, key=lambda kind: kind.count("{}"), default=None)


def _fits(kind: Sequence[str], parts: Sequence[str]) -> bool:
    return len(kind) == len(parts) and all(one in ("{}", part) for one, part in zip(kind, parts, strict=True))


def name_of(path: str, kind: str | None = None, number: int = 1) -> str:
    """Return the name of a page's files: the same for the same page of another server."""
    stem = re.sub(r"[^a-z0-9]+", "-", (kind or path).replace("{}", "one").lower()).strip("-") or "overview"
    return stem if number == 1 else f"{stem}-{number}"


class Walk:
    """Which pages are opened: places first, then what they link to, of each kind as many as DETAILS says."""

    def __init__(self, only: str = "", begin: Sequence[str] | None = None) -> None:
        begin = places() if begin is None else begin
        self._only = re.compile(only)
        self._waiting = [(name_of(path), path) for path in begin]
        self._seen = {path.partition("?")[0] for path in begin}
        self._count: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        while self._waiting:
            yield self._waiting.pop(0)

    def wants(self, name: str) -> bool:
        """Say whether pictures of a page are taken; its links are followed in any case."""
        return self._only.search(name) is not None

    def follow(self, text: str) -> None:
        """Take links of a page."""
        for link in _LINK.findall(text):
            path = html.unescape(link)
            bare = path.partition("?")[0]
            kind = kind_of(path)
            if kind is None or bare in self._seen or self._count.get(kind, 0) >= DETAILS[kind]:
                continue
            self._seen.add(bare)
            self._count[kind] = self._count.get(kind, 0) + 1
            self._waiting.append((name_of(path, kind, self._count[kind]), path))


def take(link: str, folder: Path, walk: Walk) -> list[Shown]:
    """Sign in by a one-time link, and take pictures of the pages of a walk. Return what was shown."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(link))
    with browser() as chromium:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(link)
        page.click("form button")
        for name, path in walk:
            answer = context.request.get(origin + path)
            if answer.headers.get("content-type", "").startswith("text/html"):
                walk.follow(answer.text())
                if walk.wants(name):
                    shown.append(_taken(context, origin, name, path, folder))
                    sys.stderr.write(f"{name:40} {path}\n")
        page.goto("about:blank")
        context.close()
    (folder / INDEX).write_text(json.dumps([asdict(one) for one in shown], indent=1) + "\n")
    return shown


def _taken(context: BrowserContext, origin: str, name: str, path: str, folder: Path) -> Shown:
    """Take the pictures of one page, in a tab of its own: streams of earlier pages end with theirs."""
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    wide = []
    status = 0
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            answer = page.goto(origin + path, wait_until="load")
            status = answer.status if answer else 0
            page.wait_for_timeout(400)  # charts and live parts come after the page
            _shoot(page, folder / f"{name}-{width}-{scheme}.png", width)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(width)
    title = page.title()
    page.goto("about:blank")
    page.close()
    return Shown(name, path, title, status, tuple(dict.fromkeys(said)), tuple(wide))


def _shoot(page: Page, file: Path, width: int) -> None:
    tall: int = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(tall, TALLEST)}
    page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]


def link_of_demo(folder: Path) -> str:
    """Return a one-time sign-in link of a demo that keeps its files in `folder`."""
    return str(json.loads(_edgectl(folder, "dashboard", "-o", "json"))["url"])


def fill(folder: Path) -> None:
    """Do what FILLING says at a demo that keeps its files in `folder`."""
    slo = folder / "digits-fast.yaml"
    slo.write_text(OBJECTIVE)
    for line in FILLING:
        _edgectl(folder, *(str(slo) if word == "{slo}" else word for word in line.split()))


def _edgectl(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "edgefleet_cli.main", *words]
    environment = {**os.environ, "EDGECTL_CONFIG": str(folder.resolve() / "edgectl.json")}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def shown_in(folder: Path) -> dict[str, Shown]:
    """Return the pages of which a folder has pictures, by name."""
    return {one["name"]: Shown(**one) for one in json.loads((folder / INDEX).read_text())}


@dataclass(frozen=True, slots=True)
class State:
    """A folder of pictures as a sheet shows it."""

    word: str
    folder: Path
    pages: dict[str, Shown]


def sheet(before: Path, after: Path, to: Path) -> int:
    """Write a page that shows both states of every page next to each other. Return how many pages it shows.

    It refers to the pictures where they are, and works from a folder, without a server.
    """
    states = [State(word, folder, shown_in(folder)) for word, folder in (("before", before), ("after", after))]
    names = list(dict.fromkeys(name for state in reversed(states) for name in state.pages))
    index = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in names)
    rows = "".join(_row(name, states, to.parent) for name in names)
    to.write_text(_PAGE.format(index=index, rows=rows, count=len(names)), "utf-8")
    return len(names)


def _row(name: str, states: Sequence[State], here: Path) -> str:
    facts = "".join(f"<p>{state.word}: {_facts(state.pages.get(name))}</p>" for state in states)
    pairs = "".join(
        f'<div class="pair w{width}">{"".join(_cell(state, name, f"{width}-{scheme}", here) for state in states)}</div>'
        for width in WIDTHS
        for scheme in SCHEMES
    )
    return f'<section id="{name}"><h2>{name}</h2>{facts}{pairs}</section>'


def _cell(state: State, name: str, look: str, here: Path) -> str:
    if name not in state.pages:
        return "<figure>no such page</figure>"
    address = html.escape(os.path.relpath(state.folder / f"{name}-{look}.png", here))
    alt = html.escape(f"{state.word}: {name}, {look}")
    return f'<figure><a href="{address}"><img loading="lazy" src="{address}" alt="{alt}"></a></figure>'


def _facts(shown: Shown | None) -> str:
    if shown is None:
        return "no such page"
    bad = [*(f"the console says: {said}" for said in shown.said), *(f"wider than {width} px" for width in shown.wide)]
    words = "".join(f" <b>{html.escape(one)}</b>" for one in bad)
    return f"<code>{html.escape(shown.path)}</code> “{html.escape(shown.title)}” {shown.status}{words}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Before and after</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 24px; background: #888; color: #000 }}
h1, h2 {{ margin: 24px 0 4px }} p {{ margin: 2px 0 }} b {{ color: #700 }}
ul {{ columns: 5 200px }} a {{ color: inherit }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin: 12px 0; align-items: start }}
.w360 {{ display: inline-grid; grid-template-columns: 360px 360px; margin-right: 24px; vertical-align: top }}
figure {{ margin: 0 }} img {{ max-width: 100%; display: block }}
</style>
<h1>Before (left) and after (right): {count} pages</h1>
<ul>{index}</ul>
{rows}
</html>
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Take pictures, or write a sheet of two folders of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.page_pictures")
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("take", help="take pictures of every page of a running server")
    taking.add_argument("server", help="the folder of a running `edgectl demo --data`, or a one-time sign-in link")
    taking.add_argument("folder", type=Path)
    taking.add_argument("--only", default="", help="a pattern: only pages whose name it is found in")
    filling = commands.add_parser("fill", help="make objectives, a group and others at a demo")
    filling.add_argument("demo", type=Path)
    showing = commands.add_parser("sheet", help="show two folders of pictures next to each other")
    showing.add_argument("before", type=Path)
    showing.add_argument("after", type=Path)
    showing.add_argument("to", type=Path, help="the page to write")
    chosen = parser.parse_args(arguments)
    if chosen.command == "fill":
        fill(chosen.demo)
        return
    if chosen.command == "take":
        link = chosen.server if "://" in chosen.server else link_of_demo(Path(chosen.server))
        count = len(take(link, chosen.folder, Walk(chosen.only)))
    else:
        count = sheet(chosen.before.resolve(), chosen.after.resolve(), chosen.to.resolve())
    print(f"{count} pages")


if __name__ == "__main__":
    main()
