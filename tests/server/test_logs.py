"""Log lines: one a record, whatever a stranger sent."""

import io
import json
import logging
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from edgefleet_agent.core import logs as agent_logs
from edgefleet_server.main import parse
from edgefleet_server.observability import logs as server_logs
from tests.house.tree import ROOT


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


@pytest.mark.parametrize("module", [server_logs, agent_logs], ids=["server", "agent"])
def test_a_line_as_json_has_the_names_of_ecs(module: object) -> None:
    formatter = module.EcsFormatter("agentd")  # type: ignore[attr-defined]
    try:
        raise OSError(24, "Too many open files")
    except OSError:
        raised = sys.exc_info()
    record = logging.LogRecord("edgefleet.x", logging.ERROR, "x.py", 1, "no file %s", ("a\nb",), raised)
    vars(record).update({"request_id": "r1", "status": 503, "device": "dev-1\nforged", "created": 1_764_500_000.25})
    text = formatter.format(record)
    assert "\n" not in text
    found = json.loads(text)
    assert found.pop("error.stack_trace").endswith("OSError: [Errno 24] Too many open files")
    service = found.pop("service.name")
    assert service.startswith("edgefleet")
    assert found == {
        "@timestamp": "2025-11-30T10:53:20.250Z", "log.level": "error", "message": "no file a\nb", "ecs.version": "8.11.0",
        "event.dataset": f"{service}.agentd", "process.name": "agentd", "process.pid": os.getpid(), "log.logger": "edgefleet.x",
        "http.request.id": "r1", "http.response.status_code": 503, "labels": {"device": "dev-1\nforged"},
        "error.type": "OSError", "error.message": "[Errno 24] Too many open files",
    }  # fmt: skip
    assert list(found)[:3] == ["@timestamp", "log.level", "message"]


def test_the_format_is_a_setting_of_server_and_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.toml").write_text("")
    settings, _ = parse(["--data", str(tmp_path), "--log-format", "json"])
    assert settings.log_format == "json"
    root = logging.getLogger()
    before = root.handlers[:], root.level
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    try:
        server_logs.set_up("server", "INFO", settings.log_format)
        logging.getLogger("edgefleet").info("ready", extra={"port": 8080})
        root.handlers[:] = []
        monkeypatch.setenv(agent_logs.LOG_FORMAT, "json")
        agent_logs.set_up_logging("INFO", "install-child")
        logging.getLogger("edgefleet").info("ready")
    finally:
        root.handlers[:], root.level = before
    server, agent = (json.loads(line) for line in said.getvalue().splitlines())
    assert (server["event.dataset"], server["labels"]) == ("edgefleet.server", {"port": "8080"})
    assert agent["event.dataset"] == "edgefleet-agent.install-child"


def test_the_examples_for_filebeat_and_vector_can_be_read() -> None:
    page = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")
    [filebeat] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(filebeat.*?)```", page, re.DOTALL)]
    [vector] = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert filebeat["filebeat.inputs"][0]["parsers"][0]["ndjson"]["expand_keys"] is True
    assert set(vector["transforms"]["edgefleet"]["inputs"]) <= set(vector["sources"])
