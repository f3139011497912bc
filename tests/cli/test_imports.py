"""The CLI starts fast because it never imports the other parts."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from edgefleet_cli.core.version import own_version
from edgefleet_cli.summaries import SUMMARIES
from edgefleet_cli.tree import build, front_page
from tests.cli.conftest import Edgectl

_HEAVY = (
    "edgefleet_server",
    "edgefleet_converters",
    "edgefleet_agent",
    "fastapi",
    "sqlmodel",
    "onnx",
    "numpy",
    "httpx",
    "typing_extensions",
    "pydantic",
    "yaml",
    "rich.live",
    "textual",
)


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


def test_building_the_whole_command_tree_imports_nothing_heavy() -> None:
    loaded = _modules_after("from edgefleet_cli.tree import build\nbuild()")
    assert not loaded & set(_HEAVY)


def test_one_command_is_made_alone_and_asks_the_server_without_the_rest_of_httpx() -> None:
    made = "from edgefleet_cli.tree import build\nassert list(build('device').commands) == ['device']\n"
    loaded = _modules_after(made + "import edgefleet_cli.core.transport.api_client")
    assert "httpx" in loaded
    assert not loaded & {"rich.progress", "pygments", "click", "numpy"}
    assert "edgefleet_cli.rollout.commands" not in loaded


def test_a_command_runs_without_pydantic() -> None:
    run = "from edgefleet_cli.main import run\nassert run(['context', 'list', '-o', 'json']) == 0\n"
    loaded = _modules_after(run)
    assert "edgefleet_cli.admin.access.context_commands" in loaded
    assert "pydantic" not in loaded


def test_the_front_page_imports_no_command() -> None:
    run = "from edgefleet_cli.main import run\nassert run(['--help']) == 0\n"
    loaded = _modules_after(run)
    assert "edgefleet_cli.tree" in loaded
    assert not loaded & {"edgefleet_cli.rollout.commands", "edgefleet_cli.core.session", "httpx", "msgspec", "pydantic"}


def test_the_front_page_says_of_each_command_what_the_command_says() -> None:
    whole = build()
    shown = {name: one for name, one in whole.commands.items() if not one.hidden}
    assert sorted(front_page().commands) == sorted(shown)
    own = {name: " ".join((one.help or "").split("\n\n")[0].split()) for name, one in shown.items()}
    assert own == SUMMARIES


def test_a_word_that_is_no_command_is_refused_with_the_whole_tree(edgectl: Edgectl) -> None:
    ran = edgectl("devise", "list")
    assert ran.code == 2
    assert "devise" in ran.told()[0]


def test_the_light_version_imports_no_typer() -> None:
    loaded = _modules_after(
        "from edgefleet_cli.main import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass"
    )
    assert not loaded & {"typer", "rich", "importlib.metadata", "edgefleet_protocol"}


def test_the_version_is_the_one_that_the_installer_wrote() -> None:
    assert own_version() == version("edgefleet")
