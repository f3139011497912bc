"""A conversion that was done is not done again, unless something that decides it changed or a bundle is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefleet_converters.report import ConversionReport
from tests.converters.graphs import changed, classifier, data_for, run, samples, save


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kept")
    model = classifier(features=64)
    x, _ = data_for(model, 40)
    source, data = save(model, folder), {"eval": samples(folder, x=x)}
    report, _ = run(source, folder / "out", data=data, precision="fp16")
    return {"source": source, "data": data, "out": folder / "out", "report": report, "folder": folder}


def converted_again(done: dict[str, Any], **keys: Any) -> tuple[bool, ConversionReport]:
    """Convert into the same folder and tell whether it was done anew."""
    options = {"precision": "fp16"} | keys
    report, events = run(done["source"], done["out"], data=done["data"], **options)
    return any(event["type"] == "progress" for event in events), report


def test_a_conversion_writes_the_report_as_a_page_too(done: dict[str, Any]) -> None:
    page = (done["out"] / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert all(row.profile in page for row in done["report"].profiles)
    assert all(row.id in page for profile in done["report"].profiles for row in profile.candidates)


def test_the_second_time_converts_nothing_and_gives_the_same_report(done: dict[str, Any]) -> None:
    anew, report = converted_again(done)
    assert not anew
    assert report == done["report"]


@pytest.mark.slow
def test_other_options_data_or_profiles_are_converted(done: dict[str, Any]) -> None:
    assert converted_again(done, max_drop=0.02)[0]
    assert converted_again(done, profiles=[changed("generic-x86_64-ort", title="another")])[0]
    x, _ = data_for(classifier(features=64), 41)
    samples(done["folder"], x=x)
    assert converted_again(done, profiles=[changed("generic-x86_64-ort", title="another")])[0]
    assert not converted_again(done, profiles=[changed("generic-x86_64-ort", title="another")])[0]


@pytest.mark.slow
def test_a_damaged_bundle_is_made_again(done: dict[str, Any]) -> None:
    _, report = converted_again(done)
    path = Path(report.bundles[0].path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    anew, report = converted_again(done)
    assert anew
    assert not converted_again(done)[0]
