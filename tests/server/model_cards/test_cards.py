"""Model cards through API and pages: what was measured, what was stated, what is missing; by whom; and nothing as markup."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.model_cards import card_pdf
from edgefleet_terms.feature_importance import PartMap
from edgefleet_terms.heat_picture import png_of
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.shelf import measured, shelve
from tests.server.dashboard.test_pages import text_of

CARD = "/api/v1/releases/digits@1.0.0/card"
STATED = {
    "owner": "Line team", "contact": "line@example.com", "licence": "Apache-2.0", "intended_use": "Reads digits of parts.",
    "limits": ["night shifts", "<b>wet</b> | parts"], "data": "Photos of March to May; no winter.",
}  # fmt: skip
GREY = base64.b64encode(bytes(range(0, 256, 64)) * 4).decode()
REPORT: dict[str, Any] = {
    "profiles": [{"profile": ORT}],
    "data": {"judged_on": "evaluation data", "judging_samples": 180, "hold_out_samples": 180, "calibration_samples": 90,
             "drift_reference": {"samples": 90, "signals": 6, "by_hour": True}},
    "importance": {
        "why": "", "metric": "top1", "output": "y", "base": 0.98, "n": 200, "given": 360, "runtime": "ort", "cut": "",
        "features": [{"name": "x.heat", "kind": "column", "value": 0.31, "low": 0.27, "high": 0.35, "repeats": 5}],
        "occlusion": [{"input": "image", "maps": [
            {"group": "", "n": 200, "drop": [[0.1, -0.2], [0.0, 0.3]], "mean": GREY, "height": 4, "width": 4}]}],
        "not_measured": ["x.load"],
    },
}  # fmt: skip


@pytest.fixture
def fleet(tmp_path: Any) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "server")
    report = made.parts.registry.put_blob_bytes(json.dumps(REPORT).encode())
    lineage = {"git_commit": "abc123"}
    shelve(made, "digits@1.0.0", ORT, report=report, lineage=lineage)
    yield made
    made.close()


def facts(card: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return value and origin of each line of a card, by `Section: name`."""
    return {
        f"{section['title']}: {one['name']}": (one["value"], one["origin"])
        for section in card["sections"]
        for one in section["facts"]
    }


def test_what_was_measured_stands_there_and_what_is_missing_too(fleet: Fleet) -> None:
    card = fleet.house.client(Role.VIEWER).get(CARD).json()
    found = facts(card)
    assert found["Model: Git commit"] == ("abc123, as its publisher states", "stated")
    assert found["Model: Parent release"] == ("not stated", "not_stated")
    assert found[f"Accuracy: {ORT}"][0].startswith("top1 97.5 %; source 97.8 %; 360 samples (evaluation data)")
    assert found["Data: Hold-out"] == ("180 samples that no choice has seen", "measured")
    assert found["Data: Drift reference"][0] == "90 samples, 6 signals, by part of the day"
    assert found["Inputs that matter: x.heat"] == ("31 % of accuracy (98 % → 67 %), 27 % to 35 % at 95 %", "measured")
    assert found["Inputs that matter: x.load"] == ("not measured", "not_measured")
    assert found["Use and responsibility: Owner"] == ("not stated", "not_stated")
    assert found["Bundles: Energy"] == ("not measured", "not_measured")
    assert found["Accuracy in the field: Segments"] == ("not measured", "not_measured")
    assert found[f"Bundles: {ORT}: latency on devices"] == ("not measured", "not_measured")
    assert found["Where it runs and who approved: Runs on"] == ("0 devices", "recorded")
    assert card["hold_out"] == 180
    assert card["bundles"][0]["value"] == 0.975


def test_it_changes_with_the_fleet(fleet: Fleet) -> None:
    devices = [fleet.device(f"cam-{at}") for at in range(6)]
    for device in devices:
        fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), device=device.id)
        measured(fleet, device, "digits@1.0.0", p50_ms=4.0)
    found = facts(fleet.house.client(Role.VIEWER).get(CARD).json())
    value, origin = found[f"Bundles: {ORT}: latency on devices"]
    assert origin == "measured"
    assert value.endswith("6 devices")


def test_a_publisher_states_and_a_child_has_its_parents_statement(fleet: Fleet) -> None:
    publisher = fleet.house.client(Role.PUBLISHER)
    answer = publisher.put(CARD, json=STATED)
    assert answer.status_code == 200, answer.text
    assert answer.json()["stated"]["of"] == "digits@1.0.0"
    shelve(fleet, "digits@1.1.0", ORT, lineage={"parent": "digits@1.0.0"})
    child = publisher.get("/api/v1/releases/digits@1.1.0/card").json()
    assert (child["stated"]["owner"], child["stated"]["of"]) == ("Line team", "digits@1.0.0")
    assert facts(child)["Use and responsibility: Limits"][0] == "night shifts; <b>wet</b> | parts"
    assert publisher.put("/api/v1/releases/digits@1.1.0/card", json={"owner": "Other"}).status_code == 200
    again = publisher.get("/api/v1/releases/digits@1.1.0/card").json()
    assert (again["stated"]["owner"], again["stated"]["licence"]) == ("Other", "")


