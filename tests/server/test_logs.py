"""Log lines: one a record, whatever a stranger sent."""

import io
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


def test_a_line_comes_once_a_second_with_its_traceback_and_the_rest_is_counted() -> None:
    now = [100.0]
    sink = io.StringIO()
    handler = server_logs.RepeatHandler(sink, lambda: now[0])
    handler.setFormatter(server_logs.FieldFormatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("edgefleet_test_flood")
    logger.propagate = False
    logger.setLevel("INFO")
    logger.handlers[:] = [handler]
    for number in range(1000):
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            logger.exception("no file", extra={"request_id": f"r{number}"})
    logger.info("something else")
    assert sink.getvalue().count("Traceback") == 1
    now[0] += 1.1
    logger.info("later")
    lines = sink.getvalue().splitlines()
    assert lines[-3:] == ["INFO something else", "ERROR no file (repeated) times=999", "INFO later"]
    handler.write_counts(now[0] + 2)
    assert sink.getvalue().splitlines()[-1] == "INFO later"


def test_one_phrase_with_ever_new_fields_is_bounded_too() -> None:
    sink = io.StringIO()
    handler = server_logs.RepeatHandler(sink, lambda: 5.0)
    logger = logging.getLogger("edgefleet_test_flood")
    logger.propagate = False
    logger.setLevel("INFO")
    logger.handlers[:] = [handler]
    for number in range(500):
        logger.warning("bad message", extra={"topic": f"t{number}"})
    assert len(sink.getvalue().splitlines()) == server_logs.PHRASE_BURST
