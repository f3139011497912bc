"""Changing something from a page: the form calls the public API as the signed-in user, and nothing more than that."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping

import pytest
from fastapi.testclient import TestClient

from edgefleet_cli import tree
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import SAID_COOKIE
from edgefleet_server.dashboard.operations.catalog import BadFieldError, Operations
from edgefleet_server.dashboard.operations.command_preview import LINES, OF_FIELD, cli_line, curl_line
from edgefleet_server.db.keyset import PageRequest
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_login_pages import code_of, link_of


def signed_in(fleet: Fleet, *roles: Role) -> TestClient:
    """Return a browser that came in by a link."""
    browser = fleet.browser()
    browser.post("/login", data={"code": code_of(link_of(fleet, *roles)), "next": "/"})
    return browser


def key_of(browser: TestClient) -> str:
    """Return the key that the pages of a session put into their forms."""
    found = re.search(r'name="form_key" value="([^"]+)"', browser.get("/").text)
    assert found is not None
    return html.unescape(found[1])


def do(browser: TestClient, operation: str, **fields: str) -> object:
    """Send a form as our own page does."""
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return browser.post(f"/do/{operation}", data={"form_key": key_of(browser), **given})


def test_a_form_does_what_the_api_does_and_says_so(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.OPERATOR)
    fields = {
        "body.name": "berlin",
        "body.selector": "site=berlin",
        "next": "/settings",
        "said": "Group berlin is there.",
    }
    answer = browser.post("/do/create_group", data={"form_key": key_of(browser), **fields})
    assert (answer.status_code, answer.headers["location"]) == (303, "/settings")
    assert browser.cookies[SAID_COOKIE]
    assert [one["name"] for one in fleet.house.client(Role.VIEWER).get("/api/v1/groups").json()["items"]] == ["berlin"]
    assert "Group berlin is there." in browser.get("/").text
    assert "Group berlin is there." not in browser.get("/").text


def test_it_is_in_the_audit_trail_under_the_users_name(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.OPERATOR)
    do(browser, "create_group", body__name="berlin", body__selector="site=berlin")
    row = fleet.parts.access.audit(PageRequest()).items[0]
    assert (row.action, row.object, row.status) == ("create_group", "/api/v1/groups", 201)
    assert "unknown" not in row.actor


def test_the_audit_page_has_the_name_of_a_device_before_its_address(fleet: Fleet) -> None:
    device = fleet.device("cam").id
    client = fleet.house.client(Role.OPERATOR)
    client.patch(f"/api/v1/devices/{device}", json={"display_name": "Roof 3"})
    page = fleet.browser(Role.ADMIN).get("/audit").text
    assert f'<a href="/devices/{device}">Roof 3</a> <span class="dim">/api/v1/devices/{device}</span>' in page


def test_the_role_is_the_apis(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.VIEWER)
    answer = browser.post(
        "/do/create_group", data={"form_key": key_of(browser), "body.name": "a", "body.selector": "site=b"}
    )
    assert answer.status_code == 403
    assert "operator" in answer.text
    assert fleet.house.client(Role.VIEWER).get("/api/v1/groups").json()["items"] == []


def test_a_refusal_says_what_why_and_what_next(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.OPERATOR)
    answer = browser.post(
        "/do/create_group", data={"form_key": key_of(browser), "body.name": "a", "body.selector": "a in ("}
    )
    assert answer.status_code == 422
    assert "selector" in answer.text
    unknown = browser.post("/do/pause_rollout", data={"form_key": key_of(browser), "path.rollout_id": "r-none"})
    assert unknown.status_code == 404
    assert "r-none" in unknown.text


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        ({"form_key": "of-another-session"}, {}),
        ({"form_key": ""}, {}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"origin": "https://example.org"}),
    ],
)
def test_forms_of_strangers_do_nothing(fleet: Fleet, change: Mapping[str, str], headers: Mapping[str, str]) -> None:
    browser = signed_in(fleet, Role.ADMIN)
    form = {"form_key": key_of(browser), "body.name": "a", "body.selector": "site=b"} | dict(change)
    answer = browser.post("/do/create_group", data=form, headers=dict(headers))
    assert answer.status_code == 403
    assert fleet.house.client(Role.VIEWER).get("/api/v1/groups").json()["items"] == []


def test_without_a_session_nothing_is_done(fleet: Fleet) -> None:
    answer = fleet.browser().post("/do/create_group", data={"body.name": "a", "body.selector": "site=b"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_no_request_from_outside_can_name_its_caller(fleet: Fleet) -> None:
    client = fleet.browser()
    answer = client.get("/api/v1/devices", headers={"edgefleet.caller": "admin"})
    assert answer.status_code == 401


def test_a_word_to_be_typed_is_asked_for_by_the_server_too(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.OPERATOR)
    do(browser, "create_group", body__name="berlin", body__selector="site=berlin")
    wrong = do(browser, "delete_group", path__name="berlin", confirm_word="berlin", confirm="hamburg")
    assert wrong.status_code == 422  # type: ignore[attr-defined]
    assert len(fleet.house.client(Role.VIEWER).get("/api/v1/groups").json()["items"]) == 1
    right = do(browser, "delete_group", path__name="berlin", confirm_word="berlin", confirm=" berlin ")
    assert right.status_code == 303  # type: ignore[attr-defined]
    assert fleet.house.client(Role.VIEWER).get("/api/v1/groups").json()["items"] == []


def test_a_secret_is_shown_once_and_nowhere_kept(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.ADMIN)
    answer = do(browser, "create_token", body__name="ci", body__roles="viewer")
    assert answer.status_code == 200  # type: ignore[attr-defined]
    text = answer.text  # type: ignore[attr-defined]
    assert "edg_" in text
    assert answer.headers["cache-control"] == "no-store"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "to", ["https://example.org/", "//example.org", "/\\example.org", "/do/create_group", "/login"]
)
def test_nobody_is_sent_elsewhere_afterwards(fleet: Fleet, to: str) -> None:
    browser = signed_in(fleet, Role.OPERATOR)
    answer = do(browser, "create_group", body__name="a", body__selector="site=b", next=to)
    assert answer.headers["location"] == "/"  # type: ignore[attr-defined]


def test_an_operation_that_only_reads_is_no_action(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.VIEWER)
    assert do(browser, "list_devices").status_code >= 400  # type: ignore[attr-defined]
    assert do(browser, "no_such_operation").status_code == 404  # type: ignore[attr-defined]


def test_pages_are_gzipped_for_browsers_that_say_so(fleet: Fleet) -> None:
    browser = signed_in(fleet, Role.VIEWER)
    zipped = browser.get("/", headers={"accept-encoding": "gzip"})
    plain = browser.get("/", headers={"accept-encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(zipped.headers["content-length"]) < int(plain.headers["content-length"])


# --- fields become a body ---------------------------------------------------------------------------------------------

DOCUMENT = {
    "paths": {
        "/things/{name}:paint": {
            "post": {
                "operationId": "paint",
                "parameters": [{"name": "dry_run", "in": "query", "schema": {"type": "boolean"}}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Paint"}}}},
            }
        }
    },
    "components": {
        "schemas": {
            "Coat": {"type": "object", "properties": {"width_mm": {"type": "number"}}},
            "Paint": {
                "type": "object",
                "properties": {
                    "colours": {"type": "array", "items": {"type": "string"}},
                    "coats": {"type": "array", "items": {"$ref": "#/components/schemas/Coat"}},
                    "times": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "wet": {"type": "boolean"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "inner": {"$ref": "#/components/schemas/Coat"},
                    "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
                },
            },
        }
    },
}


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"body.times": ["3"]}, b'{"times": 3}'),
        ({"body.times": [""]}, b"{}"),
        ({"body.note": ["12"]}, b'{"note": "12"}'),
        ({"body.wet": ["on"]}, b'{"wet": true}'),
        ({"body.colours": ["red", "blue"]}, b'{"colours": ["red", "blue"]}'),
        ({"body.colours": ["red\r\nblue\n"]}, b'{"colours": ["red", "blue"]}'),
        ({"body.labels": ["a=b\nc-"]}, b'{"labels": {"a": "b", "c": null}}'),
        ({"body.labels": ["a=b", "", "c=d\n"]}, b'{"labels": {"a": "b", "c": "d"}}'),
        ({"body.labels": ['{"a": "b"}']}, b'{"labels": {"a": "b"}}'),
        ({"body.inner.width_mm": ["1.5"]}, b'{"inner": {"width_mm": 1.5}}'),
        (
            {"body.coats.1.width_mm": ["2"], "body.coats.0.width_mm": ["1"]},
            b'{"coats": [{"width_mm": 1.0}, {"width_mm": 2.0}]}',
        ),
        ({"body": ['{"times": 1}'], "body.wet": ["no"]}, b'{"times": 1, "wet": false}'),
    ],
)
def test_texts_become_what_the_schema_asks_for(fields: dict[str, list[str]], body: bytes) -> None:
    assert Operations(DOCUMENT).call("paint", fields | {"path.name": ["a b"]}).body == body


def test_paths_are_quoted_and_queries_are_known_ones() -> None:
    call = Operations(DOCUMENT).call("paint", {"path.name": ["a b@1"], "query.dry_run": ["true"], "query.other": ["x"]})
    assert (call.method, call.path, call.raw_path, call.query) == (
        "POST", "/things/a b@1:paint", "/things/a%20b@1:paint", "dry_run=true",
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"path.name": ["a/b"]},
        {"path.name": [".."]},
        {},
        {"path.name": ["a"], "body.times": ["three"]},
        {"path.name": ["a"], "body.wet": ["perhaps"]},
        {"path.name": ["a"], "body.labels": ["noequals"]},
        {"path.name": ["a"], "body": ["{"]},
        {"path.name": ["a"], "body.note": ["x"], "body.note.deeper": ["y"]},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, list[str]]) -> None:
    with pytest.raises(BadFieldError):
        Operations(DOCUMENT).call("paint", fields)


# --- the same as a command --------------------------------------------------------------------------------------------


def test_every_line_is_a_command_with_its_options() -> None:
    root = tree.build()
    for operation_id, asks in [(one, "") for one in LINES] + list(OF_FIELD):
        words = shlex.split(cli_line(operation_id, {}, asks))
        assert words[0] == "edgectl"
        command = root
        rest = words[1:]
        while hasattr(command, "commands"):
            assert rest, operation_id
            word = rest.pop(0)
            found = command.commands.get(word.lower() if word == "KIND" else word)
            if word == "KIND":
                break
            assert found is not None, f"{operation_id}: {word}"
            command = found
        known = {option for one in command.params for option in one.opts}
        assert {word for word in rest if word.startswith("-")} <= known | {"--yes"}, operation_id
        needed = [one for one in command.params if one.required and one.param_type_name == "option"]
        assert all(set(one.opts) & set(rest) for one in needed), operation_id


def test_lines_carry_the_fields_of_the_form(empty_fleet: Fleet) -> None:
    fields = {"path.rollout_id": "r-1", "body.reason": "it's late"}
    assert cli_line("pause_rollout", fields) == """edgectl rollout pause r-1 --reason 'it'"'"'s late'"""
    assert cli_line("pause_rollout", {"path.rollout_id": "r-1"}) == "edgectl rollout pause r-1"
    back = {"path.rollout_id": "r-1", "body.rollback": "true"}
    assert cli_line("abort_rollout", back) == "edgectl rollout abort r-1 --rollback --yes"
    assert cli_line("abort_rollout", {**back, "body.rollback": ""}) == "edgectl rollout abort r-1 --yes"
    device = {"path.device_id": "d-1"}
    assert cli_line("update_device", device) == "edgectl device label d-1 LABELS"
    assert cli_line("update_device", device, "body.profile") == "edgectl device set-profile d-1 PROFILE"
    line = curl_line(Operations(empty_fleet.house.app.openapi()), "pause_rollout", fields)
    assert line.endswith('"$EDGECTL_SERVER/api/v1/rollouts/r-1:pause"')
    assert "it" in line


def test_every_line_belongs_to_an_operation(empty_fleet: Fleet) -> None:
    known = {one.id for one in Operations(empty_fleet.house.app.openapi()) if one.is_changing}
    assert set(LINES) <= known
