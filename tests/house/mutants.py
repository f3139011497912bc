"""Small faults in the code that must not be wrong, and whether the nearest tests see them: `./dev soak mutants --n N --seed S`.

A mutant is one change of one place: another comparison, `and` for `or`, a lost `not`, or another value that a function returns. `n` of all
of them are drawn; a place is drawn by its function's name and its text, not by its file, so that a module that only moves keeps its
mutants. Each is written into a copy of the clone, on which the tests nearest to its module run; child processes of tests import the copy
too. It is killed when a test fails or none ends in time. What survives is either a gap of the tests or a change that makes no
difference: a person looks.

`ok` says that the tests passed on the unchanged copy; how many are killed is a figure to compare. With `EDGEFLEET_MUTANTS` set, only
modules whose name has it are taken, all of whose mutants an `n` that is large enough takes.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.house.tree import PACKAGES, ROOT, python_sources

LEAST_LIMIT_S: Final = 60.0
SLOWER: Final = 5.0
"""How many times as long as on the unchanged copy tests may take; a mutant that makes something endless is killed by that."""
SOURCES: Final = tuple(sorted({str(Path(package).parent) for package in PACKAGES}))

_RULES: Final = (
    "test_rules.py",
    "test_rules_evidence.py",
    "test_rules_edges.py",
    "test_any_facts.py",
    "test_golden_decisions.py",
)
_RECORDS: Final = ("test_machine.py", "test_trial.py", "test_wishes.py", "test_clock.py")
_INSTALL: Final = ("test_machine.py", "test_trial.py", "test_wishes.py", "test_intake.py", "test_patience.py", "test_preflight.py",
    "test_leak.py", "test_losses.py", "test_candidate_rules.py", "test_spreading.py", "test_clock.py")  # fmt: skip


def _in(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/{name}" for name in names) or (f"tests/{folder}",)


_DECISIONS: Final = _in("server/rollout", *_RULES)
NEAREST: Final[Mapping[str, tuple[str, ...]]] = {
    "edgefleet_server.rollout.analysis.decide": _DECISIONS,
    "edgefleet_server.rollout.analysis.stage_gates": _in("server/rollout", "test_gates.py", "test_quality.py", *_RULES),
    "edgefleet_server.rollout.failure_ratio": _in(
        "server/rollout", "test_evidence.py", "test_sequences.py", "test_power.py"
    )
    + _DECISIONS,
    "edgefleet_server.rollout.bounded_mean": _in(
        "server/rollout", "test_sequences.py", "test_quality.py", "test_measures.py"
    ),
    "edgefleet_server.rollout.analysis.metrics": _in(
        "server/rollout", "test_quality.py", "test_form_and_the_rest.py", *_RULES
    ),
    "edgefleet_server.rollout.spec.model": _in(
        "server/rollout", "test_quality.py", "test_measures.py", "test_spec.py", *_RULES
    ),
    "edgefleet_server.rollout.lint.quality_findings": _in(
        "server/rollout", "test_quality.py", "test_form_and_the_rest.py", "test_judging.py"
    ),
    "edgefleet_server.rollout.store.measurements": _in("server/rollout", "test_measuring.py"),
    "edgefleet_server.rollout.status.metric_views": _in("server/rollout", "test_quality.py"),
    "edgefleet_protocol": _in("protocol"),
    "edgefleet_protocol.verify": _in("protocol", "test_verify.py"),
    "edgefleet_protocol.bundle": _in("protocol", "test_bundle.py"),
    "edgefleet_protocol.topics": _in("protocol", "test_topics.py"),
    "edgefleet_protocol.comparison": _in("protocol", "test_comparison.py"),
    "edgefleet_terms": _in("terms"),
    "edgefleet_ceremony": _in("server", "signing"),
    "edgefleet_profiles.profile": _in("protocol") + _in("profiles"),
    "edgefleet_protocol.manifest": _in("protocol") + _in("runtime"),
    "edgefleet_agent.install": _in("agent", *_INSTALL)
    + _in("crash", "test_damaged.py")
    + _in("agent", "test_install_child.py", "test_going_back.py"),
    "edgefleet_agent.verifier": _in("hostile/device", "test_vectors.py") + _in("agent", "test_install_child.py"),
    "edgefleet_agent.install.machine": _in("agent", *_RECORDS),
    "edgefleet_agent.install.probation.trial": _in("agent", *_RECORDS),
    "edgefleet_agent.install.desired_diff": _in("agent", *_RECORDS),
    "edgefleet_agent.install.retry_delay": _in("agent", "test_patience.py"),
    "edgefleet_agent.install.probation.memory_leak": _in("agent", "test_leak.py", "test_recycling.py"),
    "edgefleet_server.access": _in("server/access") + _in("server/rest", "test_idempotency.py"),
    "edgefleet_server.registry.rules": _in("server/registry"),
    "edgefleet_server.registry.manifests": _in("server/registry"),
    "edgefleet_server.conversion.rules": _in("server/conversion", "test_rules.py", "test_queue.py"),
    "edgefleet_converters.gate": _in("converters", "test_gates.py", "test_metrics.py"),
}
"""The tests nearest to a module, by its name or a package that it is in; the longest name counts. Other modules get no mutants."""

_OTHER: Final[Mapping[type[ast.cmpop], str]] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_EMPTY: Final[Mapping[str, str]] = {
    "str": '""', "bytes": 'b""', "list": "[]", "dict": "{}", "tuple": "()", "set": "set()", "frozenset": "frozenset()",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change. start and end: the bytes of the file that `text` takes the place of; place: function and number of its line."""

    path: Path
    line: int
    function: str
    start: int
    end: int
    old: str
    text: str

    def __str__(self) -> str:
        """Return it as a report names it."""
        return f"{self.path}:{self.line} in {self.function or 'the module'}: {self.old}  ->  {self.text}"


