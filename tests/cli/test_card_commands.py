"""`edgectl model card` and `publish --card` against a server that answers as the API does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

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
