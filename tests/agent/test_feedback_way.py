"""Ground truth the whole way: a real worker, a real agent, a real broker; labels from the device and from the server, before and after an
update, arrive as the accuracy of the version that answered.
"""

import numpy as np

from edgefleet_agent.client import Model
from edgefleet_protocol.feedback_csv import read_rows
from edgefleet_protocol.ids import ModelName
from edgefleet_server.telemetry.ground_truth.views import AccuracyLine
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

NAMES = {"labels.txt": b"zero\none\ntwo\n"}
DIGITS = ModelName("digits")


def test_labels_arrive_as_the_accuracy_of_the_version_that_answered(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "2"}
    agent.start()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra=NAMES))
    agent.wait("committed", "1.0.0")
    assert agent.comes_to_answer("1.0.0")
    with Model("digits", socket=str(agent.status()["infer_socket"])) as model:
        for number in range(6):
            row = np.zeros((1, 4), np.float32)
            row[0, number % 3] = 9.0
            model.predict(row, key=f"part-{number}")
        for number in range(4):
            model.feedback(f"part-{number}", label=("zero", "one", "two")[number % 3 if number else 1])
        model.feedback(label=None, kpi={"units_rejected": 3})

        def line() -> AccuracyLine | None:
            found = {one.name: one for one in site.house.accuracy.of_model(DIGITS).lines}
            return found.get("1.0.0")

        assert eventually(lambda: (one := line()) is not None and (one.labelled, one.right) == (4, 3))
        assert [one.total for one in site.house.accuracy.of_model(DIGITS).figures] == [3.0]
        assert agent.status()["feedback"]["digits"]["matched"] == 4
        assert "labels: 4 matched" in agent.command("status").stdout

        deploy(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0", extra=NAMES))
        agent.wait("committed", "1.1.0")
        text = f"device,key,label\n{agent.id},part-4,one\n{agent.id},part-5,one\n{agent.id},part-9,one\n{agent.id},part-3,zero\n"
        sent = site.house.truth.uploads.take(DIGITS, read_rows(text), "ann")

        def state() -> str:
            site.house.truth.uploads.advance(site.house.clock.now())
            return site.house.truth.uploads.upload(sent.id, DIGITS).state

        assert eventually(lambda: state() == "done")
        fared = site.house.truth.uploads.upload(sent.id, DIGITS)
        assert (fared.matched, fared.unmatched, fared.repeated) == (2, 1, 1)
        assert eventually(lambda: (one := line()) is not None and (one.labelled, one.right) == (6, 4))
    view = site.house.accuracy.of_model(DIGITS)
    assert [one.name for one in view.lines if one.labelled] == ["1.0.0"], "it was 1.0.0 that answered"
    assert (view.unmatched, view.repeated) == (1, 1)
    assert {one.label for one in view.classes} == {"zero", "one", "two"}
    assert agent.stop() == 0
    assert (agent.state / "feedback.ok").exists()
