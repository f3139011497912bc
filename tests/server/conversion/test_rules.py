"""When two conversions count as the same, and what is believed of a report."""

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.conversion.engine import check_bundle
from edgefleet_server.conversion.errors import BadAnswerError
from edgefleet_server.conversion.model import SandboxLimits
from edgefleet_server.conversion.reports import read_report
from edgefleet_server.conversion.rules import (
    MAX_ROW_BYTES,
    check_row,
    content_key,
    may_be_known,
    merged_report,
    renamed_report,
    trusted_report,
)
from edgefleet_server.conversion.sandbox_entry import file_rules
from edgefleet_server.encryption.model_sealer import sealed_bundle
from edgefleet_server.registry.model import JobSpec, SourceFile
from tests.agent.worker.models import bundle_bytes, classifier_onnx

TOOLS = "a" * 64
LIMITS = SandboxLimits(memory_bytes=1, file_bytes=1, output_bytes=1, wall_s=1.0, cpu_s=1)
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
    assert content_key(renamed, TOOLS, LIMITS) == content_key(SPEC, TOOLS, LIMITS)


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
    assert content_key(replace(SPEC, **changes), TOOLS, LIMITS) not in {None, content_key(SPEC, TOOLS, LIMITS)}


def test_other_tools_are_another_content() -> None:
    assert content_key(SPEC, "b" * 64, LIMITS) != content_key(SPEC, TOOLS, LIMITS)


@pytest.mark.parametrize("tools", [None, "", "A" * 64, 3, ["a" * 64], "a" * 65])
def test_without_a_digest_of_the_tools_nothing_is_the_same(tools: object) -> None:
    assert content_key(SPEC, tools, LIMITS) is None


def test_other_limits_are_another_content() -> None:
    wider = replace(LIMITS, memory_bytes=2)
    assert content_key(SPEC, TOOLS, wider) != content_key(SPEC, TOOLS, LIMITS), "a candidate may come through now"


def test_a_metric_that_is_code_is_never_the_same() -> None:
    assert content_key(replace(SPEC, options={"metric": "pkg.mod:func"}), TOOLS, LIMITS) is None


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
    merged = merged_report(ReleaseRef.parse("m@1"), [one, two])
    assert [row["profile"] for row in merged["profiles"]] == ["p", "q"]
    assert merged["data"] == {"n": 3}
    first, second = ReleaseRef.parse("m@1"), ReleaseRef.parse("n@2")
    again = renamed_report(one, second, {"sha256": "1"}, first)
    assert (again["model"], again["version"], again["kept_from"]) == ("n", "2", "m@1")
    assert again["profiles"][0]["bundle"] == {"path": "", "sha256": "1", "model": "n", "version": "2"}
    assert renamed_report(again, first, None, second)["kept_from"] == "m@1", "where it was really made"


def test_the_importance_of_inputs_is_that_of_the_profile_that_measured_it() -> None:
    plain = {"profiles": [{"profile": "p"}]}
    measured = {"profiles": [{"profile": "q"}], "importance": {"metric": "top1"}}
    ref = ReleaseRef.parse("m@1")
    assert merged_report(ref, [plain, measured])["importance"] == {"metric": "top1"}
    assert merged_report(ref, [plain])["importance"] == {}


def test_the_comparison_with_the_parent_is_that_of_the_profile_that_measured_it() -> None:
    ref = ReleaseRef.parse("m@1")
    merged = merged_report(ref, [{"profiles": []}, {"profiles": [], "comparison": {"n": 3}}])
    assert (merged["comparison"], merged["importance"]) == ({"n": 3}, {})


def test_a_release_is_kept_from_another_only_when_all_its_profiles_are() -> None:
    made = {"model": "m", "version": "2", "profiles": [{"profile": "q"}]}
    first, second = ReleaseRef.parse("m@1"), ReleaseRef.parse("m@2")
    known = renamed_report({"model": "m", "profiles": [{"profile": "p"}]}, second, None, first)
    assert merged_report(second, [known])["kept_from"] == "m@1"
    for documents in ([known, made], [made, known]):
        assert not merged_report(second, documents).get("kept_from")


@pytest.mark.parametrize(
    "row",
    [{"ratio": float("inf")}, {"ratio": "1"}, {"metric": "x"}, {"work": [1]}, {"runtimes": ["ort"]}, {"bytes": True},
     {"verdict": "\ud800"}, {"parity": {"y": float("nan")}}, {"more": "x" * MAX_ROW_BYTES}],
)  # fmt: skip
def test_a_row_that_could_not_be_shown_is_refused(row: dict[str, Any]) -> None:
    fine = {"ratio": 1, "metric": None, "work": {"macs": {"conv.float": 3}}, "runtimes": [{"name": "ort"}], "bytes": 3}
    check_row(fine)
    with pytest.raises(BadAnswerError):
        check_row(fine | row)


def test_a_pipe_in_the_place_of_a_file_holds_nobody(tmp_path: Path) -> None:
    for name in ("report.json", "m.bundle"):
        os.mkfifo(tmp_path / name)
    assert read_report(tmp_path, "p") is None
    with pytest.raises(BadAnswerError):
        check_bundle(SPEC, tmp_path, {"path": "m.bundle"}, 1000)


def test_a_bundle_that_its_converter_sealed_is_refused(tmp_path: Path) -> None:
    plain = bundle_bytes(classifier_onnx(), version="1")
    (tmp_path / "m.bundle").write_bytes(sealed_bundle(open_bundle(io.BytesIO(plain)), bytes(32)))
    with pytest.raises(BadAnswerError, match="only the server"):
        check_bundle(SPEC, tmp_path, {"path": "m.bundle"}, 1_000_000)


@pytest.mark.parametrize("home", ["/bin", "/bin/", "/", "//bin", "/usr/../bin"])
def test_a_tool_environment_of_the_root_folder_does_not_open_the_machine(tmp_path: Path, home: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "pyvenv.cfg").write_text(f"home = {home}\n")
    opened = {os.path.realpath(rule.path) for rule in file_rules([], [], [], [str(tmp_path)])}
    assert "/" not in opened
