"""The commands under a form: they say what the form would do as it is filled in, and they do it when they are run."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.operations.catalog import Operations
from edgefleet_server.dashboard.operations.command_preview import command_lines
from edgefleet_server.dashboard.operations.form_state import FormState
from tests.server.dashboard.fleet import ORT, STAGES, Fleet
from tests.server.dashboard.forms_of import form
from tests.server.dashboard.looking import in_peace
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary, browser

TEMPLATES = Path(render.__file__).parents[1] / "templates"
NASTY = """it's $HOME "and" `id` \\ & é"""
Typed = Mapping[str, str | list[str]]


def test_a_form_stands_as_a_browser_would_send_it() -> None:
    found = FormState()
    written = [
        found.input(type="hidden", name="path.id", value="a&b"), found.input(name="body.name", required=True),
        found.input(name="body.n", type="number", value=3), found.input(type="checkbox", name="body.roles", value="viewer", checked=True),
        found.input(type="checkbox", name="body.roles", value="admin"), found.select([("", "any"), "one two"], name="body.a"),
        found.select(["x", "one two"], "one two", name="body.b"), found.select(["x"], name="body.c", multiple=True),
        found.textarea("\na=b\nc", name="body.t", required=True), found.input(type="file", required=True, data_source=True),
        found.input(type="file", data_into="body.data.eval", title=None),
    ]  # fmt: skip
    assert found.values == {
        "path.id": ["a&b"], "body.name": [""], "body.n": ["3"], "body.roles": ["viewer"], "body.a": [""], "body.b": ["one two"],
        "body.c": [""], "body.t": ["a=b\nc"], "file.model": [""], "file.eval": [""],
    }  # fmt: skip
    assert found.needs == {"body.name", "file.model"}
    assert written == [
        '<input type="hidden" name="path.id" value="a&amp;b">', '<input name="body.name" required>',
        '<input name="body.n" type="number" value="3">', '<input type="checkbox" name="body.roles" value="viewer" checked>',
        '<input type="checkbox" name="body.roles" value="admin">',
        '<select name="body.a"><option value="">any</option><option>one two</option></select>',
        '<select name="body.b"><option>x</option><option selected>one two</option></select>',
        '<select name="body.c" multiple><option>x</option></select>', '<textarea name="body.t" required>\na=b\nc</textarea>',
        '<input type="file" required data-source>', '<input type="file" data-into="body.data.eval">',
    ]  # fmt: skip


def test_text_of_others_stays_text_in_a_field() -> None:
    found = FormState()
    hostile = "\"'><script>&"
    escaped = "&#34;&#39;&gt;&lt;script&gt;&amp;"
    assert found.input(name="a", value=hostile) == f'<input name="a" value="{escaped}">'
    assert found.select([hostile, ("b", hostile)], name="s") == (
        f'<select name="s"><option>{escaped}</option><option value="b">{escaped}</option></select>'
    )
    assert found.textarea(hostile, name="t") == f'<textarea name="t">{escaped}</textarea>'
    assert found.values == {"a": [hostile], "s": [hostile], "t": [hostile]}


def test_a_choice_that_is_not_offered_is_not_sent() -> None:
    found = FormState()
    assert (
        found.select(["x", "y"], "gone", name="a") == '<select name="a"><option>x</option><option>y</option></select>'
    )
    assert found.select((), name="b", required=True) == '<select name="b" required></select>'
    assert found.values == {"a": ["x"], "b": [""]}
    assert found.needs == {"b"}


def test_each_field_of_a_form_of_the_api_is_written_by_its_state() -> None:
    """A field that is written as HTML would be missing from the lines under the form."""
    calls = 0
    for file in sorted(TEMPLATES.rglob("*.html")):
        for call in re.findall(
            r"{% call(?:\(form\))? a\.(?:act|careful)\(.*?{% endcall %}", file.read_text(), re.DOTALL
        ):
            calls += 1
            assert call.startswith("{% call(form)"), (file.name, call)
            assert not re.search(r"<(input|select|textarea)\b", call), (file.name, call)
    assert calls > 30


def test_a_secret_is_never_in_a_line(empty_fleet: Fleet) -> None:
    found = FormState()
    found.input(type="password", name="body.public_key", value="hush", required=True)
    lines = command_lines(
        Operations(empty_fleet.house.app.openapi()), "set_capture_key", found.values, found.needs, empty_fleet.house.clock.now()
    )  # fmt: skip
    assert lines.cli == "edgectl capture-key set PUBLIC_KEY"
    assert "PUBLIC_KEY" in lines.curl
    assert "hush" not in lines.cli + lines.curl


