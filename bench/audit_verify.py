"""How long a check of a whole audit trail takes: a million entries in a file, chain and tree, one process.

Prints one JSON object. The alternatives are what somebody would write who has the file and its description: a script of Python's
standard library that parses each line, writes it again with sorted keys and hashes it, which checks the chain and no tree; and `jq` with
`sha256sum`, a process a line, timed on `--slice` lines and scaled up. `ratio` is how much longer they take. Exit code 1 above GOAL_S.

    python bench/audit_verify.py [--entries 1000000] [--slice 2000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgefleet_cli.audit.entry_files import read_entries  # noqa: E402
from edgefleet_terms.audit_chain.audit_head import AuditHead  # noqa: E402
from edgefleet_terms.audit_chain.chain_check import check  # noqa: E402
from edgefleet_terms.audit_chain.hash_chain import GENESIS, AuditRecord, chained, time_text  # noqa: E402
from edgefleet_terms.audit_chain.merkle_tree import Frontier  # noqa: E402

GOAL_S = 10.0
HEADS_EVERY = 1_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
BY_SHELL = r"""
before=$(printf '%064d' 0)
while IFS= read -r line; do
  own=$(printf '%s' "$line" | jq -r .hash)
  body=$(printf '%s' "$line" | jq -cS 'del(.hash)')
  before=$({ printf '\0'; printf '%s' "$before" | xxd -r -p; printf '%s' "$body"; } | sha256sum | cut -d' ' -f1)
  [ "$before" = "$own" ] || exit 1
done
"""


def write_trail(path: Path, count: int) -> dict[int, AuditHead]:
    """Write a trail of entries of the usual length; return its heads."""
    before, tree, heads = GENESIS, Frontier(), dict[int, AuditHead]()
    with path.open("wb") as sink:
        for n in range(1, count + 1):
            entry = chained(
                before,
                AuditRecord(
                    action="set_device_labels",
                    actor=f"pipeline-{n % 7} (q2w3e4r5t6y{n % 7})",
                    at=time_text(BEGIN + timedelta(milliseconds=17 * n)),
                    n=n,
                    object=f"/api/v1/devices/d-{n % 100_000:07}",
                    request_id=hashlib.md5(str(n).encode()).hexdigest(),
                    status=200,
                ),
            )
            before = bytes.fromhex(entry.hash)
            tree.add(before)
            sink.write(entry.line())
            if n % HEADS_EVERY == 0 or n == count:
                heads[n] = AuditHead(at=time_text(BEGIN), chain=entry.hash, root=tree.root().hex(), size=n)
    return heads


def ours(path: Path, heads: dict[int, AuditHead]) -> bool:
    """Check chain, tree and heads, as `edgectl audit verify FILE` does."""
    found = check(read_entries(path), heads, {max(heads)}, lambda place: read_entries(path, place))
    return found.finding is None and found.size == max(heads)


def by_script(path: Path) -> bool:
    """Check the chain with the standard library."""
    before = bytes(32)
    with path.open() as lines:
        for line in lines:
            entry = json.loads(line)
            own = entry.pop("hash")
            body = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            before = hashlib.sha256(b"\0" + before + body.encode()).digest()
            if before.hex() != own:
                return False
    return True


def by_shell(path: Path, count: int) -> bool:
    """Check the chain of the first entries with jq and sha256sum."""
    with path.open("rb") as lines:
        first = b"".join(next(lines) for _ in range(count))
    return subprocess.run(["bash", "-c", BY_SHELL], input=first, check=False).returncode == 0


def timed(what: Callable[[], bool]) -> tuple[float, float]:
    """Return how many seconds it took, and how many of a processor; ends the run when it does not hold."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    if not what():
        raise SystemExit("the trail does not hold")
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(description="Time a check of a whole audit trail.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--slice", type=int, default=2_000)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ef-audit-") as folder:
        path = Path(folder) / "audit.jsonl"
        heads = write_trail(path, args.entries)
        took_s, cpu_s = timed(lambda: ours(path, heads))
        script_s, script_cpu_s = timed(lambda: by_script(path))
        shell_s: float | None = None
        part = min(args.slice, args.entries)
        if part and all(shutil.which(name) for name in ("bash", "jq", "xxd", "sha256sum")):
            shell_s = timed(lambda: by_shell(path, part))[0] * args.entries / part
        length = path.stat().st_size
    report: dict[str, Any] = {
        "entries": args.entries,
        "file_bytes": length,
        "heads": len(heads),
        "verify_s": round(took_s, 2),
        "verify_cpu_s": round(cpu_s, 2),
        "entries_per_s": round(args.entries / took_s),
        "goal_s": GOAL_S,
        "standard_library_s": round(script_s, 2),
        "standard_library_cpu_s": round(script_cpu_s, 2),
        "ratio_standard_library": round(script_cpu_s / cpu_s, 2),
        "jq_sha256sum_s_scaled": None if shell_s is None else round(shell_s),
        "ratio_jq_sha256sum": None if shell_s is None else round(shell_s / took_s),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(report))
    return 0 if took_s <= GOAL_S * args.entries / 1_000_000 else 1


if __name__ == "__main__":
    sys.exit(main())
