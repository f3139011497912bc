"""A folder as a queue: each file is asked about, its answer is written to `results.jsonl`, the file moves to `done/` or `failed/`.

1. Order of writing: the answer's line, then the move. After a kill or a power cut between the two, the file is found with its line (same
   name, size and time of change) and is only moved: nothing is asked or written twice, nothing is left out.
2. A half line at the end of `results.jsonl`, from a cut in the middle of writing, is cut off; its file is asked about again.
3. When the device cannot be reached the file stays where it is: the next run goes on with it.
4. A file that was changed less than `SETTLED_S` ago may still be written; with `watch` it waits, without it is taken.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
DONE, FAILED = "done", "failed"
SETTLED_S = 1.0

Ask = Callable[[Path], dict[str, Any]]
"""A file -> what is known about it: `predictions`, or `error`. What it raises ends the run (rule 3)."""


class Batch:
    """One folder. takes: whether a file is an input."""

    def __init__(self, folder: Path, takes: Callable[[Path], bool]) -> None:
        """Open the folder and its results; raises OSError."""
        self._folder = folder
        self._takes = takes
        self._results = folder / RESULTS
        for name in (DONE, FAILED):
            (folder / name).mkdir(exist_ok=True)
        self._known = dict(_read_results(self._results))

    def run(self, ask: Ask) -> Iterator[dict[str, Any]]:
        """Ask about every file that waits, and yield each answer once it is written. Raises OSError and what `ask` raises."""
        for path in self._waiting(0.0):
            yield self._one(path, ask)

    def watch(self, ask: Ask, wait: Callable[[float], bool], unix_s: Callable[[], float]) -> Iterator[dict[str, Any]]:
        """As `run`, and go on with files that come. wait: sleeps, and says whether to end."""
        while True:
            for path in self._waiting(unix_s() - SETTLED_S):
                yield self._one(path, ask)
            if wait(SETTLED_S / 2):
                return

    def _waiting(self, before_s: float) -> list[Path]:
        """Return the files that wait, by name. before_s: changed before this, by the file system's clock; 0 = all."""
        found = []
        for path in sorted(self._folder.iterdir()):
            if path.name == RESULTS or path.name.startswith(".") or not path.is_file() or path.is_symlink():
                continue
            if self._takes(path) and (not before_s or path.stat().st_mtime < before_s):
                found.append(path)
        return found

    def _one(self, path: Path, ask: Ask) -> dict[str, Any]:
        stat = path.stat()
        key = (path.name, stat.st_size, stat.st_mtime_ns)
        result = self._known.get(key)
        if result is None:
            began = time.monotonic()
            result = {"file": path.name, **ask(path), "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
            result["took_ms"] = round((time.monotonic() - began) * 1e3, 3)
            self._write(result)
            self._known[key] = result
        target = self._folder / (FAILED if "error" in result else DONE)
        path.rename(_free(target / path.name))
        return result

    def _write(self, result: dict[str, Any]) -> None:
        with self._results.open("ab") as file:
            file.write(json.dumps(result).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read_results(path: Path) -> Iterator[tuple[tuple[str, int, int], dict[str, Any]]]:
    """Yield the lines of earlier runs; cuts off a last one that is not whole (rule 2)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    for line in whole.splitlines():
        try:
            result = json.loads(line)
            yield (result["file"], result["bytes"], result["changed_ns"]), result
        except (ValueError, KeyError, TypeError):
            continue  # a line of somebody else


def _free(path: Path) -> Path:
    """Return the path, or one with a number where a file of that name is there already."""
    number, free = 1, path
    while free.exists():
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
        number += 1
    return free