def lines_in(page: str, operation: str) -> list[str]:
    """Return the lines under the forms of an operation, as they are loaded."""
    found = re.findall(rf'<details class="copy" data-operation="{operation}".*?</details>', page, re.DOTALL)
    return [html.unescape(text) for text in re.findall(r"<code>(.*?)</code>", "".join(found), re.DOTALL)]


def test_without_scripts_a_line_has_the_forms_own_values_and_names_what_is_to_be_typed(empty_fleet: Fleet) -> None:
    window = empty_fleet.browser(Role.ADMIN)
    cli, curl = lines_in(window.get("/settings/tokens").text, "create_token")
    assert re.fullmatch(r"edgectl token create --name NAME --role viewer --ttl \d+d", cli)
    assert '"name": "NAME"' in curl
    assert '"roles": ["viewer"]' in curl
    cli, curl = lines_in(window.get("/enrolment").text, "create_enrollments")
    assert cli == "edgectl device enroll --uses 1 --ttl 86400s --no-approval"
    assert '{"uses": 1, "ttl_s": 86400, "approval": false}' in curl
    cli, curl = lines_in(window.get("/settings/receivers").text, "create_alert_receiver")
    assert cli == "edgectl alert-receiver create NAME --action pause"
    assert '"name": "NAME"' in curl
    cli, curl = lines_in(window.get("/settings/webhooks").text, "create_webhook")
    assert cli == "edgectl webhook create URL"
    assert '{"url": "URL"}' in curl
    assert lines_in(window.get("/publish").text, "create_release") == [
        "edgectl publish MODEL --name MODEL --version VERSION"
    ]


def test_no_line_has_the_key_of_the_forms(empty_fleet: Fleet) -> None:
    window = empty_fleet.browser(Role.ADMIN)
    for path in ("/settings/tokens", "/enrolment", "/settings/receivers", "/groups", "/bundles", "/publish"):
        page = window.get(path).text
        key = re.search(r'name="form_key" value="([^"]+)"', page)
        assert key is not None
        assert not any(key[1] in code for code in re.findall(r"<code>.*?</code>", page, re.DOTALL))


# --- the lines, run -----------------------------------------------------------------------------------------------------------------------


