"""What is told of a document that rests after the install child died over it: one event, and a state that says when it is tried again."""

from pathlib import Path

import msgspec

from edgefleet_agent.connection.outbox import Kind
from edgefleet_agent.install.verifier_protocol import Refused
from edgefleet_agent.reporting.reports import Reports
from edgefleet_protocol.messages import Event, State, decode
from tests.agent.test_losses import reports
from tests.agent.test_outbox import outbox

DIED = Refused("install.child_died", "it died; it is tried again", "internal", retry=True, again_s=60.0)


class Nothing:
    """A runner and a serving side without models."""

    def __init__(self) -> None:
        self.records: dict[str, object] = {}

    def probation(self) -> dict[str, dict[str, int]]:
        """Return that no version is on probation."""
        return {}


def state(said: Reports) -> State:
    """Return what the device would say of itself."""
    return said.state(Nothing(), Nothing(), {}, count=False)  # type: ignore[arg-type]


def test_a_resting_document_is_named_with_its_next_try_and_told_as_one_event(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    said = reports(box)
    said.refused("desired", DIED)
    first = state(said)
    assert (first.refused_code, first.refused_gen) == ("install.child_died", 0), "no failure of any document"
    assert first.refused_reason.startswith("it died; it is tried again at 20")
    said.refused("desired", msgspec.structs.replace(DIED, again_s=120.0))
    assert state(said).refused_reason > first.refused_reason, "the later moment"
    events = [decode(Event, one.payload) for one in box.due(0.0, 100, (Kind.EVENT,))]
    assert [(one.code, one.detail) for one in events] == [("install.child_died", {"document": "desired"})]
    said.accepted("desired", 5)
    assert state(said).refused_code == ""
    said.refused("desired", DIED)
    assert len(box.due(0.0, 100, (Kind.EVENT,))) == 2, "a new one is told anew"


def test_a_resting_brake_is_told_and_leaves_the_word_about_the_document_alone(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    said = reports(box)
    said.refused("hold", DIED)
    said.refused("hold", DIED)
    assert state(said).refused_code == ""
    (event,) = [decode(Event, one.payload) for one in box.due(0.0, 100, (Kind.EVENT,))]
    assert event.detail == {"document": "hold"}