def module_of(path: Path) -> str:
    """Return the dotted name of a module of the packages."""
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tests_of(module: str) -> tuple[str, ...]:
    """Return the tests nearest to a module, none where no mutants are made of it."""
    names = [name for name in NEAREST if module == name or module.startswith(f"{name}.")]
    return NEAREST[max(names, key=len)] if names else ()


def all_mutants() -> list[Mutant]:
    """Return every mutant of the modules that have nearest tests, in order of file and place."""
    chosen = os.environ.get("EDGEFLEET_MUTANTS", "")
    paths = [path for path in python_sources() if tests_of(module := module_of(path)) and chosen in module]
    return [mutant for path in paths for mutant in mutants_of(path)]


def drawn(mutants: Sequence[Mutant], n: int, seed: int) -> list[Mutant]:
    """Return `n` of the mutants, the same ones for the same seed wherever their modules are."""
    seen: Counter[str] = Counter()
    keys = {}
    for mutant in mutants:
        what = f"{mutant.function} {mutant.old} {mutant.text}"
        seen[what] += 1
        keys[mutant] = hashlib.sha256(f"{seed} {what} {seen[what]}".encode()).digest()
    return sorted(mutants, key=lambda mutant: keys[mutant])[:n]


def mutants_of(path: Path, source: bytes | None = None) -> list[Mutant]:
    """Return the mutants of one file. path: relative to the root; source: what is in it, where that is not to be read."""
    source = (ROOT / path).read_bytes() if source is None else source
    return list(_Finder(path, source).found(ast.parse(source), "", None))