def test_two_who_state_at_once_do_not_overwrite_each_other(fleet: Fleet) -> None:
    publisher = fleet.house.client(Role.PUBLISHER)
    tag = publisher.get(CARD).headers["etag"]
    assert publisher.put(CARD, json=STATED, headers={"if-match": tag}).status_code == 200
    assert publisher.put(CARD, json={"owner": "late"}, headers={"if-match": tag}).status_code == 412
    dry = publisher.put(f"{CARD}?dry_run=true", json={"owner": "dry"})
    assert dry.status_code == 200
    assert publisher.get(CARD).json()["stated"]["owner"] == "Line team"


@pytest.mark.parametrize(
    "body",
    [{"licence": "free as in beer!"}, {"licence": "MIT OR"}, {"owner": "a\nb"}, {"limits": [""]}, {"price": "1"}, {"owner": "x" * 301}],
)  # fmt: skip
def test_a_wrong_statement_is_refused_with_its_field(fleet: Fleet, body: dict[str, Any]) -> None:
    answer = fleet.house.client(Role.PUBLISHER).put(CARD, json=body)
    assert answer.status_code == 422
    assert next(iter(body)) in answer.json()["detail"]


@pytest.mark.parametrize(
    "licence", ["MIT", "(MIT OR Apache-2.0) AND LicenseRef-Ours", "GPL-2.0-only WITH Classpath-exception-2.0"]
)
def test_licences_are_spdx_expressions(fleet: Fleet, licence: str) -> None:
    assert fleet.house.client(Role.PUBLISHER).put(CARD, json={"licence": licence}).status_code == 200


def test_a_reader_may_not_state(fleet: Fleet) -> None:
    assert fleet.house.client(Role.VIEWER).put(CARD, json=STATED).status_code == 403


def test_markdown_and_pdf_say_the_same_and_nothing_is_markup(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.house.client(Role.PUBLISHER).put(CARD, json=STATED)
    reader = fleet.house.client(Role.VIEWER)
    text = reader.get(f"{CARD}.md")
    assert text.headers["content-type"].startswith("text/markdown")
    assert "| Owner | Line team | stated by a person |" in text.text
    assert "<b>" not in text.text.replace("\\<b\\>", "")
    assert "parts \\|" not in text.text.replace("\\| parts", "")
    rows = [line for line in text.text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    made = reader.get(f"{CARD}.pdf")
    assert made.headers["content-type"] == "application/pdf"
    assert made.content.startswith(b"%PDF-")
    plain = reader.get(f"{CARD}.pdf", headers={"accept": "application/octet-stream"})
    assert plain.headers["content-type"] == "application/octet-stream"
    assert b"Line team" in b"".join(streams_of(made.content))
    monkeypatch.setitem(__import__("sys").modules, "fpdf", None)
    missing = reader.get(f"{CARD}.pdf")
    assert (missing.status_code, missing.json()["code"]) == (501, "model_card.pdf_unavailable")


def streams_of(data: bytes) -> list[bytes]:
    """Return the unpacked streams of a PDF file."""
    found = []
    for part in data.split(b"stream\n")[1::2]:
        body = part.partition(b"\nendstream")[0]
        try:
            found.append(zlib.decompress(body))
        except zlib.error:
            continue
    return found


def test_letters_that_the_standard_fonts_lack_are_question_marks() -> None:
    assert card_pdf.latin("Größe → 漢字 ≤ 3") == "Größe -> ?? <= 3"


def test_the_page_shows_the_card_its_pictures_and_the_form(fleet: Fleet) -> None:
    browser = fleet.browser(Role.PUBLISHER)
    shown = browser.get("/models/digits/1.0.0/card")
    assert shown.status_code == 200
    assert "31 % of accuracy" in text_of(shown.text)
    picture = browser.get("/models/digits/1.0.0/card/0.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert browser.get("/models/digits/1.0.0/card/9.png").status_code == 404
    values = {"body.owner": "Line <team>", "body.licence": "MIT", "body.limits": "one\ntwo"}
    answer = send(browser, form(shown.text, "/do/put_model_card"), values)
    assert answer.status_code == 303, text_of(answer.text)
    after = browser.get("/models/digits/1.0.0/card").text
    assert "Line &lt;team&gt;" in after
    assert "one; two" in text_of(after)
    assert "/models/digits/1.0.0/card" in browser.get("/models/digits/1.0.0").text


def test_a_picture_is_upright_and_warm_where_hiding_costs() -> None:
    data = png_of(PartMap("image", "", 9, [[0.5, 0.0], [0.0, -0.5]], "", 0, 0))
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (256, 256)
    at = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[at - 4 : at])
    raw = zlib.decompress(data[at + 4 : at + 4 + length])
    first, last = raw[1:4], raw[-3:]
    assert first[0] > first[2]
    assert last[2] > last[0]
    broken = PartMap("image", "", 9, [[0.5]], "no base64", 4, 4)
    assert png_of(broken).startswith(b"\x89PNG")
