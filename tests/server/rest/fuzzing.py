"""Schemathesis against the whole API over HTTP: real services on SQLite, a staged fleet, every check that it has.

It runs as its own program, as anybody else would run it. Half of the names in addresses are real ones, so that it meets things as
well as their absence. Six things are told to it:

- A request that keeps its schema may be refused for what it means (422 `fleet.bad_selector`), for a tag of another time (412), for a
  range beyond the end (416) or for its size (413). That it is not refused by the schema itself is a check of ours (`fuzz_checks`).
- A blob is refused (400) when its bytes are not those of its name, which nobody hits by chance.
- The items of a list that is cut to some `fields` are whole no more: a check of ours takes the place of the one for schemas.
- What was revoked is still there to be seen, and so is what a dry run spared; what else DELETE takes is gone, says a check of ours.
- Streams are asked to end at once, and nothing is held to a time: the machine may be busy.
- What would revoke the token that everything is asked with revokes a second one instead (`fuzz_checks`): every check after that would
  pass on 401. In the end the first one must still be good, and the second one not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.dashboard.serving import served

OWN_TOKEN: Final = "EDGEFLEET_FUZZ_OWN_TOKEN"
OTHER_TOKEN: Final = "EDGEFLEET_FUZZ_OTHER_TOKEN"
"""Variables with the ids of the token that everything is asked with, and of one that may be revoked."""
REPLACED: Final = "response_schema_conformance,use_after_free"
"""Checks in whose place ours are. `--checks all` would bring them back where only the configuration leaves them out."""
TAKEN: Final = ["2xx", "401", "403", "404", "409", "412", "413", "416", "422", "429"]
CONFIG: Final = """
request-timeout = 30
hooks = "tests.server.rest.fuzz_checks"
[checks]
max_response_time = 300.0
[checks.positive_data_acceptance]
expected-statuses = {taken}
[[operations]]
include-operation-id = "put_blob"
checks.positive_data_acceptance.expected-statuses = {taken_of_blobs}
[parameters]
"query.max_s" = 0
"query.wait_s" = 0
{bindings}
{dictionaries}
"""


def run(folder: Path, n: int, seed: int, *, only: Sequence[str] = (), phases: str = "") -> dict[str, Any]:
    """Send `n` random requests an operation; return what came of it. only: operation ids, else all."""
    fleet = Fleet(folder / "server", rate_limit_per_min=0, webhook_networks=("127.0.0.0/8",))
    try:
        names = _seeded(fleet)
        config = folder / "schemathesis.toml"
        config.write_text(_config(names))
        token = fleet.house.token(Role.ADMIN)
        with served(fleet.house.own_app()) as url:
            command = [
                str(Path(sys.executable).with_name("schemathesis")), "--no-color", "--config-file", str(config),
                "run", f"{url}/openapi.json",
                "--header", f"Authorization: Bearer {token}", "--max-examples", str(n),
                "--seed", str(seed), "--checks", "all", "--exclude-checks", REPLACED, "--continue-on-failure",
            ]  # fmt: skip
            for operation in only:
                command += ["--include-operation-id", operation]
            if phases:
                command += ["--phases", phases]
            told = folder / "told.txt"
            with told.open("wb") as sink:
                ids = {OWN_TOKEN: token.split("_")[1], OTHER_TOKEN: str(names["path.token_id"][0])}
                environment = os.environ | {"COLUMNS": "140", "PYTHONPATH": str(ROOT)} | ids
                code = subprocess.run(
                    command, cwd=folder, stdout=sink, stderr=sink, check=False, env=environment
                ).returncode
        is_own_good = fleet.parts.access.token(ids[OWN_TOKEN]).revoked_at is None
        is_other_revoked = fleet.parts.access.token(ids[OTHER_TOKEN]).revoked_at is not None
    finally:
        fleet.close()
    ok = code == 0 and is_own_good
    return {
        "ok": ok,
        "code": code,
        "other_token_revoked": is_other_revoked,
        "told": told.read_text(encoding="utf-8", errors="replace"),
    }


def _seeded(fleet: Fleet) -> Mapping[str, Sequence[Any]]:
    """Make some of everything; return real names by the parameter that takes them."""
    good, bad = staged(fleet)
    admin = fleet.house.client(Role.ADMIN)

    def post(path: str, body: Mapping[str, Any]) -> Any:
        answer = admin.post(f"/api/v1{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    device = next(iter(fleet.by_id))
    claim = post("/enrollments", {})["tokens"][0]["id"]
    token = post("/tokens", {"name": "other", "roles": ["viewer"]})["id"]
    post("/groups", {"name": "hall", "selector": "site=hall"})
    assert admin.put("/api/v1/models/digits/aliases/prod", json={"version": "1.1.0"}).is_success
    hook = post("/webhooks", {"url": "http://127.0.0.1:9/hook"})["webhook"]["id"]
    delivery = post(f"/webhooks/{hook}:ping", {})["id"]
    receiver = post("/alert-receivers", {"name": "am"})["receiver"]["id"]
    task = post(f"/devices/{device}/tasks", {"kind": "diag"})["id"]
    admin.put("/api/v1/capture-key", json={"public_key": "09" + "0" * 62})
    post("/triggers", {"name": "hall", "model": "digits", "on": "hand"})
    written = {
        "model": "digits",
        "digest": "a" * 64,
        "format": "npz",
        "place": "ann:/fog",
        "records": [{"device": "d-1", "record": "ab"}],
    }
    return {
        "path.data_set_id": [post("/data-sets", written)["id"]],
        "path.retraining_id": [post("/triggers/hall:start", {})["id"]],
        "path.device_id": list(fleet.by_id)[:3],
        "path.rollout_id": [good, bad],
        "path.ref": ["digits@1.0.0", "digits@1.1.0", "digits@prod"],
        "path.webhook_id": [hook],
        "path.delivery_id": [delivery],
        "path.receiver_id": [receiver],
        "path.task_id": [task],
        "path.claim_id": [claim],
        "path.token_id": [token],
        "path.name": ["digits", "hall", "generic-x86_64-ort", "canary"],
        "path.alias": ["prod"],
        "path.sha256": [fleet.house.put(b"some bytes"), next(iter(fleet.digests.values()))],
        "path.role": ["root", "m.digits"],
        "query.a": ["1.0.0", "prod"],
        "query.b": ["1.1.0"],
        "query.selector": ["", "site=hall", "profile in (generic-x86_64-ort),!gone"],
        "body.selector": ["", "site=hall", "group=hall"],
        "query.q": ["digits", "cam"],
        "query.fields": ["", "id", "name", "id,name", "model,id"],
    }


def _config(names: Mapping[str, Sequence[Any]]) -> str:
    keys = {parameter: parameter.replace(".", "_") for parameter in names}
    bindings = (f'"{name}" = {{ dictionary = "{key}", probability = 0.5 }}' for name, key in keys.items())
    dictionaries = (f"[dictionaries.{key}]\nvalues = {json.dumps(names[name])}" for name, key in keys.items())
    return CONFIG.format(
        taken=json.dumps(TAKEN),
        taken_of_blobs=json.dumps([*TAKEN, "400"]),
        bindings="\n".join(bindings),
        dictionaries="\n".join(dictionaries),
    )


def main(n: int, seed: int) -> dict[str, Any]:
    """Run all phases with `n` random requests an operation (`./dev soak rest-fuzz`)."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), n, seed)
    summary = result["told"][-3000:] if result["ok"] else result["told"][-60_000:]
    return {"ok": result["ok"], "told": summary.splitlines()}
