"""Log lines: one a record, whatever a stranger sent."""

import logging

import pytest

from edgefleet_agent.core import logs as agent_logs
from edgefleet_server.observability import logs as server_logs


@pytest.mark.parametrize("module", [server_logs, agent_logs], ids=["server", "agent"])
def test_a_field_cannot_forge_a_line(module: object) -> None:
    formatter = module.FieldFormatter("%(levelname)s %(message)s")  # type: ignore[attr-defined]
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "bad message", "topic": "a\nERROR forged \x1b[2J", "n": 1}
    )
    assert formatter.format(record) == r"INFO bad message topic=a\nERROR forged \x1b[2J n=1"


@pytest.mark.parametrize("module", [server_logs, agent_logs], ids=["server", "agent"])
def test_the_fields_stand_on_the_first_line_and_what_follows_stays_whole(module: object) -> None:
    formatter = module.FieldFormatter("%(levelname)s %(message)s")  # type: ignore[attr-defined]
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": "failed\nTraceback\n  line", "n": 1})
    assert formatter.format(record) == "ERROR failed n=1\nTraceback\n  line"
