"""Data in every format: on stdout only, JSON as the API's answer, tables that fit."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from edgefleet_cli.core.api.bundle import Bundle
from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.transport.reply import Page, Reply, struct_of
from edgefleet_cli.release.render import BUNDLES, CANDIDATES, Candidate, Score, exit_code, failures, show_result
from edgefleet_cli.render.format import age, digits, error_text, metric, milliseconds, pairs, size, text
from edgefleet_cli.render.output import Column, Output, Sheet, fitted
from edgefleet_server.dashboard.core.filters import size as page_size

_SHEET: Sheet[dict[str, Any]] = Sheet(
    "things", [Column("name", lambda x: x["name"]), Column("note", lambda x: x["note"], wide=True)], lambda x: x["name"]
)
_PAGE = {"items": [{"name": "a", "note": "one, two"}, {"name": "b", "note": "[red]"}], "next_cursor": None, "total": 2}


def test_json_and_yaml_are_the_answer_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.JSON).items(Page(_PAGE, dict), _SHEET)
    assert json.loads(capsys.readouterr().out) == _PAGE
    Output(Format.YAML).items(Page(_PAGE, dict), _SHEET)
    assert yaml.safe_load(capsys.readouterr().out) == _PAGE


def test_half_a_character_is_an_escape_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"name": "\ud800", "note": "é"}
    Output(Format.JSON).document(odd, lambda: None)
    Output(Format.JSON).record(Reply(odd, dict), _SHEET)
    whole, _, line = capsys.readouterr().out.partition("}\n")
    assert json.loads(whole + "}") == json.loads(line) == odd


def test_name_is_one_identifier_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.NAME).items(Page(_PAGE, dict), _SHEET)
    assert capsys.readouterr().out == "a\nb\n"


@pytest.mark.parametrize("form", list(Format))
def test_no_text_of_a_device_steers_the_terminal(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe"
    output = Output(form)
    output.items(Page({"items": [{"name": "a", "note": evil}]}, dict), _SHEET)
    if output.is_for_eyes:
        output.fields([("hostname", evil)])
        output.heading(f"Model {evil}")
        output.note(evil)
    said = capsys.readouterr()
    assert not {"\x1b", "\x07"} & set(said.out + said.err)


def test_csv_has_all_columns_and_quotes_what_needs_it(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.CSV).items(Page(_PAGE, dict), _SHEET)
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["name", "note"],
        ["a", "one, two"],
        ["b", "[red]"],
    ]


def test_csv_holds_no_formula_that_a_device_chose_as_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    formulas = ["=cmd|' /C calc'!A0", "+1+2", "@SUM(A1)", "-2+cmd|'x'!A0", " =1+2"]
    plain = ["-", "-3", "-0.5 ms", "a=b", "1.0.0"]
    page = {"items": [{"name": name, "note": ""} for name in [*formulas, *plain]]}
    Output(Format.CSV).items(Page(page, dict), _SHEET)
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]
    assert [name for name, _ in rows] == [*(f"'{one}" for one in formulas), *plain]


def test_a_table_hides_wide_columns_and_prints_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.TABLE).items(Page(_PAGE, dict), _SHEET)
    assert "NOTE" not in capsys.readouterr().out
    Output(Format.WIDE).items(Page(_PAGE, dict), _SHEET)
    assert "[red]" in capsys.readouterr().out


def test_an_empty_list_is_a_remark_as_a_table_and_an_object_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.TABLE).items(Page({"items": []}, dict), _SHEET)
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "no things\n")
    Output(Format.JSON).items(Page({"items": []}, dict), _SHEET)
    assert json.loads(capsys.readouterr().out) == {"items": []}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_fits_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    bundle = {
        "profile": "generic-x86_64-ort-small",
        "runtime": "ort",
        "precision": "int8",
        "bytes": 160_000,
        "ratio": 0.26,
    }
    Output(Format.WIDE).table([struct_of(bundle, Bundle)], BUNDLES.columns)
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= width


def test_quiet_silences_remarks_but_not_data(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(Format.NAME, quiet=True)
    out.note("hidden")
    out.items(Page(_PAGE, dict), _SHEET)
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out == "a\nb\n"


def test_figures_are_short_and_never_fail_on_nothing() -> None:
    assert [size(n) for n in (0, 999, 1500, 160_000, 2_500_000, 5e15, None, -1)] == [
        "0 B",
        "999 B",
        "1.5 KiB",
        "156.2 KiB",
        "2.4 MiB",
        "4547.5 TiB",
        "-",
        "-",
    ]
    sizes = (0, 1, 999, 1023, 1024, 1025, 123_456, 2**20, 10**9, 2**40, 5e15)
    assert [size(n) for n in sizes] == [page_size(n) for n in sizes], "the pages say the same"
    assert [milliseconds(x) for x in (0.031, 12.4, None)] == ["0.03 ms", "12 ms", "-"]
    assert metric({"name": "top1", "value": 0.955, "drop": 0.0}) == "top1 0.9550"
    assert metric({"name": "top1", "value": 0.95, "drop": 0.005}) == "top1 0.9500 (0.5 points lost)"
    gained = {"name": "top1", "value": 0.954, "baseline": 0.95, "drop": -0.004}
    assert metric(gained) == "top1 0.9540 (0.4 points better)", "a gain is no loss with a sign"
    assert metric(gained | {"drop": 0.0, "value": 0.95}) == "top1 0.9500"
    assert metric({"name": "mae", "value": 0.012, "baseline": 0.01, "drop": 0.002}) == "mae 0.0120 (0.0020 worse)"
    assert metric({"name": "mae", "value": 0.012, "baseline": 0.0, "drop": 0.012}) == "mae 0.0120"
    assert metric(None) == "-"
    assert pairs({"b": 1, "a": 2}) == "a=2,b=1"
    assert text(True) == "yes"
    assert [text(one) for one in (0.12345, 9999.4, 22_561.4, -1e6)] == ["0.1235", "9999", "22561", "-1000000"]
    assert [digits(one, 2) for one in (14.4, 99.4, 143.0)] == ["14", "99", "143"]
    assert error_text("golden", "no match") == "golden: no match"
    assert error_text(None, "") == ""
    now = datetime(2026, 1, 3, 12, 0, tzinfo=UTC)
    times = ("2026-01-01T00:00:00Z", "2026-01-03T09:30:00", "2026-01-03T13:55:00+02:00", "2026-01-03T12:00:09Z")
    assert [age(time, now) for time in times] == ["2d", "2h", "5m", "0s"]
    assert [age(value, now) for value in ("nonsense", "", None)] == ["-", "-", "-"]


def test_a_table_leaves_out_what_is_spare_when_it_is_too_wide() -> None:
    columns: list[Column[dict[str, str]]] = [
        Column("name", lambda e: str(e["name"])),
        Column("first", lambda e: str(e["a"]), spare=1),
        Column("second", lambda e: str(e["b"]), spare=2),
    ]
    entries = [{"name": "n" * 10, "a": "a" * 10, "b": "b" * 10}]
    assert [c.header for c in fitted(entries, columns, 34)[0]] == ["name", "first", "second"]
    assert [c.header for c in fitted(entries, columns, 33)[0]] == ["name", "first"]
    assert [c.header for c in fitted(entries, columns, 5)[0]] == ["name"]


def test_a_rejection_has_its_reason_in_80_columns() -> None:
    row = Candidate(
        id="int8-static-head-float", precision="int8", bytes=5_000_000, metric=Score(name="top1", value=0.9, drop=0.05),
        latency_ms={"p50": 12.3, "p95": 14.5}, peak_rss_bytes=7e7, cold_start_ms=90.0, verdict="rejected",
        short="12.3 points lost",
    )  # fmt: skip
    columns, widths = fitted([row], CANDIDATES.columns, 80)
    cells = [column.cell(row) for column in columns]
    assert "rejected: 12.3 points lost" in cells
    assert all(len(cell) <= width for cell, width in zip(cells, widths, strict=True)), "nothing is cut"


def test_a_piped_table_is_100_columns_wide_and_cuts_what_is_longest_unless_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    columns: list[Column[dict[str, str]]] = [
        Column("id", lambda e: e["id"], keep=True),
        Column("release", lambda e: e["release"]),
        Column("reason", lambda e: e["reason"]),
    ]
    entry = {"id": "r-" + "7" * 20, "release": "digits@1.1.0", "reason": "3 of 9 failed " * 20 + "\nat last"}
    Output(Format.TABLE).table([entry], columns)
    _head, row = capsys.readouterr().out.splitlines()
    assert 98 <= len(row) <= 100
    assert row.startswith(entry["id"] + "  digits@1.1.0  3 of 9 failed")
    assert row.endswith("…")
    Output(Format.WIDE).table([{**entry, "reason": "3 of 9 failed " * 20}], columns)
    _head, row = capsys.readouterr().out.splitlines()
    assert row.count("3 of 9 failed") == 20


def test_what_is_no_table_is_not_folded_for_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    Output(Format.TABLE).fields([("url", "https://edge.example/" + "x" * 300)])
    Output(Format.TABLE).prose("word " * 100)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_cancelled_conversion_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"profile": "p1", "code": "conversion.cancelled", "reason": "cancelled by ann", "next": "publish again"}
    jobs = [{"profile": "p1", "state": "cancelled", "message": ""}]
    release = {"state": "cancelled", "bundles": [], "refused": [refused], "jobs": jobs}
    show_result(Output(Format.TABLE), struct_of(release, Release))
    written = capsys.readouterr().out
    assert re.search(r"^p1 .* cancelled\s*$", written, re.MULTILINE)
    assert "p1: cancelled by ann (conversion.cancelled)\n  next: publish again" in written
    assert exit_code(struct_of(release, Release)) == 1


def test_a_release_shows_one_row_a_bundle_and_one_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    release = {
        "state": "partial",
        "bundles": [{"profile": "p1", "runtime": "ort", "precision": "int8", "bytes": 10, "verdict": "passed"}],
        "refused": [{"profile": "p2", "code": "convert.accuracy", "reason": "loses 12 points", "next": "use fp32"}],
        "jobs": [
            {"profile": "p2", "state": "refused", "message": "loses 12 points"},
            {"profile": "p3", "state": "failed", "message": "the child was killed"},
        ],
    }
    show_result(Output(Format.TABLE), struct_of(release, Release))
    written = capsys.readouterr().out
    assert "p2: loses 12 points (convert.accuracy)\n  next: use fp32" in written
    assert "p3: the child was killed" in written
    assert [entry.profile for entry in failures(struct_of(release, Release))] == ["p2", "p3"]
    assert exit_code(struct_of(release, Release)) == 1
    assert exit_code(Release(state="ready")) == 0


def test_profiles_that_are_refused_alike_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    refused = [{"profile": name, "code": "convert.x", "reason": "too long", "next": "cut it"} for name in ("p1", "p2")]
    show_result(Output(Format.TABLE), struct_of({"state": "failed", "bundles": [], "refused": refused}, Release))
    written = capsys.readouterr().out
    assert "p1, p2: too long (convert.x)\n  next: cut it" in written
    assert written.count("too long") == 1


def test_lines_that_no_terminal_reads_end_without_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(Format.TABLE)
    output.items(Page({"items": [{"name": "a", "note": "long"}, {"name": "b", "note": "-"}]}, dict), _SHEET)
    output.fields([("url", "http://127.0.0.1"), ("pid", "1")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines == [line.rstrip() for line in lines]
