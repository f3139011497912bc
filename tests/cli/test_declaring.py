"""`apply`, `diff`, `get`, `export`, `delete` against a real server: twice changes nothing, what is got is what is applied."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from edgefleet_cli.declarative.resource_kinds import plain_selector
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.selectors.grammar import parse_selector
from tests.cli.conftest import Edgectl
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served

GROUP = {"kind": "Group", "metadata": {"name": "canaries"}, "spec": {"selector": "site = berlin, ring in (a,b)"}}
HOOK = {
    "kind": "Webhook",
    "metadata": {"name": "ops"},
    "spec": {"url": "https://192.0.2.7/x", "types": ["edgefleet.rollout.*"]},
}
ALERTS = {"kind": "AlertReceiver", "metadata": {"name": "prod"}, "spec": {"matchers": ["severity=critical"]}}
ROLLOUT = {
    "kind": "Rollout",
    "metadata": {"name": "digits-1"},
    "spec": {"release": "digits@1.0.0", "selector": "", "strategy": "canary"},
}


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A served fleet of three devices; the command line is its administrator."""
    made = Fleet(tmp_path / "server", webhook_networks=["192.0.2.0/24"])
    made.release("digits@1.0.0", ORT)
    for name in ("cam1", "cam2", "cam3"):
        made.device(name, labels={"site": "berlin"})
    with served(made.house.own_app()) as url:
        monkeypatch.setenv("EDGECTL_SERVER", url)
        monkeypatch.setenv("EDGECTL_TOKEN", made.house.token(Role.ADMIN))
        yield made
    made.close()


def written(folder: Path, *documents: dict[str, Any], name: str = "fleet.yaml") -> Path:
    """Write documents as one file."""
    file = folder / name
    file.write_text(yaml.safe_dump_all([{"apiVersion": "edgefleet/v1", **one} for one in documents]))
    return file


def actions(ran: Any) -> dict[str, str]:
    """Return the action of each object by `kind/name`."""
    return {f"{one['kind']}/{one['name']}": one["action"] for one in ran.json["items"]}


