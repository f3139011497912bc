"""Saved views: kept by name in the browser, found by the search box, never leading to another site."""

from __future__ import annotations

import base64

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.saved_views import (
    COOKIE,
    MOST,
    SavedView,
    ViewRefusedError,
    with_view,
    without_view,
)
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.test_acting import key_of

HALL = "/devices?selector=site%3Dhall&sort=-last_seen"


def save(browser: TestClient, **fields: str) -> str:
    """Send the form; return where it leads."""
    answer = browser.post("/views", data={"form_key": key_of(browser), **fields})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def test_a_view_is_kept_shown_found_and_removed(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    assert HALL.replace("&", "&amp;") in browser.get("/views", params={"page": HALL}).text
    assert save(browser, name=" The  hall ", path=HALL) == HALL
    assert "The hall</a>" in browser.get("/glossary").text
    assert "The hall" in browser.get("/find/list", params={"q": "hall"}).text
    assert save(browser, remove="The hall") == "/views"
    assert "The hall" not in browser.get("/glossary").text


def test_no_view_leads_elsewhere(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    assert save(browser, name="evil", path="https://example.org/") == "/"
    assert "example.org" not in browser.get("/views").text
    for text in (b"not JSON", b"[" * 3000, rb'[["half \ud800", "/devices"]]'):
        browser.cookies.set(COOKIE, base64.urlsafe_b64encode(text).decode())
        assert "No saved views yet" in browser.get("/views").text


def test_a_view_has_a_name_and_there_is_room_for_so_many() -> None:
    full = [SavedView(f"v{n:02}", "/") for n in range(MOST)]
    assert [one.path for one in with_view(full, "v03", "/models")].count("/models") == 1
    with pytest.raises(ViewRefusedError, match="no room"):
        with_view(full, "one more", "/")
    with pytest.raises(ViewRefusedError, match="needs a name"):
        with_view([], "  ", "/")
    assert len(without_view(full, "v00")) == MOST - 1