class _Finder:
    """Walks one module. What is checked while types are, asserts and annotations are left alone."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def found(self, node: ast.AST, function: str, returns: ast.expr | None) -> Iterator[Mutant]:
        """Yield the mutants of a node and of all in it. returns: what the function around it is annotated with."""
        if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function, returns = f"{function}.{node.name}".strip("."), node.returns
        elif isinstance(node, ast.ClassDef):
            function = f"{function}.{node.name}".strip(".")
        elif isinstance(node, ast.Lambda):
            returns = None
        yield from self._of(node, function, returns)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.found(child, function, returns)

    def _of(self, node: ast.AST, function: str, returns: ast.expr | None) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for place in range(len(node.ops)):
                parts = [self._text(side) for side in sides]
                words = [_WORDS[type(one)] if at != place else _OTHER[type(one)] for at, one in enumerate(node.ops)]
                yield self._made(node, function, _joined(parts, words))
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            yield self._made(node, function, f"({word.join(f'({self._text(value)})' for value in node.values)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._made(node, function, f"bool({self._text(node.operand)})")
        elif isinstance(node, ast.Return) and node.value is not None and returns is not None:
            other = _other_value(self._text(node.value), ast.unparse(returns))
            if other is not None:
                yield self._made(node.value, function, other)

    def _made(self, node: ast.expr, function: str, text: str) -> Mutant:
        start, end = self._span(node)
        return Mutant(self._path, node.lineno, function, start, end, self._text(node), text)

    def _span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()


_WORDS: Final[Mapping[type[ast.cmpop], str]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


def _joined(parts: Sequence[str], words: Sequence[str]) -> str:
    return parts[0] + "".join(f" {word} {part}" for word, part in zip(words, parts[1:], strict=True))


def _other_value(text: str, annotation: str) -> str | None:
    """Return another value of the type that a function returns, None where there is no plain one."""
    if annotation == "bool":
        return {"True": "False", "False": "True"}.get(text, f"not ({text})")
    if annotation in ("int", "float"):
        return f"({text}) + 1"
    if annotation.endswith("| None"):
        return "None" if text != "None" else None
    empty = _EMPTY.get(annotation.partition("[")[0])
    return empty if empty != text else None


def copied(into: Path) -> None:
    """Copy all files of the clone that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)


def passes(clone: Path, tests: Sequence[str], limit_s: float | None = None) -> bool:
    """Say whether tests pass in a copy of the clone; those that do not end in time fail. PostgreSQL's twins are left out."""
    path = os.pathsep.join([str(clone), *(str(clone / source) for source in SOURCES)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("-q", "-x", "-m", "not postgres", "-p", "no:cacheprovider", "--hypothesis-seed=0")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=clone,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit_s) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def timed(clone: Path, tests: Sequence[str]) -> float | None:
    """Return how long tests may take with a mutant, None when they fail without one."""
    started = time.monotonic()
    if not passes(clone, tests):
        return None
    return max(LEAST_LIMIT_S, SLOWER * (time.monotonic() - started))


def is_killed(clone: Path, mutant: Mutant, limit_s: float) -> bool:
    """Say whether the tests nearest to a mutant fail with it. The file in the copy is as before afterwards."""
    file = clone / mutant.path
    source = file.read_bytes()
    file.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])
    try:
        return not passes(clone, tests_of(module_of(mutant.path)), limit_s)
    finally:
        file.write_bytes(source)


def main(n: int, seed: int) -> dict[str, Any]:
    """Draw `n` mutants and say which survive the nearest tests."""
    everything = all_mutants()
    chosen = drawn(everything, n, seed)
    survived: list[str] = []
    killed = 0
    with tempfile.TemporaryDirectory(prefix="ef-mutants-") as folder:
        clone = Path(folder)
        copied(clone)
        limits: dict[tuple[str, ...], float | None] = {}
        try:
            for mutant in chosen:
                tests = tests_of(module_of(mutant.path))
                if tests not in limits:
                    limits[tests] = timed(clone, tests)
                limit_s = limits[tests]
                if limit_s is None:
                    continue
                is_dead = is_killed(clone, mutant, limit_s)
                killed += is_dead
                survived += [] if is_dead else [str(mutant)]
                sys.stderr.write(f"{'killed' if is_dead else 'SURVIVED'}: {mutant}\n")
        except KeyboardInterrupt:
            sys.stderr.write("stopped; what was done until now is reported\n")
    broken = sorted(" ".join(tests) for tests, limit_s in limits.items() if limit_s is None)
    return {
        "ok": not broken,
        "of": len(everything),
        "tried": killed + len(survived),
        "killed": killed,
        "survived": survived,
        "broken_before": broken,
    }
