"""What a signed-in browser can change when it follows links and GET forms only, as people do who type no address.

Each page names the operations that it can call: by a form or a button, by an htmx attribute, or by a script that it loads. What a page
shows depends on what there is, so `busy` makes a fleet in which something waits for every kind of decision.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from fastapi.testclient import TestClient
from sqlalchemy import update

from edgefleet_protocol.messages import ErrorClass, Phase, Seen
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.tables import FleetCaRotation
from tests.server.access.known_identity import add_identity
from tests.server.dashboard import drifting_fleet
from tests.server.dashboard.fleet import NONFINITE, Fleet
from tests.server.dashboard.test_settings_pages import sent
from tests.server.objectives.test_openslo import latency
from tests.support.holders import part_text
from tests.support.receivers import receiving
from tests.support.servers import ApiClient, release_body
from tests.support.teams import member, pem

DO = re.compile(r"/do/([a-z_]+)")
BY_SCRIPT = re.compile(r"""fetch\(\s*[`"'](?P<address>[^`"']+)[`"'][^;]*?\bmethod:\s*["'](?P<method>[A-Z]+)["']""")
HTMX_CALL = re.compile(r"""htmx\.ajax\(\s*["'](?P<method>[A-Z]+)["'],\s*[`"'](?P<address>[^`"']+)""")
"""Calls of a script that may change something: method and address are written out where the call is, so that they can be found."""
HTMX = frozenset({"hx-post", "hx-put", "hx-patch", "hx-delete"})
STEPS = frozenset({"step", "do", "release"})
"""Parts of a query that lead to a page with other forms."""
MOST_ALIKE = 10
"""So many pages of one kind are looked at: of rollouts and devices each shows what it is in a state for."""


@dataclass
class GetForm:
    """A form that only asks: its fields as nobody touched them but for boxes, which are ticked, and the named buttons."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def addresses(self) -> list[str]:
        """Return where it leads, by each of its buttons."""
        chosen = [[one] for one in self.buttons] or [[]]
        return [f"{self.action.partition('#')[0]}?{urlencode([*self.fields, *one])}" for one in chosen]


@dataclass
class Page:
    """What a page holds: addresses to go to, operations that it can call, scripts that it loads.

    sends: where else forms and attributes send something to.
    """

    links: list[str] = field(default_factory=list)
    forms: dict[str, GetForm] = field(default_factory=dict)
    changes: set[str] = field(default_factory=set)
    sends: set[str] = field(default_factory=set)
    scripts: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._form = ""
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._take_targets(given)
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        elif tag == "script" and "src" in given:
            self.page.scripts.append(given["src"])
        elif tag == "form":
            self._form = given.get("id") or f"form {len(self.page.forms)}"
            if given.get("method", "get") == "get":
                self.page.forms[self._form] = GetForm(given["action"])
        elif tag in {"input", "select", "option", "textarea", "button"}:
            self._take(tag, given)

    def _take_targets(self, given: dict[str, str]) -> None:
        names = {"formaction", *HTMX} | ({"action"} if given.get("method", "get") != "get" else set())
        for address in (given[name] for name in names & given.keys()):
            found = DO.match(address)
            if found is None:
                self.page.sends.add(address)
            else:
                self.page.changes.add(found[1])

    def _take(self, tag: str, given: dict[str, str]) -> None:
        form = self.page.forms.get(given.get("form") or self._form)
        if form is None:
            return
        if tag == "select":
            self._select = given["name"]
        elif tag == "option" and self._select:
            if "selected" in given or self._select not in dict(form.fields):
                form.fields.append((self._select, given.get("value", "")))
        elif "name" in given and (given.get("type") != "radio" or "checked" in given):
            (form.buttons if tag == "button" else form.fields).append((given["name"], given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = ""
        elif tag == "select":
            self._select = ""


def read(html: str) -> Page:
    """Return what a page holds."""
    reader = _Reader()
    reader.feed(html)
    return reader.page


def calls_of(script: str) -> list[tuple[str, str]]:
    """Return the method and the address of each call of a script that is more than a question."""
    found = (one for pattern in (BY_SCRIPT, HTMX_CALL) for one in pattern.finditer(script))
    return [(one["method"], one["address"]) for one in found if one["method"] not in {"GET", "HEAD"}]


def changes_of(script: str) -> set[str]:
    """Return the operations that a script calls to change something."""
    return {found[1] for _, address in calls_of(script) if (found := DO.match(address))}


class Walk:
    """One browser that goes wherever pages lead.

    changes: by operation, the first page that offers it. sends: where else pages send something to. pages: how many were looked at.
    """

    def __init__(self, browser: TestClient) -> None:
        self._browser = browser
        self._known: set[str] = set()
        self._alike: Counter[str] = Counter()
        self._scripts: dict[str, set[str]] = {}
        self.changes: dict[str, str] = {}
        self.sends: set[str] = set()
        self.pages = 0

    def go(self, wanted: Set[str]) -> None:
        """Look at one page of each kind, then at a second one of each, until each of these operations was offered by one."""
        waiting = [(1, 0, "/")]
        while waiting and (waiting[0][0] == 1 or not self.changes.keys() >= wanted):
            _, _, here = heapq.heappop(waiting)
            answer = self._browser.get(here, follow_redirects=True)
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            self.pages += 1
            page = read(answer.text)
            self.sends |= page.sends
            for name in page.changes.union(*(self._script(one) for one in page.scripts)):
                self.changes.setdefault(name, here)
            for turn, address in self._fresh(here, page):
                heapq.heappush(waiting, (turn, len(self._known), address))

    def _script(self, address: str) -> set[str]:
        if address not in self._scripts:
            self._scripts[address] = changes_of(self._browser.get(address).text)
        return self._scripts[address]

    def _fresh(self, here: str, page: Page) -> Iterator[tuple[int, str]]:
        """Yield where a page leads that was not known, each behind how many of its kind were known then, itself included."""
        for link in (*page.links, *(address for form in page.forms.values() for address in form.addresses())):
            parts = urlsplit(urljoin(here, link))
            address = parts.path + (f"?{parts.query}" if parts.query else "")
            if parts.netloc not in {"", "fleet.test"} or address in self._known:
                continue
            self._known.add(address)
            kind = _kind(parts.path, parts.query)
            self._alike[kind] += 1
            if self._alike[kind] <= MOST_ALIKE:
                yield self._alike[kind], address


def _kind(path: str, query: str) -> str:
    """Return what pages have in common that differ by an id, or by what they narrow a list to."""
    words = [one if re.fullmatch(r"[a-z]+", one) else "*" for one in path.split("/")[1:]]
    steps = {name: value for name, value in parse_qsl(query) if name in STEPS}
    return f"{'/'.join(words)} {sorted(steps.items())}"


def busy(fleet: Fleet) -> None:
    """Besides a staged fleet: rollouts that run, wait, are paused; a conversion; a group, an alias, keys, tokens and hooks."""
    admin = fleet.house.client(Role.ADMIN)

    def call(method: str, path: str, body: Any = None) -> Any:
        answer = admin.request(method, f"/api/v1{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    fleet.parts.fleet.suspicion.mark(next(iter(fleet.by_id)), "it reported a golden failure that nobody else sees")
    fleet.by_id[next(iter(fleet.by_id))].ask_to_come_back()
    call("POST", "/ca-rotations", {})
    with fleet.parts.db.session() as session:  # a move waits for its end, and the page shows it still
        session.execute(update(FleetCaRotation).values(ended_at=fleet.parts.clock.now()))
    call("POST", "/server-moves", {"host": "new.example"})
    call("POST", "/server-moves:start", {"ahead": True})
    call("POST", "/groups", {"name": "hall", "selector": "site=hall"})
    for rule in ("vault", "cellar"):
        call("POST", "/protection-rules", {"name": rule, "selector": f"site={rule}"})
    call("POST", "/protection-rules/cellar:end")
    call("PUT", "/release-policies/ecg-owned", {"models": ["ecg"], "require": ["owner"]})
    pipeline = {
        "name": "ci",
        "provider": "github",
        "repository": "acme/vision",
        "ref": "refs/heads/main",
        "roles": ["publisher"],
    }
    call("POST", "/trusted-pipelines", pipeline)
    add_identity(fleet.parts.db, "i-waits")
    add_identity(fleet.parts.db, "i-linked", call("POST", "/people", {"name": "dora"})["id"])
    call("PUT", "/models/digits/aliases/prod", {"version": "1.1.0"})
    drifting_fleet.pumps(fleet)
    call("PUT", "/releases/pump@1.0.0/drift-baseline", {"since": "2026-11-20T00:00:00Z"})
    call("PUT", "/capture-key", {"public_key": "09" + "0" * 62})
    call("POST", "/enrollments", {"count": 1})
    call("POST", "/tokens", {"name": "ci", "roles": ["viewer"]})
    call("POST", "/people/ci:grant", {"role": "operator", "sites": ["hall"]})
    call("POST", "/alert-receivers", {"name": "prod"})
    call("PUT", "/slos/digits-fast", latency())
    call("PUT", "/prices", {"currency": "EUR", "down_gb": 0.09})
    somebody = ApiClient(fleet.house.app, fleet.parts.access.create_token("maker", [Role.ADMIN], by="test").token)
    call("PUT", "/release-policies/ecg-held-out", {"models": ["ecg"], "require": ["hold_out>=300"]})
    assert somebody.post("/api/v1/release-policies/ecg-held-out:end").status_code == 200  # and waits for a second admin
    for name, trained in (("fog", "digits"), ("dust", "pump")):
        trigger = {"name": name, "model": trained, "on": "drift"}
        assert somebody.post("/api/v1/triggers", json=trigger).status_code == 201
    assert somebody.post("/api/v1/triggers/fog:start", json={}).status_code == 201  # and waits for a second person
    mail = "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"
    call("POST", "/contact-points", {"name": "ops", "url": mail})
    call("POST", "/alert-silences", {"matchers": ["site=yard"], "for_s": 3600})
    call("POST", "/maintenance-windows", {"name": "nightly", "cron": "0 1 * * *", "duration_s": 3600})
    fleet.parts.alarm.engine.tick()  # the suspect device is an alert
    with receiving() as receiver:
        hook = call("POST", "/webhooks", {"url": receiver.url, "types": ["edgefleet.rollout.*"], "name": "ops"})
        call("POST", f"/webhooks/{hook['webhook']['id']}:ping")
        sent(fleet)
    model = b"a model of buds"
    fleet.house.put(model)
    call("POST", "/releases", release_body(model, model="buds"))
    asked = {"name": "asked", "size": {"percent": 50}, "approval": {"role": "admin", "timeout": "1h"}}
    first, rest = {"name": "first", "size": {"percent": 50}, "soak": "1h"}, {"name": "rest", "size": {"percent": 100}}
    second = {"name": "second", "size": {"percent": 75}}
    fleet.rollout(release="leaves@1.0.0", selector="site=hall", stages=[asked, rest])
    fleet.rollout(release="leaves@1.0.0", selector="site=yard", stages=[first, second, rest])
    failing = fleet.rollout(
        release="seeds@1.0.0", selector="", stages=[rest], on_fail="pause", on_unconfirmed="rollback"
    )
    fleet.tick(seconds=2)
    device = fleet.parts.rollout.reader.devices(failing)[0].device
    fleet.by_id[device].report(
        Phase.FAILED, model="seeds", error_class=ErrorClass.GOLDEN, reason=NONFINITE, error_code="golden.differs"
    )
    fleet.parts.signing.ceremony.give_to_holders([part_text("anna")], None)
    fleet.parts.signing.teams.set_team("seeds", [pem(member())], 1)
    fleet.parts.fleet.recovery.take(fleet.by_id[device].id, Seen(version=int(fleet.house.clock.now().timestamp()) + 50))
    fleet.tick(seconds=2)
    fleet.tick(seconds=2)
    assert fleet.parts.rollout.reader.rollout(failing).state == "paused"
