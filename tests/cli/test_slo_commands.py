"""`edgectl slo` against a server that answers as the API does."""

import json
from pathlib import Path

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub
from tests.server.objectives.test_openslo import latency

REFUSED = {
    "code": "slo.bad_file", "detail": "the objective has 1 mistake; first: $.spec.service: is missing", "status": 422,
    "errors": [{"path": "$.spec.service", "message": "is missing"}],
}  # fmt: skip


def test_all_objectives_of_a_file_are_checked_before_one_is_set(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "slos.yaml"
    file.write_text("\n---\n".join(json.dumps(latency() | {"metadata": {"name": name}}) for name in ("a", "b")))
    fleet.says("PUT /slos/a", {"name": "a"})
    fleet.says("PUT /slos/b", (422, REFUSED), {"name": "b"})
    ran = edgectl("slo", "set", "-f", str(file))
    assert (ran.code, f"{file}:3: $.spec.service" in ran.err) == (2, True), ran.err
    assert [(one.what, one.query.get("dry_run")) for one in fleet.asked] == [
        ("PUT /slos/a", "true"),
        ("PUT /slos/b", "true"),
    ]
    assert edgectl("slo", "set", "-f", str(file)).code == 0
    assert [(one.what, one.query.get("dry_run")) for one in fleet.asked[4:]] == [
        ("PUT /slos/a", None),
        ("PUT /slos/b", None),
    ]


def test_what_json_cannot_hold_is_sent_as_text_or_refused(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    fleet.says("PUT /slos/a", {"name": "a"})
    file.write_text('metadata: {name: a, displayName: "half \\ud83d", labels: {since: 2026-11-30}}\n')
    assert edgectl("slo", "set", "-f", str(file)).code == 0
    metadata = fleet.asked[-1].body["metadata"]
    assert (metadata["displayName"], metadata["labels"]) == ("half \ud83d", {"since": "2026-11-30"})
    for text in ("metadata: {name: a}\nspec: .nan\n", "metadata: {name: a, ? [b] : c}\n"):
        file.write_text(text)
        ran = edgectl("slo", "set", "-f", str(file))
        assert (ran.code, "neither YAML nor JSON" in ran.err) == (2, True), ran.err
