"""What agentd knows from before at its start: a document that cannot be read hides no other."""

from pathlib import Path

from edgefleet_agent.composition.agent_parts import known_documents
from edgefleet_agent.core.durable import write_record
from edgefleet_agent.install.records import DesiredOk, HoldOk
from edgefleet_agent.paths import StatePaths

DESIRED = DesiredOk(device="d-1", gen=3, raw_sha256="a", issued_s=1, expires_s=2, wanted=[], idle_models=[])
HOLD = HoldOk(seq=2, expires_s=9, rollouts=["r-1"], digests=[], raw_sha256="b")


def test_a_hold_is_in_force_also_where_the_desired_document_is_torn(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    for path in (paths.desired_ok, paths.hold_ok):
        path.parent.mkdir(parents=True, exist_ok=True)
    assert known_documents(paths) == (None, None)
    write_record(paths.desired_ok, DESIRED)
    write_record(paths.hold_ok, HOLD)
    assert known_documents(paths) == (DESIRED, HOLD)
    for torn, left in ((paths.desired_ok, (None, HOLD)), (paths.hold_ok, (DESIRED, None))):
        whole = torn.read_bytes()
        torn.write_bytes(whole[:-1])
        assert known_documents(paths) == left
        torn.write_bytes(whole)
