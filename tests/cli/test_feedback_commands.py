"""`edgectl model accuracy` and `edgectl feedback` against a served fleet with labels; and the page that shows the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_cli.release.ground_truth import upload
from edgefleet_protocol.feedback_csv import read_rows
from edgefleet_protocol.ids import ModelName
from edgefleet_server.access.model import Role
from tests.cli.conftest import Edgectl
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.labelled_fleet import labelled
from tests.server.dashboard.serving import served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str, list[str]]]:
    """The fleet, served."""
    fleet = Fleet(tmp_path_factory.mktemp("labels") / "server")
    devices = [str(one.id) for one in labelled(fleet)]
    with served(fleet.house.own_app()) as url:
        yield fleet, url, devices
    fleet.close()


@pytest.fixture(autouse=True)
def _signed_in(site: tuple[Fleet, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, url, _ = site
    monkeypatch.setenv("EDGECTL_SERVER", url)
    monkeypatch.setenv("EDGECTL_TOKEN", fleet.house.token(Role.OPERATOR))


def test_accuracy_is_shown_by_release_and_by_site(edgectl: Edgectl) -> None:
    shown = edgectl("model", "accuracy", "pump")
    assert shown.code == 0, shown.err
    row = next(line for line in shown.out.splitlines() if line.startswith("1.0.0"))
    assert row.split()[:4] == ["1.0.0", "240", "4", "70.0%"]
    assert "1 (72)" in shown.out, "what was answered instead"
    assert "units_rejected" in shown.out
    assert "not counted: 12 labels without a remembered answer" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    sites = edgectl("model", "accuracy", "pump", "--by", "site", "-o", "json").json
    assert [(one["name"], round(one["accuracy"], 2)) for one in sites["lines"]] == [("lyon", 0.9), ("osaka", 0.5)]
    assert all(one["low"] < one["accuracy"] < one["high"] for one in sites["lines"])
    assert edgectl("model", "accuracy", "pump", "--by", "weather").code != 0


def test_a_file_of_labels_goes_to_its_devices_and_bad_rows_are_named(
    edgectl: Edgectl, site: tuple[Fleet, str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE_BYTES", 60)
    file = tmp_path / "labels.csv"
    rows = [f"{device},t{n},1" for n, device in enumerate(site[2])]
    file.write_text("\n".join(["device,trace_id,label", *rows[:2], "d-nobody,t9,1", *rows[2:], "x,y", ""]))
    sent = edgectl("feedback", "upload", str(file), "--model", "pump", "--no-wait", "-o", "json")
    assert sent.code == 1
    assert (sent.json["rows"], sent.json["bad"], sent.json["pending"]) == (6, 2, 4)
    assert [(one["line"], one["error"][:18]) for one in sent.json["bad_rows"]] == [
        (4, "there is no device"),
        (7, "it has 2 cells, th"),
    ]
    listed = edgectl("feedback", "list", "pump")
    assert sent.json["id"] in listed.out
    shown = edgectl("feedback", "show", "pump", sent.json["id"])
    assert shown.code == 0, shown.err
    assert "on their way" in shown.err
    assert edgectl("feedback", "show", "pump", "u-none").error_code == "feedback.upload_unknown"
    file.write_text("trace,lable\n1,2\n")
    assert edgectl("feedback", "upload", str(file), "--model", "pump").error_code == "feedback.bad_file"


def test_a_file_is_cut_where_rows_end_and_holds_as_many_as_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE_LINES", 2)
    text = 'trace_id,label\na\u2028b,1\r\nc,2\n"d\n\n\ne",3\nf,4\n'
    pieces = list(upload._pieces(text))
    assert [first for first, _ in pieces] == [1, 3, 7]
    assert "".join(piece.removeprefix("trace_id,label\n") for _, piece in pieces) == text.removeprefix(
        "trace_id,label\n"
    )
    assert [len(list(read_rows(piece))) for _, piece in pieces] == [2, 1, 1]


def test_the_page_shows_the_same_and_sends_labels(site: tuple[Fleet, str, list[str]]) -> None:
    fleet, _, devices = site
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/models/pump/accuracy")
    assert page.status_code == 200
    for words in ("70.0 %", "units_rejected", "line 3: there is no device", "12 labels without a remembered answer"):
        assert words in page.text, words
    assert 'data-chart="accuracy-0"' in page.text
    by_site = browser.get("/models/pump/accuracy?by=site&span=2d").text
    assert "lyon" in by_site
    assert "/models/pump/accuracy" in browser.get("/models/pump").text
    before = len(fleet.parts.truth.uploads.uploads(ModelName("pump"), 50))
    filled = {"body.csv": f"device,trace_id,label\n{devices[1]},t5,1"}
    send(browser, form(page.text, "/do/send_feedback"), filled)
    assert len(fleet.parts.truth.uploads.uploads(ModelName("pump"), 50)) == before + 1
