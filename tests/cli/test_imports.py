"""The CLI starts fast because it never imports the other parts."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = (
    "edgefleet_server",
    "edgefleet_converters",
    "edgefleet_agent",
    "fastapi",
    "sqlmodel",
    "onnx",
    "numpy",
    "httpx",
    "yaml",
    "rich.live",
)


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


def test_building_the_whole_command_tree_imports_nothing_heavy() -> None:
    loaded = _modules_after("from edgefleet_cli.tree import build\nbuild()")
    assert not loaded & set(_HEAVY)


def test_the_light_version_imports_no_typer() -> None:
    loaded = _modules_after(
        "from edgefleet_cli.main import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass"
    )
    assert "typer" not in loaded
    assert "rich" not in loaded
