"""Publishing from a browser: the file goes up by its digest, and the release is asked for, with the roles of the API."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.registry.publish_page import FORM_KEY_HEADER, UPLOADS
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_acting import key_of, signed_in
from tests.server.dashboard.test_login_pages import link_of
from tests.support.browsers import binary, browser


def test_a_file_goes_up_by_its_digest_alone(fleet: Fleet) -> None:
    window = signed_in(fleet, Role.PUBLISHER)
    data = b"m" * (5 * 1024 * 1024)  # more than a JSON body may have
    path = UPLOADS + sha256(data).hexdigest()
    key = {FORM_KEY_HEADER: key_of(window)}
    assert window.put(path, content=data).status_code == 403
    assert window.put(path, content=data, headers=key | {"sec-fetch-site": "cross-site"}).status_code == 403
    assert window.put(path, content=data[1:], headers=key).status_code == 400
    assert window.put(path, content=data, headers=key).status_code == 201
    assert window.put(path, content=data, headers=key).status_code == 200
    assert fleet.browser().put(path, content=data, headers=key).status_code == 401


def test_who_may_not_publish_gets_neither_page_nor_upload(fleet: Fleet) -> None:
    window = signed_in(fleet, Role.VIEWER)
    assert window.get("/publish").status_code == 403
    answer = window.put(UPLOADS + sha256(b"x").hexdigest(), content=b"x", headers={FORM_KEY_HEADER: key_of(window)})
    assert answer.status_code == 403


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file to publish."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"not really a model" * 1000)
    return path


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_a_model_is_published_with_a_browser(fleet: Fleet, model: Path) -> None:
    with served(fleet.house.own_app()) as url, browser() as chromium:
        page = chromium.new_page()
        page.goto(url + link_of(fleet, Role.PUBLISHER))
        page.click("form button")
        page.goto(url + "/publish")
        page.get_by_label("Name").fill("tiny")
        page.get_by_label("Version").fill("1.0.0")
        page.get_by_label("File:").set_input_files(model)
        page.get_by_label("Calibration data").set_input_files(model)
        page.get_by_label("Profiles").select_option("generic-x86_64-ort")
        page.get_by_role("button", name="Publish", exact=True).click()
        page.wait_for_url("**/models/tiny/1.0.0")
    release = fleet.house.client(Role.VIEWER).get("/api/v1/releases/tiny@1.0.0").json()
    assert [job["profile"] for job in release["jobs"]] == ["generic-x86_64-ort"]
    blob = fleet.house.client(Role.VIEWER).head(f"/api/v1/blobs/{sha256(model.read_bytes()).hexdigest()}")
    assert int(blob.headers["content-length"]) == model.stat().st_size