def test_applying_twice_changes_nothing_the_second_time(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    device = min(fleet.by_id)
    labels = {"kind": "Device", "metadata": {"name": device}, "spec": {"labels": {"site": "hall", "ring": 1}}}
    file = written(tmp_path, ROLLOUT, ALERTS, HOOK, labels, GROUP)
    secrets = tmp_path / "secrets"
    first = edgectl("apply", "-f", file, "--secrets", secrets, "-o", "json")
    assert first.code == 0, first.err
    assert actions(first) == {
        "Group/canaries": "created",
        f"Device/{device}": "changed",
        "Webhook/ops": "created",
        "AlertReceiver/prod": "created",
        "Rollout/digits-1": "created",
    }
    kept = sorted(secrets.iterdir())
    assert [file.name for file in kept] == ["ops.secret", "prod.url"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in kept)
    assert kept[0].read_text().startswith("whsec_")
    assert "/hooks/alertmanager/" in kept[1].read_text()
    assert not any(file.read_text().strip() in first.out + first.err for file in kept)
    assert fleet.parts.fleet.reader.device(device).labels == {"site": "hall", "ring": "1"}
    second = edgectl("apply", "-f", file, "-o", "json")
    assert second.code == 0, second.err
    assert set(actions(second).values()) == {"unchanged"}
    assert edgectl("diff", "-f", file).code == 0


def test_what_get_and_export_write_is_what_apply_takes(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    file = written(tmp_path, ROLLOUT, ALERTS, HOOK, GROUP)
    assert edgectl("apply", "-f", file, "--secrets", tmp_path / "s").code == 0
    for command in (
        ("export",),
        ("export", "-o", "json"),
        ("get", "groups", "-o", "yaml"),
        ("get", "Webhook", "ops", "-o", "yaml"),
        ("get", "alert-receivers", "-o", "json"),
        ("get", "rollout", "digits-1", "-o", "yaml"),
        ("get", "device", min(fleet.by_id), "-o", "yaml"),
    ):
        got = edgectl(*command)
        assert got.code == 0, got.err
        again = edgectl("apply", "-f", "-", "-o", "json", stdin=got.out)
        assert again.code == 0, again.err
        assert again.json["items"]
        assert set(actions(again).values()) == {"unchanged"}, got.out


def test_a_difference_is_shown_with_exit_1_and_nothing_is_changed(
    edgectl: Edgectl, fleet: Fleet, tmp_path: Path
) -> None:
    file = written(tmp_path, GROUP)
    ran = edgectl("diff", "-f", file)
    assert (ran.code, "+  selector:" in ran.out) == (1, True)
    assert edgectl("apply", "-f", file, "--dry-run", "-o", "json").json["items"][0]["action"] == "create"
    assert fleet.parts.fleet.groups.page(None, 10)[1] == 0
    edgectl("apply", "-f", file)
    changed = written(tmp_path, {**GROUP, "spec": {"selector": "site=hall"}})
    ran = edgectl("diff", "-f", changed)
    assert ran.code == 1
    assert "-  selector: site=berlin,ring in (a,b)" in ran.out
    assert "+  selector: site=hall" in ran.out
    assert edgectl("apply", "-f", changed).code == 0
    assert fleet.parts.fleet.groups.get("canaries").selector == "site=hall"


def test_a_diff_that_fails_never_exits_1(edgectl: Edgectl, tmp_path: Path) -> None:
    file = written(tmp_path, GROUP)
    ran = edgectl("diff", "-f", file, "--server", "http://127.0.0.1:1", "--token", "x")
    assert ran.code == 2
    assert "cannot reach" in ran.told()[0]


def test_pruning_takes_only_what_this_token_made_and_asks(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    fleet.parts.fleet.groups.create("by-hand", "site=hall", "ann")
    other = {**GROUP, "metadata": {"name": "old"}}
    assert edgectl("apply", "-f", written(tmp_path, GROUP, other)).code == 0
    file = written(tmp_path, GROUP)
    asked = edgectl("apply", "-f", file, "--prune")
    assert asked.code == 3
    assert "Delete Group old?" in asked.err
    ran = edgectl("apply", "-f", file, "--prune", "--yes", "-o", "json")
    assert actions(ran) == {"Group/canaries": "unchanged", "Group/old": "deleted"}
    assert [one.name for one in fleet.parts.fleet.groups.page(None, 10)[0]] == ["by-hand", "canaries"]


def test_pruning_by_an_empty_file_is_refused(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    edgectl("apply", "-f", written(tmp_path, GROUP))
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("---\n")
    assert edgectl("apply", "-f", nothing, "--prune", "--yes").code == 2
    assert fleet.parts.fleet.groups.page(None, 10)[1] == 1


def test_what_cannot_be_changed_is_replaced_only_when_asked(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    secrets = tmp_path / "s"
    assert edgectl("apply", "-f", written(tmp_path, HOOK)).code == 2, "there is no place for its secret"
    assert fleet.parts.webhooks.webhooks() == []
    edgectl("apply", "-f", written(tmp_path, HOOK), "--secrets", secrets)
    before = (secrets / "ops.secret").read_text()
    other = written(tmp_path, {**HOOK, "spec": {"url": "https://192.0.2.8/x"}})
    refused = edgectl("apply", "-f", other, "--secrets", secrets)
    assert refused.code == 6
    assert "--replace" in refused.told()[2]
    assert edgectl("apply", "-f", other, "--secrets", secrets, "--replace", "--yes").code == 0
    assert [one.url for one in fleet.parts.webhooks.webhooks()] == ["https://192.0.2.8/x"]
    assert (secrets / "ops.secret").read_text() != before


def test_a_rollout_that_was_started_does_not_change(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    assert edgectl("apply", "-f", written(tmp_path, ROLLOUT)).code == 0
    other = {**ROLLOUT, "spec": {**ROLLOUT["spec"], "on_fail": "pause"}}  # type: ignore[dict-item]
    refused = edgectl("apply", "-f", written(tmp_path, other), "--replace", "--yes")
    assert refused.code == 6
    assert "on_fail" in refused.told()[0]
    spelled = {**ROLLOUT, "spec": {**ROLLOUT["spec"], "on_fail": "rollback"}}  # type: ignore[dict-item]
    assert edgectl("diff", "-f", written(tmp_path, spelled)).code == 0, "a default written out is no difference"
    with fleet.parts.db.session() as session:
        session.execute(text("UPDATE rollout SET spec = json_remove(spec, '$.gates.install.liars')"))
    assert edgectl("diff", "-f", written(tmp_path, ROLLOUT)).code == 0, "nor is a rollout that began without liars"


def test_a_plan_says_that_an_older_release_would_go_out(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("digits@1.1.0", ORT)
    device = next(iter(fleet.by_id.values()))
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("digits@1.1.0"), device=device.id)
    device.report(Phase.COMMITTED)
    said = "warning: 1 of 3 devices run digits@1.1.0, which is newer than digits@1.0.0"
    for flags in (("--dry-run",), ()):
        (one,) = edgectl("apply", "-f", written(tmp_path, ROLLOUT), *flags, "-o", "json").json["items"]
        assert one["detail"].startswith(said)


def test_waiting_for_what_was_started(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    file = written(tmp_path, ROLLOUT)
    ran = edgectl("apply", "-f", file, "--wait", "--timeout", "10s", "-o", "json")
    assert ran.code == 8, ran.err
    assert "running" in ran.json["items"][0]["detail"] or "validating" in ran.json["items"][0]["detail"]
    assert edgectl("apply", "-f", file, "--wait").code == 0, "it was not started again, and nothing is waited for"


def test_labels_in_a_file_are_all_labels(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    device = min(fleet.by_id)
    one: dict[str, Any] = {"kind": "Device", "metadata": {"name": device}, "spec": {"labels": {"ring": "1"}}}
    assert edgectl("apply", "-f", written(tmp_path, one)).code == 0
    assert fleet.parts.fleet.reader.device(device).labels == {"ring": "1"}
    one["spec"] = {"profile": ORT}
    assert actions(edgectl("apply", "-f", written(tmp_path, one), "-o", "json")) == {f"Device/{device}": "unchanged"}
    one["metadata"] = {"name": "nobody"}
    assert edgectl("apply", "-f", written(tmp_path, one)).code == 5


def test_deleting_leaves_devices_and_rollouts(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    device = {"kind": "Device", "metadata": {"name": min(fleet.by_id)}, "spec": {}}
    file = written(tmp_path, GROUP, device, ROLLOUT)
    edgectl("apply", "-f", file)
    assert edgectl("delete", "-f", file).code == 3
    ran = edgectl("delete", "-f", file, "--yes", "-o", "json")
    assert set(actions(ran).values()) == {"deleted", "kept"}
    assert fleet.parts.fleet.groups.page(None, 10)[1] == 0


def test_every_mistake_of_a_folder_is_told_at_once_and_nothing_is_sent(edgectl: Edgectl, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    written(folder / ".hidden", {"kind": "Nonsense"})
    written(folder, GROUP, GROUP, name="a.yaml")
    written(folder / "more", {**GROUP, "kind": "Grup"}, {**GROUP, "spec": {"selectr": "a=b"}}, name="b.yml")
    (folder / "more" / "c.json").write_text(json.dumps([1]))
    (folder / "notes.txt").write_text("not a document")
    ran = edgectl("apply", "-f", folder, "--server", "http://127.0.0.1:1", "--token", "x")
    assert ran.code == 2
    what, why, _next = ran.told()
    assert what.startswith("5 mistakes")
    for told in (
        "Group canaries is in",
        "did you mean Group?",
        "did you mean selector?",
        "selector is missing",
        "got list",
    ):
        assert told in why


@pytest.mark.parametrize("text", ["a: [", "\x00", "a: 1\n---\n- b"])
def test_a_file_that_cannot_be_read_is_named(edgectl: Edgectl, tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    ran = edgectl("apply", "-f", file)
    assert ran.code == 2
    assert "x.yaml" in "".join(ran.told())


@pytest.mark.parametrize(
    "text", ["", "a=b", " a == b , c!=d", "x in ( a , b ),y notin (c)", "k, !j", "free_mb > 500,n<3", "in=a,in in (in)"]
)
def test_selectors_are_compared_as_the_server_writes_them(text: str) -> None:
    assert plain_selector(text) == str(parse_selector(text))


def test_a_release_policy_is_a_file(edgectl: Edgectl, fleet: Fleet, tmp_path: Path) -> None:
    spec = {"models": ["digits"], "require": ["owner", "hold_out>=300"], "since": "2026-01-01T00:00:00Z"}
    file = tmp_path / "policy.yaml"
    file.write_text(
        yaml.safe_dump(
            {"apiVersion": "edgefleet/v1", "kind": "ReleasePolicy", "metadata": {"name": "medical"}, "spec": spec}
        )
    )
    applied = edgectl("apply", "-f", file)
    assert applied.code == 0, applied.err
    assert "unchanged" in edgectl("apply", "-f", file).out
    checked = edgectl("policy", "check", "digits@1.0.0")
    assert checked.code == 1
    assert "medical requires owner: its card names no owner" in checked.out
    refused = edgectl("deploy", "digits@1.0.0", "--to", "")
    assert (refused.code, refused.error_code) == (6, "governance.policy_not_met")
    written = tmp_path / "got.yaml"
    written.write_text(edgectl("get", "ReleasePolicy", "-o", "yaml").out)
    assert "unchanged" in edgectl("apply", "-f", written).out
    spec["require"] = ["owner"]
    file.write_text(
        yaml.safe_dump(
            {"apiVersion": "edgefleet/v1", "kind": "ReleasePolicy", "metadata": {"name": "medical"}, "spec": spec}
        )
    )
    assert edgectl("apply", "-f", file).code == 0
    assert edgectl("policy", "list", "-o", "json").json["items"][0]["require"] == ["owner"]
    assert edgectl("delete", "-f", file, "--yes").code == 0
    assert edgectl("policy", "check", "digits@1.0.0").code == 0


def test_a_file_of_policies_is_checked_without_a_server(edgectl: Edgectl, tmp_path: Path) -> None:
    example = ROOT / "examples" / "gitops" / "policies.yaml"
    right = edgectl("policy", "check", example, "-o", "json")
    assert (right.code, right.json["policies"]) == (0, ["answered-for", "medical"])
    file = tmp_path / "policy.yaml"
    file.write_text(
        "apiVersion: edgefleet/v1\nkind: ReleasePolicy\nmetadata: {name: Medical}\nspec:\n  requires: [owner]\n"
        "  since: tomorrow\n  require:\n    - owner\n    - hold_out>=0\n    - owner\n"
    )
    wrong = edgectl("policy", "check", file)
    assert (wrong.code, wrong.error_code) == (2, "cli.policy_file")
    for line, said in (
        (3, "metadata.name: 'Medical' is no name"), (5, "spec.requires: is no field"), (6, "spec.since: 'tomorrow' is no time"),
        (9, "spec.require[1]: 'hold_out>=0' is no rule; those are owner,"), (10, "spec.require[2]: the rule owner stands in it twice"),
    ):  # fmt: skip
        assert f"{file}:{line}: {said}" in wrong.err
    file.write_text("kind: Group\n")
    assert edgectl("policy", "check", file).code == 2
