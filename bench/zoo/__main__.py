"""The zoo: models that nothing was tuned on, converted by edgefleet and by its peers, judged on fresh samples by their task.

For each model and each tool: verdict, loss on fresh samples by the task's own metric, bytes and latency as ratios to the source,
seconds, MB. Two halves of the same generators: `fixed` has fixed seeds; those of `final` are drawn from the hash of the last
commit that touched converters/, so nobody can have looked at it. Each row is kept as a line of JSON by the digests of what made
it: a run that was stopped goes on, and after a change of the code only the rows of edgefleet are made again.

The table goes to stderr, one JSON object with the figures to stdout.

    python -m bench.zoo [--half fixed|final] [--only NAME]... [--shard I/N] [--fresh] [--no-peers] [--list] [--kept]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.zoo.entry import Entry, Seeds, seeds
from bench.zoo.summary import GOALS, difference, summary, tools_at_a_glance
from bench.zoo.table import ENTRIES
from bench.zoo.tools import TOOLS, ZooTool
from bench.zoo.trial import VERSION, Material, held_tflite, material, trial
from tests.support.real_models import cache_folder

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
HALVES = ("fixed", "final")


def main() -> int:
    """Run the zoo and print it; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="./dev bench zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=HALVES, help="only this half; default: both")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this model; may be repeated")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th model, from the I-th on")
    parser.add_argument("--fresh", action="store_true", help="make rows again that are kept")
    parser.add_argument("--no-peers", action="store_true", help="only edgefleet's rows")
    parser.add_argument("--kept", action="store_true", help="make nothing: print the rows that are kept")
    parser.add_argument("--list", action="store_true", help="print the table of models and end")
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder of models, data and rows; default: the tests' cache"
    )
    args = parser.parse_args()
    unknown = sorted(set(args.only) - set(ENTRIES))
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; see --list")
    if args.list:
        print(json.dumps([_described(entry) for entry in ENTRIES.values()], indent=1))
        return 0
    first, of = (int(part) for part in args.shard.split("/"))
    chosen = [entry for entry in ENTRIES.values() if not args.only or entry.name in args.only][first - 1 :: of]
    run = Run(args.cache or cache_folder() / "zoo", fresh=args.fresh, peers=not args.no_peers, kept=args.kept)
    halves = {}
    for half in [args.half] if args.half else HALVES:
        rows = [row for entry in chosen for row in run.rows(entry, half)]
        halves[half] = {"root": run.root(half), **summary(rows), "tools": tools_at_a_glance(rows), "rows": rows}
        _say_summary(half, halves[half])
    held = all(is_held is not False for half in halves.values() for is_held in half["within"].values())
    machine = {"cpus": os.cpu_count(), "load_1min": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]}
    apart = difference(halves["fixed"], halves["final"]) if len(halves) == 2 else None
    print(
        json.dumps(
            {
                "bench": "zoo", "ok": held, "goals": GOALS, "machine": machine, "code": run.code, "halves_differ_by_points": apart,
                "not_made": run.not_made,
                "halves": halves,
            },
            indent=1,
        )
    )  # fmt: skip
    return 0 if held else 1


