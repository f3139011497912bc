"""`edgectl model card` and `publish --card` against a server that answers as the API does."""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub
from tests.house.pages import blocks

EXPLAIN = Path("docs/how-to/explain-a-model.md")

CARD = {
    "ref": "digits@1.0.0",
    "sections": [{"title": "Model", "facts": [{"name": "Release", "value": "digits@1.0.0", "origin": "recorded"}]}],
}


def test_a_card_is_shown_and_written_in_each_form(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says("GET /releases/digits@1.0.0/card", CARD)
    ran = edgectl("model", "card", "show", "digits@1.0.0")
    assert ran.code == 0, ran.err
    assert "recorded" in ran.out
    assert edgectl("model", "card", "show", "digits@1.0.0", "-o", "json").json["ref"] == "digits@1.0.0"
    ran = edgectl("model", "card", "show", "digits@1.0.0", "-o", "csv")
    assert ran.out.splitlines() == ["section,fact,value,origin", "Model,Release,digits@1.0.0,recorded"]
    assert edgectl("model", "card", "show", "digits@1.0.0", "-o", "name").out == "Release\n"
    out = tmp_path / "card.json"
    assert edgectl("model", "card", "show", "digits@1.0.0", "--out", str(out)).code == 0
    assert '"sections"' in out.read_text()


def test_a_card_is_stated_from_a_file(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says("PUT /releases/digits@1.0.0/card", CARD)
    file = tmp_path / "card.yaml"
    file.write_text("owner: Line team\nlicence: MIT\nlimits: [night shifts]\n")
    ran = edgectl("model", "card", "set", "digits@1.0.0", "-f", str(file))
    assert ran.code == 0, ran.err
    assert fleet.asked[-1].body == {"owner": "Line team", "licence": "MIT", "limits": ["night shifts"]}
    assert edgectl("model", "card", "set", "digits@1.0.0", "-f", str(file), "--dry-run").code == 0
    assert fleet.asked[-1].query["dry_run"] == "true"


@pytest.mark.parametrize(
    ("text", "said"),
    [("owner: [a", "neither YAML nor JSON"), ("price: 3", "price"), ("limits: once", "limits"), ("- a", "no fields")],
)
def test_a_wrong_file_is_refused_before_anything_is_sent(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "card.yaml"
    file.write_text(text)
    ran = edgectl("model", "card", "set", "digits@1.0.0", "-f", str(file))
    assert (ran.code, said in ran.err) == (2, True), ran.err
    model = tmp_path / "digits-1.0.0.onnx"
    model.write_bytes(b"x")
    assert edgectl("publish", str(model), "--card", str(file)).code == 2
    assert fleet.asked == []


def test_the_commands_of_the_page_that_explains_a_model(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in {"pump.onnx": b"a model", "eval.npz": b"its data"}.items():
        (tmp_path / name).write_bytes(data)
        fleet.says(f"HEAD /blobs/{sha256(data).hexdigest()}", {})
    (card,) = [one.text for one in blocks(EXPLAIN) if one.language == "yaml"]
    (tmp_path / "card.yaml").write_text(card)
    release = {"ref": "pump@2.0.0", "model": "pump", "version": "2.0.0", "state": "ready"}
    fleet.says("POST /releases", (201, release))
    fleet.says("GET /releases/pump@2.0.0", release)
    fleet.says("PUT /releases/pump@2.0.0/card", CARD)
    fleet.says("GET /releases/pump@2.0.0/card.pdf", b"%PDF-1.7")
    mine = [one for one in blocks(EXPLAIN) if one.language == "sh" and one.note == "tests/cli/test_card_commands.py"]
    for line in [line for one in mine for line in one.text.splitlines()]:
        ran = edgectl(*shlex.split(line)[1:])
        assert ran.code == 0, (line, ran.err)
    assert mine
    assert [body["data"]["eval"] for body in fleet.bodies("POST /releases")] == [sha256(b"its data").hexdigest()] * 2
    assert (tmp_path / "card.pdf").read_bytes() == b"%PDF-1.7"
