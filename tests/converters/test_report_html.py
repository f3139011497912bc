"""The report's page: all that the report says, nothing that a model's names could do."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_converters.report import (
    BundleRow,
    CandidateRow,
    ConversionReport,
    LayerRow,
    MetricRow,
    ProfileReport,
    RefusedRow,
    with_front,
)
from edgefleet_converters.report_html.page import render, sheet_source
from edgefleet_converters.report_html.plots import candidates_plot, layer_rows
from edgefleet_profiles.number_format import MAX_TEXT, shown
from edgefleet_protocol.manifest import RuntimeProof

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onload='x", "</style><svg/onload=x>", "]]><!--", "&lt;b&gt;",
    "\u202egnp.exe\x1b[2J", "javascript:alert(1)",
)  # fmt: skip
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "section", "table", "caption", "thead", "tbody", "tr",
    "th", "td", "span", "code", "details", "summary", "dl", "dt", "dd", "figure", "svg", "g", "line", "rect", "circle", "path", "text",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    @property
    def text(self) -> str:
        return "".join(self.texts)


def metric(value: float, *, name: str = "top1", baseline: float = 1.0, is_error: bool = False) -> MetricRow:
    drop = value - baseline if is_error else baseline - value
    return MetricRow(name=name, value=value, baseline=baseline, drop=drop, n=165, data="evaluation data")


def candidate(name: str, size: int, value: float, *, verdict: str = "passed", p50: float = 1.0) -> CandidateRow:
    return CandidateRow(
        id=name, precision="int8", bytes=size, metric=metric(value), verdict=verdict, latency_ms={"p50": p50, "p95": 2.5},
        reason="" if verdict == "passed" else "loses too much", cold_start_ms=93.0, peak_rss_bytes=71_000_000,
    )  # fmt: skip


def report(name: str = "conv") -> ConversionReport:
    """Return a report with two profiles in which every name of the model is `name`."""
    rows = with_front([
        candidate(name, 900_000, 0.2, verdict="rejected"), candidate("int8-mixed", 1_200_000, 0.995),
        candidate("fp16", 1_600_000, 1.0, p50=0.5), CandidateRow(id="fp32", precision="fp32", reason=name),
    ])  # fmt: skip
    bundle = BundleRow(
        model="m", version="1", profile="a-ort", runtime="ort", precision="int8", candidate="int8-mixed", bytes=1_200_000,
        fp32_bytes=3_000_000, ratio=0.4, bundle_bytes=1_300_000, sha256="ab" * 32, target="m/1/a-ort.bundle", metric=metric(0.995),
        parity={name: {"max_abs": 0.03}}, latency_ms={"p50": 1.0, "p95": 2.5}, peak_rss_bytes=71_000_000,
        runtimes=[RuntimeProof(name="ort", version="1.32.0")], verdict="passed", path="/out/x.bundle",
    )  # fmt: skip
    good = ProfileReport(
        profile="a-ort", candidates=rows, bundle=bundle, fp32=candidate("source", 3_000_000, 1.0), stages_s={"gate": 2.5, name: 1.0},
        layers=[LayerRow(kind="node", name=name, drop=0.3, distance=0.8, kept=True)],
        passes=[{"name": "fold", "outcome": "applied", "reason": name}],
    )  # fmt: skip
    bad = ProfileReport(
        profile="b-rknn", refused=RefusedRow(profile="b-rknn", code="convert.x", reason=name, next=name)
    )
    return ConversionReport(
        model="m", version="1", profiles=[good, bad], options={"max_drop": 0.01, "metric": name}, host={"machine": name},
        source={"inputs": [{"name": name, "dtype": "float32", "shape": [name, 3]}], "operators": {name: 2}, "opset": 17, name: name},
        data={"judged_on": name, "judging_samples": 165},
    )  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_a_model_are_text_wherever_they_stand(name: str) -> None:
    plain, page = Page(render(report())), Page(render(report(name)))
    assert page.tags == plain.tags
    assert set(page.tags) <= TAGS
    assert [key for key, _ in page.attributes] == [key for key, _ in plain.attributes]
    assert page.text.count(shown(name)) >= 9
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text


@settings(max_examples=30, deadline=None)
# words of this file are drawn too: a candidate with the name of another one is another report, with other rows
@given(
    st.text(min_size=1, max_size=30).filter(lambda name: name not in ("int8-mixed", "fp16", "fp32", "source", "gate"))
)
def test_no_text_whatsoever_becomes_an_element(name: str) -> None:
    page = Page(render(report(name)))
    assert page.tags == Page(render(report())).tags
    assert shown(name) in page.text


def test_the_page_needs_and_allows_nothing_else() -> None:
    page = render(report())
    seen = Page(page)
    policy = next(value for key, value in seen.attributes if key == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    sheet = page.partition("<style>")[2].partition("</style>")[0]
    assert "<" not in sheet
    assert sheet_source(sheet) in policy, "the hash of the style that the page has"
    assert not {key for key, _ in seen.attributes} & {"src", "href", "style", "action", "srcset", "xlink:href"}
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_each_candidate_stands_there_with_all_its_figures() -> None:
    text = Page(render(report())).text
    for told in (
        "int8-mixed", "1.1 MiB (0.40 ×)", "0.9950", "1.00 ms", "2.50 ms", "67.7 MiB", "93 ms", "passed", "rejected", "loses too much",
        "1 not tried", "● front", "left in float", "refused", "convert.x", "165 samples", "ort 1.32.0", "float32 conv×3", "fold",
    ):  # fmt: skip
        assert told in text, told


def test_a_long_name_is_cut() -> None:
    page = render(report("n" * 1_000_000))
    assert len(page) < 100_000
    assert "n" * MAX_TEXT + "…" in page


def test_the_plot_shows_each_judged_candidate_and_turns_for_an_error() -> None:
    rows = report().profiles[0].candidates
    plot = candidates_plot(rows, candidate("source", 3_000_000, 1.0), "int8-mixed", 0.01)
    assert plot is not None
    assert plot.count("<g>") == 4
    assert plot.count('class="ring"') == 1
    assert plot.count("dot front") == 2
    assert "up is better" in plot
    assert "refused below" in plot
    assert "v9m" in plot, "the one that lost 80 % stands at the bottom with an arrow"
    errors = [
        msgspec.structs.replace(row, metric=metric(value, name="mae", baseline=0.0, is_error=True))
        for row, value in zip(rows[:3], (0.4, 0.004, 0.002), strict=True)
    ]
    turned = candidates_plot(errors, candidate("source", 3_000_000, 1.0), None, 0.01)
    assert turned is not None
    assert "an error" in turned


def test_the_front_is_drawn_in_bytes_and_in_time() -> None:
    rows = report().profiles[0].candidates
    source = candidate("source", 3_000_000, 1.0)
    by_size = candidates_plot(rows, source, "int8-mixed", 0.01)
    by_time = candidates_plot(rows, source, "int8-mixed", 0.01, by_time=True)
    assert by_size is not None
    assert by_time is not None
    assert by_size.count('class="front-line"') == 1
    assert "bytes of the model" in by_size
    assert "converting host (p50)" in by_time
    assert "1.00 ms" in by_time
    unmeasured = [msgspec.structs.replace(row, latency_ms=None) for row in rows]
    assert candidates_plot(unmeasured, None, None, 0.01, by_time=True) is None


def test_a_plot_of_one_point_or_of_no_numbers_is_left_out() -> None:
    assert candidates_plot([candidate("a", 10, 1.0)], None, None, 0.01) is None
    assert candidates_plot([CandidateRow(id="a", precision="fp32")], None, None, None) is None
    broken = [candidate("a", 10, float("nan")), candidate("b", 10, float("nan"))]
    assert candidates_plot(broken, None, None, 0.01) is None


def test_equal_points_make_a_plot() -> None:
    same = [candidate("a", 10, 1.0), candidate("b", 10, 1.0)]
    assert candidates_plot(same, None, None, 0.0) is not None


def test_labels_in_a_crowd_give_way_to_those_of_the_choice_and_the_source() -> None:
    crowd = [candidate(f"c{n}", 1_000_000 + n, 1.0) for n in range(40)]
    plot = candidates_plot(crowd, candidate("source", 3_000_000, 1.0), "c30", 0.01)
    assert plot is not None
    shown = re.findall(r'class="label"[^>]*>([^<]*)<', plot)
    assert {"source", "31"} <= set(shown)
    assert len(shown) < 20


def test_the_worst_layers_are_shown_and_the_rest_counted() -> None:
    layers = [LayerRow(kind="node", name=f"n{i}", drop=0.0, distance=1.0 / (i + 1), kept=False) for i in range(42)]
    rows, more = layer_rows(layers)
    assert (len(rows), more) == (30, 12)
    assert rows[0][0].name == "n0"
    assert layer_rows([msgspec.structs.replace(layers[0], distance=float("inf"))]) == ([], 1)


@pytest.mark.parametrize(("kind", "told"), [("node", "left in float"), ("weights", "in 16 bits")])
def test_what_became_of_a_layer_that_int8_ruins_is_told(kind: str, told: str) -> None:
    made = report()
    made.profiles[0].layers = [LayerRow(kind=kind, name="n", drop=0.3, distance=0.8, kept=True)]
    assert told in Page(render(made)).text


def test_the_module_turns_json_into_a_page_and_refuses_anything_else(tmp_path: Path) -> None:
    def run(data: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-P", "-m", "edgefleet_converters.report_html"]
        return subprocess.run(command, input=data, capture_output=True, check=False, cwd=tmp_path)

    made = run(msgspec.json.encode(report()))
    assert made.stdout.decode() == render(report())
    refused = run(b'{"model": 3}')
    assert refused.returncode == 2
    assert refused.stdout == b""
    assert b"no conversion report" in refused.stderr