class Run:
    """Rows of the zoo, made or taken from the folder where they are kept."""

    def __init__(self, cache: Path, *, fresh: bool, peers: bool, kept: bool) -> None:
        self._cache, self._fresh, self._peers, self._kept = cache, fresh, peers, kept
        self.not_made: dict[str, str] = {}
        self.code = _digest(ROOT / "converters", ROOT / "agent" / "edgefleet_runtime")
        own = ROOT / "bench" / "zoo"
        self._making = {
            "": _digest(own / "samples.py", own / "families.py"), "torch": _digest(own / "samples.py", own / "torch_nets.py"),
            "download": _digest(own / "packages.py"),
        }  # fmt: skip
        self._judging = f"{VERSION} {_digest(own / 'task_metrics.py')}"

    def root(self, half: str) -> str:
        """Return what the half's seeds are drawn from."""
        if half == "fixed":
            return "fixed"
        return _git("log", "-1", "--format=%H", "--", "converters") + (
            " changed" if _git("status", "--porcelain", "converters") else ""
        )

    def rows(self, entry: Entry, half: str) -> list[Row]:
        """Return the rows of an entry in one half; prints each as it comes."""
        _say_entry(entry, half)
        drawn = seeds(entry.name, self.root(half))
        store = self._cache / "rows" / f"{entry.name}-{half}.jsonl"
        try:
            version = f"{self._making[entry.needs]} {entry.sizes}"
            source = material(entry, drawn, self._cache, version, is_made=not self._kept)
        except Exception as error:  # noqa: BLE001 - a model that cannot be had here is said and left out
            said = str(getattr(error, "stderr", None) or error)
            why = f"{type(error).__name__}: {' '.join(said.split())[-300:]}"
            _say(f"  not made: {why}")
            self.not_made[f"{entry.name}/{half}"] = why
            return []
        known = {} if self._fresh else _kept(store)
        held, refusal = held_tflite(entry, source, self.code, is_made=not self._kept)
        found = []
        for tool in TOOLS:
            if (not self._peers and not tool.is_ours) or not _fits(tool, source):
                continue
            key = self._key(tool, source, held, entry)
            row = known.get(key)
            if row is None and not self._kept:
                row = self._made(entry, tool, source, held, refusal, drawn)
                row |= {"key": key, "half": half}
                _keep(store, row)
            if row is not None:
                _say_row(row)
                found.append(row)
        return found

    def _made(self, entry: Entry, tool: ZooTool, source: Material, held: bytes, refusal: str, drawn: Seeds) -> Row:
        facts = source.facts
        row = {
            "model": entry.name, "kind": entry.kind, "metric": entry.metric, "tool": tool.name, "runtime": tool.runtime,
            "source_bytes": facts["bytes"], "quantizable": facts["quantizable"], "seed": drawn.model,
        }  # fmt: skip
        if tool.takes == "tflite" and not held:
            return row | {"verdict": "refused", "why": f"there is no float .tflite to start from: {refusal}"[:300]}
        return row | trial(entry, tool, source, held, cache_folder() / "tools")

    def _key(self, tool: ZooTool, source: Material, held: bytes, entry: Entry) -> str:
        facts = [self._judging, tool.name, source.folder.name, source.facts["sha256"], entry.metric, str(entry.limit)]
        if tool.is_ours:
            facts.append(self.code)
        elif tool.takes == "tflite":
            facts.append(hashlib.sha256(held).hexdigest())
        return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:24]


def _fits(tool: ZooTool, source: Material) -> bool:
    """Return whether a tool is for this source: onnxruntime runs no TFLite file."""
    return not (tool.takes == "onnx" and source.model.suffix == ".tflite")


def _digest(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(file for root in paths for file in ([root] if root.is_file() else root.rglob("*.py"))):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:20]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _kept(store: Path) -> dict[str, Row]:
    if not store.exists():
        return {}
    rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["key"]: row for row in rows}


def _keep(store: Path, row: Row) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _described(entry: Entry) -> Row:
    names = ("name", "kind", "task", "data", "metric", "limit", "source", "licence", "sizes", "needs")
    return {name: getattr(entry, name) for name in names}


def _say(line: str) -> None:
    """Print a line to stderr, cut to the terminal; at most 80 columns where there is none."""
    print(line[: shutil.get_terminal_size((80, 24)).columns], file=sys.stderr, flush=True)


def _say_entry(entry: Entry, half: str) -> None:
    _say(f"{entry.name} ({half}; {entry.kind}; {entry.metric}, limit {entry.limit:g})")


def _say_row(row: Row) -> None:
    took = f"{row.get('seconds', 0):6.1f} s {row.get('peak_mb', 0):5} MB"
    if "loss" not in row:
        _say(f"  {row['tool']:17}{row['verdict']:9}{took}  {row.get('why', '')}")
        return
    mark = "" if row["within"] else "!"
    latency = "   -" if row["latency_ratio"] is None else f"{row['latency_ratio']:.2f}"
    _say(f"  {row['tool']:17}{row['verdict']:9}{took}  loss {row['loss']:8.4f}{mark:1} {row['ratio']:5.2f}x {latency}t")


def _say_summary(half: str, figures: Row) -> None:
    _say(
        f"{half} half, seeds from {figures['root'][:16]}: {figures['models']} models, {figures['pairs']} pairs, {figures['served']} served"
    )
    for name, goal in GOALS.items():
        word = {True: "held", False: "MISSED", None: "-"}[figures["within"][name]]
        _say(f"  {word:7}{name:16}{figures[name]!s:>8}  (goal {goal:g})")
    columns = ("asked", "made", "served", "small", "over_twice")
    _say(f"  {'tool':18}" + "".join(f"{name.replace('_', ' '):>11}" for name in columns))
    for tool, row in figures["tools"].items():
        _say(f"  {tool:18}" + "".join(f"{row[name]:11}" for name in columns))


if __name__ == "__main__":
    sys.exit(main())
