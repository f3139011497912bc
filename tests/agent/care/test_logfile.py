"""The log on the disk is bounded, holds what children say, and never stands in the way."""

import subprocess
import sys
from pathlib import Path

from edgefleet_agent.core.logs import LogFile, tail
from edgefleet_agent.diagnostics.diag import logs
from edgefleet_agent.paths import StatePaths

CHILDREN = """
import os, subprocess, sys, time
from pathlib import Path
from edgefleet_agent.core.logs import Capture, LogFile
from edgefleet_agent.core.logs import set_up_logging
import logging
set_up_logging("INFO", "agentd")
capture = Capture(LogFile(Path(sys.argv[1])))
logging.getLogger("x").warning("own line", extra={"model": "digits"})
subprocess.run([sys.executable, "-c", "import os; os.write(2, b'last words of native code\\\\n'); os.abort()"])
capture.read()
capture.close()
subprocess.run([sys.executable, "-c", "import os; os.write(2, b'after the end\\\\n')"])
"""


def test_two_files_hold_the_newest_lines_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "agent.log"
    file = LogFile(path, 1_000)
    for number in range(200):
        file.write(f"line {number:04}\n".encode())
    file.close()
    assert sum(f.stat().st_size for f in path.parent.iterdir()) <= 2_000
    lines = tail(path, 10_000)
    assert lines[-1] == "line 0199"
    assert lines == sorted(lines)
    assert tail(path, 25) == ["line 0198", "line 0199"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_takes_nothing_costs_lines_only(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    file = LogFile(tmp_path / "logs" / "agent.log")
    file.write(b"lost\n")
    assert file.lost == 1


def test_what_children_say_is_kept_and_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "agent.log"
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    kept = path.read_text()
    for words in ("own line model=digits", "last words of native code"):
        assert words in kept
        assert words in done.stderr
    assert "after the end" in done.stderr
    assert "after the end" not in kept


def test_lines_are_chosen_and_secrets_taken_out(tmp_path: Path) -> None:
    path = StatePaths(tmp_path).log
    file = LogFile(path)
    dashes = "-" * 5
    key = f"{dashes}BEGIN PRIVATE KEY{dashes}\nMHcCAQEE\n{dashes}END PRIVATE KEY{dashes}"
    file.write(f"one\n{key}\ntwo\nthree of two\n".encode())
    file.close()
    assert "MHcCAQEE" not in str(logs(tmp_path, lines=100))
    assert logs(tmp_path, lines=1, contains="two") == {"lines": ["three of two"], "left_out": 1}
    path.unlink()
    assert logs(tmp_path, lines=5)["lines"] == []