class Desk:
    """Somebody at a served fleet who fills in forms, and runs what stands under them instead of pressing the button."""

    def __init__(self, fleet: Fleet, url: str) -> None:
        self.fleet = fleet
        self.window: TestClient = fleet.browser(Role.ADMIN)
        self.api = fleet.house.client(Role.ADMIN)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "EDGECTL_SERVER": url,
            "EDGECTL_TOKEN": fleet.house.token(Role.ADMIN),
        }

    def lines(self, page: str, operation: str, typed: Typed, **marks: str) -> list[str]:
        """Return the lines of a form after these fields were typed."""
        found = form(self.window.get(page).text, f"/do/{operation}", **marks)
        body: dict[str, Any] = {}
        for name, value in found.fields:
            body.setdefault(name, []).append(value)
        return self.asked(operation, {**body, **typed})

    def asked(self, operation: str, fields: Typed) -> list[str]:
        """Return the lines of an operation with these fields, as the page's script asks for them."""
        key = re.search(r'name="form_key" value="([^"]+)"', self.window.get("/").text)
        assert key is not None
        answer = self.window.post(f"/command/{operation}", data={**fields, "form_key": html.unescape(key[1])})
        assert answer.status_code == 200, answer.text
        return [html.unescape(text) for text in re.findall(r"<code>(.*?)</code>", answer.text, re.DOTALL)]

    def run(self, line: str) -> str:
        """Run a line in a shell, as somebody would who pasted it."""
        done = subprocess.run(
            ["bash", "-c", line],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One served fleet of three devices for all lines."""
    fleet = Fleet(tmp_path_factory.mktemp("lines") / "server", webhook_networks=["192.0.2.0/24"])
    fleet.release("digits@1.0.0", ORT)
    fleet.release("other@1.0.0", ORT)
    for name in ("cam1", "cam2", "cam3"):
        fleet.device(name, labels={"site": "berlin", "old": "yes"})
    with served(fleet.house.own_app()) as url:
        yield Desk(fleet, url)
    fleet.close()


@dataclass(frozen=True)
class Case:
    """A form that makes something: what is typed ({n} differs from line to line), and what the API then says of it."""

    page: str
    operation: str
    typed: Typed
    listed: str
    made: Mapping[str, Any]
    known_by: str = "name"
    marks: Mapping[str, str] = field(default_factory=dict)


CASES = (
    Case("/settings/tokens", "create_token", {"body.name": NASTY + "{n}", "body.roles": ["viewer", "operator"]}, "/tokens",
         {"name": NASTY + "{n}", "roles": ["operator", "viewer"]}),
    Case("/enrolment", "create_enrollments",
         {"body.uses": "3", "body.ttl_s": "3600", "body.approval": "true", "body.profile": ORT, "body.name_prefix": "hall{n}",
          "body.display_name": "Hall {n}",
          "body.labels": "site=hall\nline={n}"}, "/enrollments",
         {"uses": 3, "approval": True, "profile": ORT, "labels": {"site": "hall", "line": "{n}"}, "expires_at": "2026-11-25T13:00:00Z"},
         "labels"),
    Case("/settings/receivers", "create_alert_receiver",
         {"body.name": "prod{n}", "body.action": "rollback", "body.matchers": 'severity="critical"\nteam=~"a|b"', "body.model": "digits"},
         "/alert-receivers",
         {"name": "prod{n}", "action": "rollback", "matchers": ['severity="critical"', 'team=~"a|b"'], "model": "digits"}),
    Case("/settings/webhooks", "create_webhook",
         {"body.url": "https://192.0.2.7/x?a=1&b=$2", "body.name": NASTY + "{n}", "body.types": "edgefleet.rollout.*\nedgefleet.device.*"},
         "/webhooks",
         {"name": NASTY + "{n}", "url": "https://192.0.2.7/x?a=1&b=$2", "types": ["edgefleet.device.*", "edgefleet.rollout.*"]}),
    Case("/groups", "create_group", {"body.name": "some{n}", "body.selector": "site in (berlin, hall), id!=cam9"}, "/groups",
         {"name": "some{n}", "selector": "site in (berlin,hall),id!=cam9"}),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.operation for case in CASES])
def test_what_is_pasted_does_what_the_form_would(desk: Desk, case: Case) -> None:
    for n, which in enumerate(("cli", "curl")):

        def put(value: Any, n: int = n) -> Any:
            if isinstance(value, dict):
                return {key: put(one) for key, one in value.items()}
            return value.replace("{n}", str(n)) if isinstance(value, str) else value

        typed = {name: put(value) for name, value in case.typed.items()}
        line = desk.lines(case.page, case.operation, typed, **case.marks)[n]
        assert line.startswith(("edgectl ", "curl ")[n]), line
        desk.run(line)
        wanted = {name: put(value) for name, value in case.made.items()}
        listed = desk.api.get(f"/api/v1{case.listed}").json()["items"]
        made = [one for one in listed if one.get(case.known_by) == wanted[case.known_by]]
        assert len(made) == 1, (which, line, listed)
        told = {name: sorted(value) if name == "roles" else value for name, value in made[0].items() if name in wanted}
        assert told == wanted, line


def test_lines_that_change_a_device_change_it(desk: Desk) -> None:
    device = next(iter(desk.fleet.by_id))
    for n in range(2):
        line = desk.asked(
            "update_device", {"path.device_id": device, "body.labels": f"site=hall-{n}\nold-\nmore=a,b=c"}
        )[n]
        desk.run(line)
        labels = desk.api.get(f"/api/v1/devices/{device}").json()["labels"]
        assert labels == {"site": f"hall-{n}", "more": "a", "b": "c"}, line
    for n in range(2):
        renamed = {"path.device_id": device, "body.display_name": f"{NASTY} {n}", "asks": "body.display_name"}
        desk.run(desk.asked("update_device", renamed)[n])
        assert desk.api.get(f"/api/v1/devices/{device}").json()["display_name"] == f"{NASTY} {n}"
    assert desk.asked("update_device", {"path.device_id": device, "body.profile": ORT, "asks": "body.profile"})[0] == (
        f"edgectl device set-profile {device} {ORT}"
    )


def test_lines_for_many_devices_reach_them_all(desk: Desk) -> None:
    for n in range(2):
        typed = {"body.labels": f"round={n}"}
        line = desk.lines(f"/fleet/bulk?do=label&all=1&selector=profile%3D{ORT}", "label_devices", typed)[n]
        desk.run(line)
        found = desk.api.get("/api/v1/devices").json()["items"]
        assert [one["labels"]["round"] for one in found] == [str(n)] * 3, line


def test_lines_that_steer_a_rollout_steer_it(desk: Desk) -> None:
    rollout = desk.fleet.rollout(release="digits@1.0.0", selector="", stages=STAGES)
    page, reason = f"/rollouts/{rollout}", {"body.reason": NASTY}

    def state() -> str:
        return str(desk.api.get(f"/api/v1/rollouts/{rollout}").json()["state"])

    desk.run(desk.lines(page, "pause_rollout", reason)[0])
    assert state() == "paused"
    assert NASTY in str(desk.api.get(f"/api/v1/rollouts/{rollout}").json()["reason"])
    desk.run(desk.lines(page, "resume_rollout", reason)[1])
    assert state() == "running"
    desk.run(desk.lines(page, "pause_rollout", {})[1])
    assert state() == "paused"
    desk.run(desk.lines(page, "abort_rollout", reason, body__rollback="true")[0])
    assert state() in {"rolling_back", "rolled_back"}


def test_what_cannot_be_is_said_in_the_place_of_the_lines(desk: Desk) -> None:
    key = form(desk.window.get("/groups").text, "/do/create_group").fields[0][1]
    answer = desk.window.post("/command/create_enrollments", data={"form_key": key, "body.labels": "noequals"})
    assert "<code>" not in answer.text
    assert "key=value" in answer.text


def test_lines_are_for_who_is_signed_in_and_for_our_own_forms(desk: Desk) -> None:
    assert desk.fleet.browser().post("/command/create_token").headers["location"].startswith("/login")
    assert desk.window.post("/command/create_token", data={"body.name": "a"}).status_code == 403


# --- as somebody types -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_the_lines_follow_what_is_typed(desk: Desk) -> None:
    with served(desk.fleet.house.own_app()) as url, browser() as chromium:
        page = chromium.new_page()
        page.goto(url + link_of(desk.fleet, Role.ADMIN))
        page.click("form button")
        with in_peace(page):
            page.goto(url + "/settings/tokens")
            new = page.locator("form[data-operation=create_token]")
            new.get_by_text("As a command").click()
            cli, curl = new.locator(".copy code").nth(0), new.locator(".copy code").nth(1)
            expect(cli).to_have_text(re.compile(r"^edgectl token create --name NAME --role viewer --ttl \d+d$"))
            new.get_by_label("Name (what or who uses it)").type("bob's <ci>")
            new.get_by_label("operator").check()
            new.get_by_label("Expires").select_option("")
            expect(cli).to_have_text("""edgectl token create --name 'bob'"'"'s <ci>' --role viewer --role operator""")
            expect(curl).to_contain_text('["viewer", "operator"]')
            new.get_by_label("viewer").uncheck()
            new.get_by_label("operator").uncheck()
            new.get_by_label("Name (what or who uses it)").fill("")
            expect(cli).to_have_text("edgectl token create --name NAME --role ROLES")
            page.goto(f"{url}/rollouts/{desk.fleet.rollout(release='other@1.0.0', selector='', stages=STAGES)}")
            pause = page.locator("form[data-operation=pause_rollout]")
            pause.locator("summary").first.click()
            pause.get_by_text("As a command").click()
            pause.get_by_role("textbox", name="Reason").fill("too hot")
            expect(pause.locator("code").first).to_contain_text("--reason 'too hot'")
            pause.locator("code").first.evaluate("(e) => { e.textContent = 'as the stream has it'; }")
            expect(pause.locator("code").first).to_contain_text("--reason 'too hot'")
            page.goto(url + "/publish")
            page.get_by_text("As a command").click()
            page.get_by_label("Version").fill("2.0.0")
            page.get_by_label("File:").set_input_files({"name": "my model.onnx", "mimeType": "", "buffer": b"x"})
            line = "edgectl publish 'my model.onnx' --name MODEL --version 2.0.0"
            expect(page.locator(".copy code")).to_have_text(line)
        page.goto("about:blank")
        page.context.close()
