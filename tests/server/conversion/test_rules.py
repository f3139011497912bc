"""When two conversions count as the same, and what is believed of a report."""

from dataclasses import replace
from typing import Any

import pytest

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.conversion.rules import content_key, may_be_known, merged_report, renamed_report, trusted_report
from edgefleet_server.registry.model import JobSpec, SourceFile

TOOLS = "a" * 64
SPEC = JobSpec(
    ref=ReleaseRef.parse("digits@1"),
    profile=ProfileName("p-ort"),
    profile_facts={"name": "p-ort"},
    kind="file",
    files=(SourceFile("m.onnx", Sha256("0" * 64), 3),),
    data={"eval": Sha256("1" * 64)},
    options={"precision": "auto", "metric": None},
)


def test_name_version_and_file_name_do_not_count() -> None:
    renamed = replace(SPEC, ref=ReleaseRef.parse("other@2"), files=(SourceFile("n.onnx", Sha256("0" * 64), 3),))
    assert content_key(renamed, TOOLS) == content_key(SPEC, TOOLS)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": (SourceFile("m.onnx", Sha256("2" * 64), 3),)},
        {"files": (SourceFile("m.tflite", Sha256("0" * 64), 3),)},
        {"kind": "folder"},
        {"data": {}},
        {"data": {"eval": Sha256("2" * 64)}},
        {"data": {"calibration": Sha256("1" * 64)}},
        {"options": {"precision": "fp32", "metric": None}},
        {"profile_facts": {"name": "p-ort", "threads": 2}},
    ],
)
def test_everything_else_does(changes: dict[str, Any]) -> None:
    assert content_key(replace(SPEC, **changes), TOOLS) not in {None, content_key(SPEC, TOOLS)}


def test_other_tools_are_another_content() -> None:
    assert content_key(SPEC, "b" * 64) != content_key(SPEC, TOOLS)


@pytest.mark.parametrize("tools", [None, "", "A" * 64, 3, ["a" * 64], "a" * 65])
def test_without_a_digest_of_the_tools_nothing_is_the_same(tools: object) -> None:
    assert content_key(SPEC, tools) is None


def test_a_metric_that_is_code_is_never_the_same() -> None:
    assert content_key(replace(SPEC, options={"metric": "pkg.mod:func"}), TOOLS) is None


def test_only_what_says_something_of_the_model_is_known() -> None:
    assert may_be_known("done", "")
    assert may_be_known("refused", "convert.accuracy")
    assert not may_be_known("failed", "conversion.child_crashed")
    assert not may_be_known("cancelled", "conversion.cancelled")
    assert not may_be_known("refused", "convert.timed_out")
    assert not may_be_known("refused", "convert.out_of_memory")


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"profiles": {}}, {"profiles": []}, {"profiles": ["p"]}, {"profiles": [{"profile": "q"}]},
     {"profiles": [{"profile": "p"}, {"profile": "p"}]}],
)  # fmt: skip
def test_what_is_no_report_of_this_profile_is_not_believed(document: object) -> None:
    assert trusted_report(document, "p") is None


def test_a_report_loses_the_paths_of_this_machine_and_is_merged_and_renamed() -> None:
    one = trusted_report(
        {"model": "m", "profiles": [{"profile": "p", "bundle": {"path": "/srv/x", "sha256": "0"}}]}, "p"
    )
    two = trusted_report({"model": "m", "data": {"n": 3}, "profiles": [{"profile": "q"}], "key": "k"}, "q")
    assert one is not None
    assert two is not None
    assert one["profiles"][0]["bundle"] == {"path": "", "sha256": "0"}
    merged = merged_report([one, two])
    assert [row["profile"] for row in merged["profiles"]] == ["p", "q"]
    assert merged["data"] == {"n": 3}
    first, second = ReleaseRef.parse("m@1"), ReleaseRef.parse("n@2")
    again = renamed_report(one, second, {"sha256": "1"}, first)
    assert (again["model"], again["version"], again["kept_from"]) == ("n", "2", "m@1")
    assert again["profiles"][0]["bundle"] == {"path": "", "sha256": "1", "model": "n", "version": "2"}
    assert renamed_report(again, first, None, second)["kept_from"] == "m@1", "where it was really made"
