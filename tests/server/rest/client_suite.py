"""Calls through the generated client, against a live API with a staged fleet. Runs in the client's own environment.

python client_suite.py URL TOKEN ROLLOUT
"""

import json
import sys
from importlib import import_module
from typing import Any


class Caller:
    """Calls operations by id and counts them."""

    def __init__(self, url: str, token: str) -> None:
        package = import_module("edgefleet_client")
        self.client = package.AuthenticatedClient(base_url=url, token=token)
        self.models = import_module("edgefleet_client.models")
        self.calls = 0

    def __call__(self, tag: str, operation: str, *path: str, **given: Any) -> Any:
        """Return (status, parsed answer) of one operation."""
        module = import_module(f"edgefleet_client.api.{tag}.{operation}")
        answer = module.sync_detailed(*path, client=self.client, **given)
        self.calls += 1
        return int(answer.status_code), answer.parsed


def reading(call: Caller, rollout: str) -> str:
    """Read lists and single things; return a device."""
    status, me = call("access", "get_whoami")
    assert (status, me.name) == (200, "test")
    status, devices = call("fleet", "list_devices", limit=3)
    assert status == 200
    assert len(devices.items) == 3
    assert devices.total == 10
    _, more = call("fleet", "list_devices", limit=3, cursor=devices.next_cursor)
    assert more.items[0].id > devices.items[-1].id
    _, turned = call("fleet", "list_devices", sort=call.models.ListDevicesSort("-id"))
    assert [one.id for one in turned.items[:-4:-1]] == [one.id for one in devices.items]
    device = devices.items[0].id
    _, one = call("fleet", "get_device", device)
    assert (one.id, one.desired.models[0].model) == (device, "digits")
    _, events = call("fleet", "list_device_events", device)
    assert events.total > 0
    _, summary = call("fleet", "get_fleet_summary")
    assert summary.devices == 10
    _, releases = call("registry", "list_releases", model="digits")
    assert [release.version for release in releases.items] == ["1.2.0", "1.1.0", "1.0.0"]
    _, release = call("registry", "get_release", "digits@1.0.0")
    assert len(release.bundles) == 2
    _, profiles = call("registry", "list_profiles")
    assert profiles.total > 10
    _, shown = call("rollout", "get_rollout", rollout)
    assert (shown.id, shown.release) == (rollout, "digits@1.1.0")
    _, plan = call("rollout", "get_rollout_plan", rollout)
    assert plan.stages
    _, who = call("rollout", "list_rollout_devices", rollout)
    assert who.total > 0
    _, found = call("search", "find_anything", q="digits")
    assert {str(hit.kind) for hit in found.items} >= {"model", "release"}
    return str(device)


def writing(call: Caller, device: str) -> None:
    """Make, change, refuse and remove."""
    models = call.models
    group = models.GroupIn(name="hall", selector="site=hall")
    status, made = call("fleet", "create_group", body=group, idempotency_key="once")
    again, same = call("fleet", "create_group", body=group, idempotency_key="once")
    assert (status, again, made.name) == (201, 201, same.name)
    status, refused = call("fleet", "create_group", body=group)
    assert (status, refused.code) == (409, "group.exists")
    assert refused.next_
    labels = models.LabelsIn(selector="group=hall", labels=models.LabelsInLabels.from_dict({"ring": "canary"}))
    _, told = call("fleet", "label_devices", body=labels, dry_run=True)
    assert told.changed > 0
    assert told.dry_run
    _, done = call("fleet", "label_devices", body=labels)
    assert done.changed == told.changed
    change = models.DeviceIn(labels=models.DeviceInLabels.from_dict({"ring": "late"}))
    status, changed = call("fleet", "update_device", device, body=change)
    assert (status, changed.labels["ring"]) == (200, "late")
    status, stale = call("fleet", "update_device", device, body=change, if_match='"old"')
    assert (status, stale.code) == (412, "request.precondition_failed")
    status, alias = call("registry", "set_alias", "digits", "prod", body=models.AliasIn(version="1.1.0"))
    assert (status, alias.ref) == (201, "digits@1.1.0")
    _, deployed = call("fleet", "deploy_release", "digits@prod", body=models.DeployIn(selector="", dry_run=True))
    assert (deployed.release, deployed.matched) == ("digits@1.1.0", 10)
    status, _ = call("fleet", "delete_group", "hall")
    assert status == 204
    status, gone = call("fleet", "get_group", "hall")
    assert (status, gone.code) == (404, "group.unknown")


def main(url: str, token: str, rollout: str) -> None:
    """Run the suite; print how many calls were made."""
    call = Caller(url, token)
    device = reading(call, rollout)
    writing(call, device)
    print(json.dumps({"calls": call.calls}))


if __name__ == "__main__":
    main(*sys.argv[1:])
