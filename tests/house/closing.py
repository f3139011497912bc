"""pytest plugin that `./dev test` loads: names every skipped test with its reason, says where the time went, and counts for the script.

- The counts go to the file named by EDGEFLEET_TEST_COUNTS as `passed failed skipped`; errors count as failed, an expected
  failure as passed, an unexpected pass as failed.
- The files that took longest are printed, then the sum over all workers. All files and all tests go to `test-durations.json` in
  pytest's cache folder, or where EDGEFLEET_TEST_DURATIONS says: the seconds of each, and the processor seconds, which another
  program on the machine changes little. Those of a child process count for the test in which it is waited for.
- Works with and without xdist: only the controlling process reports.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from tests.support.processes import elsewhere_s

ENVIRONMENT = "EDGEFLEET_TEST_COUNTS"
DURATIONS = "EDGEFLEET_TEST_DURATIONS"
SHOWN_FILES = 25
CPU = "cpu_s"


@dataclass
class Spent:
    """Seconds that tests took, of the clock and of processors."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: Spent) -> None:
        """Add what another test, or part of one, took."""
        self.wall_s += other.wall_s
        self.cpu_s += other.cpu_s


class Durations:
    """What each test took: setup, call and teardown together."""

    def __init__(self) -> None:
        self.tests: dict[str, Spent] = defaultdict(Spent)
        self._before = processor_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note in a report the processor time since the one before it: xdist carries it to the controlling process."""
        report = yield
        now = processor_s()
        setattr(report, CPU, now - self._before)
        self._before = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one report."""
        self.tests[report.nodeid].add(Spent(report.duration, getattr(report, CPU, 0.0)))

    def files(self) -> dict[str, Spent]:
        """Return what each file took, longest first."""
        found: dict[str, Spent] = defaultdict(Spent)
        for test, spent in self.tests.items():
            found[test.partition("::")[0]].add(spent)
        return dict(sorted(found.items(), key=lambda one: -one[1].wall_s))

    def lines(self) -> list[str]:
        """Return the longest files and the sum, as a table."""
        files = self.files()
        total = Spent()
        for spent in files.values():
            total.add(spent)
        rows = [
            f"{spent.wall_s:8.1f} {spent.cpu_s:8.1f} {spent.wall_s / max(total.wall_s, 1e-9):6.1%}  {name}"
            for name, spent in list(files.items())[:SHOWN_FILES]
        ]
        last = f"{total.wall_s:8.1f} {total.cpu_s:8.1f} {'':6}  worker-seconds in all, of {len(files)} files"
        return [" seconds  cpu sec  share  file", *rows, last]

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""

        def rounded(found: dict[str, Spent]) -> dict[str, list[float]]:
            return {name: [round(one.wall_s, 3), round(one.cpu_s, 3)] for name, one in found.items()}

        tests = dict(sorted(self.tests.items(), key=lambda one: -one[1].wall_s))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"files": rounded(self.files()), "tests": rounded(tests)}, indent=1) + "\n")


def processor_s() -> float:
    """Return the processor seconds of this process, of the children that it has waited for, and of what is counted as a child."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system + elsewhere_s()


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped, in its own words."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def counts(reporter: TerminalReporter) -> tuple[int, int, int]:
    """Return (passed, failed, skipped) of the run."""

    def n(*kinds: str) -> int:
        return sum(len(reporter.stats.get(kind, [])) for kind in kinds)

    return n("passed", "xfailed"), n("failed", "error", "xpassed"), n("skipped")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to measure."""
    config.pluginmanager.register(Durations(), "edgefleet-durations")


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Name the skipped tests, and the files that took longest."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("not run, and why")
    for report in skipped:
        terminalreporter.write_line(f"{report.nodeid}: {skip_reason(report)}")
    durations = config.pluginmanager.get_plugin("edgefleet-durations")
    if isinstance(durations, Durations) and durations.tests:
        path = Path(os.environ.get(DURATIONS) or config.rootpath / ".pytest_cache" / "test-durations.json")
        durations.write(path)
        terminalreporter.section("where the time went")
        for line in durations.lines():
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"all of it: {path}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write the counts once the run is over."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    path = os.environ.get(ENVIRONMENT)
    if path and isinstance(reporter, TerminalReporter) and not hasattr(config, "workerinput"):
        Path(path).write_text(" ".join(str(n) for n in counts(reporter)))
