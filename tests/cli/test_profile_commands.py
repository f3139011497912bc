"""`edgectl profile`: list, show, validate, schema, without a server."""

from __future__ import annotations

from pathlib import Path

import edgefleet_profiles
from edgefleet_profiles.profile import profile_schema
from tests.cli.conftest import Edgectl


def test_shipped_profiles_are_listed_without_a_server(edgectl: Edgectl) -> None:
    ran = edgectl("profile", "list", "--shipped", "-o", "json")
    assert ran.code == 0, ran.err
    assert [item["name"] for item in ran.json["items"]] == list(edgefleet_profiles.names())


def test_the_table_says_what_a_publication_gives(edgectl: Edgectl) -> None:
    ran = edgectl("profile", "list", "--shipped", "-o", "csv")
    rows = {line.split(",")[0]: line.split(",")[3] for line in ran.out.splitlines()}
    assert (rows["raspberry-pi-5-ort"], rows["coral-tflite-edgetpu"], rows["rk3588-rknn"]) == (
        "bundle",
        "prepared",
        "refused",
    )


def test_a_shown_profile_is_a_file_that_validates(edgectl: Edgectl, tmp_path: Path) -> None:
    for name in ("cortex-m-tflm", "coral-tflite-edgetpu", "raspberry-pi-4-ort"):
        shown = edgectl("profile", "show", name, "--shipped", "-o", "yaml")
        assert shown.code == 0, shown.err
        (tmp_path / "board.yaml").write_text(shown.out)
        assert edgefleet_profiles.load_file(tmp_path / "board.yaml") == edgefleet_profiles.load(name)
        ran = edgectl("profile", "validate", tmp_path / "board.yaml", "-o", "json")
        assert ran.code == 0, ran.err
        assert ran.json == {"file": str(tmp_path / "board.yaml"), "name": name, "ok": True, "findings": []}


def test_an_unknown_profile_exits_5_and_names_close_ones(edgectl: Edgectl) -> None:
    ran = edgectl("profile", "show", "raspberry-pi-6-ort", "--shipped")
    assert ran.code == 5
    assert "raspberry-pi-5-ort" in ran.told()[2]


def test_a_wrong_file_exits_2_and_names_key_and_line(edgectl: Edgectl, tmp_path: Path) -> None:
    text = edgectl("profile", "show", "raspberry-pi-4-ort", "--shipped", "-o", "yaml").out
    path = tmp_path / "board.yaml"
    path.write_text(text.replace("act_dtype: int8", "act_dtype: int3"))
    line = next(at for at, row in enumerate(path.read_text().splitlines(), 1) if "int3" in row)
    ran = edgectl("profile", "validate", path)
    assert ran.code == 2
    assert f"line {line}" in ran.told()[0]
    assert "quant.act_dtype" in ran.told()[0]


def test_a_fact_without_evidence_is_a_finding_with_its_line(edgectl: Edgectl, tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(
        "name: mine-ort\ntitle: mine\narch: x86_64\nruntime: {name: ort, version: 1.32.0}\nmatch: {}\n"
        "formats_allowed: [onnx]\nrank_max: 4\nevidence: {runtime: {kind: guess, note: n}}\n"
    )
    ran = edgectl("profile", "validate", path, "-o", "json")
    assert ran.code == 0
    (finding,) = ran.json["findings"]
    assert (finding["key"], finding["line"]) == ("rank_max", 7)
    assert "evidence.rank_max" in finding["next"]
    assert "rank_max" in edgectl("profile", "validate", path).out


def test_a_missing_file_is_told(edgectl: Edgectl, tmp_path: Path) -> None:
    ran = edgectl("profile", "validate", tmp_path / "none.yaml")
    assert ran.code == 2
    assert "cannot read" in ran.told()[0]


def test_the_schema_is_json_in_every_form(edgectl: Edgectl) -> None:
    assert edgectl("profile", "schema").json == profile_schema()
    assert edgectl("profile", "schema", "-o", "json").json == profile_schema()
