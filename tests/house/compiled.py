"""Compiles the tests and the packages of a fresh clone, before all processes of tests do it at once: `python -m tests.house.compiled`.

Importing everything would do it too, and takes three times as much processor time.
"""

from __future__ import annotations

import py_compile
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _pytest.assertion import rewrite

from tests.house.tree import ROOT

PACKAGES = ("agent", "server", "converters", "firmware-profiles", "bench")
PROCESSES = 2


def compile_file(path: Path) -> None:
    """Write what Python, or pytest for a file whose assertions it rewrites, makes of a source. One that is wrong is left to the run."""
    try:
        if path.name.startswith("test_") or path.name == "conftest.py":
            _compile_rewritten(path)
        else:
            py_compile.compile(str(path), quiet=2)
    except (OSError, SyntaxError):
        return


def _compile_rewritten(path: Path) -> None:
    settings: Any = SimpleNamespace(getini=lambda _name: False, trace=lambda _line: None)
    stat, code = rewrite._rewrite_test(path, settings)
    file = compiled_of(path)
    file.parent.mkdir(exist_ok=True)
    rewrite._write_pyc(settings, code, stat, file)


def compiled_of(path: Path) -> Path:
    """Return where pytest looks for what it made of a file."""
    return rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"


def main() -> int:
    """Compile all files. Returns the exit code."""
    files = [path for folder in ("tests", *PACKAGES) for path in sorted((ROOT / folder).rglob("*.py"))]
    with ProcessPoolExecutor(PROCESSES) as pool:
        for _ in pool.map(compile_file, files, chunksize=64):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
