"""Where the time of a run went is added up by file, and written down."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.house.closing import SHOWN_FILES, Durations


def reports(*told: tuple[str, float, float]) -> Durations:
    """Return what was noted of these reports: test, seconds, processor seconds."""
    made = Durations()
    for nodeid, wall_s, cpu_s in told:
        made.pytest_runtest_logreport(cast("Any", SimpleNamespace(nodeid=nodeid, duration=wall_s, cpu_s=cpu_s)))
    return made


def test_setup_call_and_teardown_of_all_tests_of_a_file_are_added(tmp_path: Path) -> None:
    made = reports(
        ("a.py::one", 1.0, 0.5), ("b.py::two[a::b]", 3.0, 1.0), ("a.py::one", 0.5, 0.25), ("b.py::three", 0.5, 0)
    )
    made.write(tmp_path / "deep" / "told.json")
    told = json.loads((tmp_path / "deep" / "told.json").read_text())
    assert list(told["files"].items()) == [("b.py", [3.5, 1.0]), ("a.py", [1.5, 0.75])]
    assert told["tests"]["a.py::one"] == [1.5, 0.75]
    assert [line.split() for line in made.lines()[1:3]] == [
        ["3.5", "1.0", "70.0%", "b.py"],
        ["1.5", "0.8", "30.0%", "a.py"],
    ]
    assert made.lines()[-1].split()[:2] == ["5.0", "1.8"]


def test_the_longest_files_are_shown_and_the_sum_is_of_all() -> None:
    made = reports(*((f"{number}.py::test", float(number), 0.0) for number in range(1, 41)))
    lines = made.lines()
    assert len(lines) == SHOWN_FILES + 2
    assert lines[1].endswith(" 40.py")
    assert lines[-1].split()[0] == "820.0"
    assert lines[-1].endswith("of 40 files")
