"""What doctor makes of facts: every bad finding says what to do next, and no evidence is never well."""

from collections.abc import Sequence

import pytest

from edgefleet_agent.diagnostics import findings
from edgefleet_agent.diagnostics.findings import MIB, Finding, Level

NOW = 1_800_000_000.0
DAY = 86_400
ORT = {"ort": "1.32.0"}

CASES: Sequence[tuple[Finding, Level]] = [
    (findings.clock(NOW, 0, NOW + 1), Level.OK),
    (findings.clock(NOW, 0, NOW + 60), Level.WARN),
    (findings.clock(NOW, 0, NOW - 3600), Level.BAD),
    (findings.clock(NOW, int(NOW) + DAY, None), Level.BAD),
    (findings.clock(NOW, int(NOW), None), Level.SKIPPED),
    (findings.certificate(NOW, 0, 0), Level.SKIPPED),
    (findings.certificate(NOW, int(NOW) - DAY, int(NOW) + 89 * DAY), Level.OK),
    (findings.certificate(NOW, int(NOW) - 80 * DAY, int(NOW) + 10 * DAY), Level.WARN),
    (findings.certificate(NOW, int(NOW) - 91 * DAY, int(NOW) - DAY), Level.BAD),
    (findings.disk(-1, 32 * MIB, -1), Level.SKIPPED),
    (findings.disk(10 * MIB, 32 * MIB, -1), Level.BAD),
    (findings.disk(60 * MIB, 32 * MIB, -1), Level.WARN),
    (findings.disk(600 * MIB, 32 * MIB, 5), Level.BAD),
    (findings.disk(600 * MIB, 32 * MIB, 10_000), Level.OK),
    (findings.memory(10 * MIB, 24 * MIB), Level.BAD),
    (findings.memory(100 * MIB, 24 * MIB), Level.OK),
    (findings.memory(-1, 24 * MIB), Level.SKIPPED),
    (findings.permissions([], [], []), Level.OK),
    (findings.permissions(["key.pem"], [], []), Level.BAD),
    (findings.permissions([], ["models"], []), Level.BAD),
    (findings.permissions([], [], ["state"]), Level.BAD),
    (findings.cgroup(True, "/x"), Level.OK),
    (findings.cgroup(False, "/x"), Level.WARN),
    (findings.runtimes(ORT, True, {"digits": "ort"}), Level.OK),
    (findings.runtimes(ORT, True, {"digits": "litert"}), Level.BAD),
    (findings.runtimes(ORT, False, {}), Level.BAD),
    (findings.runtimes({}, True, {}), Level.BAD),
    (findings.op_sets({}, ORT), Level.SKIPPED),
    (findings.op_sets({"digits": ("ort", ["1.32.0"])}, ORT), Level.OK),
    (findings.op_sets({"digits": ("ort", ["1.20.0"])}, ORT), Level.WARN),
    (findings.backlog(3, 100, 16 * MIB, 0), Level.OK),
    (findings.backlog(3, 15 * MIB, 16 * MIB, 9), Level.WARN),
    (findings.agent(False, [], [], ""), Level.BAD),
    (findings.agent(True, ["digits"], ["other"], ""), Level.BAD),
    (findings.agent(True, ["digits"], [], "desired.expired"), Level.WARN),
    (findings.agent(True, ["digits"], [], ""), Level.OK),
]


@pytest.mark.parametrize(("finding", "level"), CASES)
def test_facts_are_judged(finding: Finding, level: Level) -> None:
    assert finding.level is level
    assert finding.what
    assert finding.next or level in (Level.OK, Level.SKIPPED)


def test_one_bad_finding_is_enough() -> None:
    well = [f for f, _ in CASES if f.level is not Level.BAD]
    assert findings.is_well(well)
    assert not findings.is_well([*well, findings.agent(False, [], [], "")])
