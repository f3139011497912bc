"""A schedule from the bundle to the server, on a real agent: planned when the version serves, run late after a time without power."""

import json

from msgspec.structs import replace

from edgefleet_agent.batch_runs.model import RunState
from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_protocol.messages import EventKind
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_api import COLUMNS, LABELS, TOP


def test_a_schedule_is_followed_over_a_time_without_power(agent: Agent) -> None:
    extra = {
        "preprocess.json": json.dumps(COLUMNS).encode(),
        "postprocess.json": json.dumps(TOP).encode(),
        "labels.txt": LABELS,
        "schedule.json": b'{"every": "1d", "input": "rows.csv"}',
    }
    deploy(agent.site, "1.0.0", bundle_bytes(classifier_onnx(), extra=extra))
    agent.start()
    known = eventually(lambda: agent.status().get("schedules", {}).get("digits", {}).get("due_s"))
    agent.kill()
    folder = agent.state / "batch" / "digits"
    (folder / "rows.csv").write_text("a,b,c,d\n0,0,9,0\n")
    state = read_record(RunState, folder / ".state")
    assert state is not None
    write_record(folder / ".state", replace(state, due_s=known - 3 * 86_400, seen_s=known - 3 * 86_400))
    agent.start()
    stands = eventually(lambda: agent.status().get("schedules", {}).get("digits", {}).get("runs") and agent.status())
    stands = stands["schedules"]["digits"]
    assert (stands["runs"], stands["missed"], stands["late"], stands["state"]) == (1, 2, 1, "ok")
    assert stands["due_s"] == known
    (file,) = (folder / "out").glob("*.jsonl")
    assert json.loads(file.read_text())["planned_s"] == known - 86_400
    assert eventually(lambda: {EventKind.RUN_MISSED, EventKind.RUN_LATE} <= {one.kind for one in agent.events()})
    assert "2 missed, 1 late" in agent.command("status").stdout
