"""The structs of the CLI are those of the committed OpenAPI document, take what older and newer servers say, and load lazily."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from edgefleet_cli.core.api.device import Device, DeviceIn
from edgefleet_cli.core.api.release import DeployIn
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.errors import BadAnswerError
from edgefleet_cli.core.structs import Body
from edgefleet_cli.core.transport.reply import Page, Reply, struct_of
from tests.house.api_structs import CLI, DOCUMENT, FOLDER, MODULES, Writer, module_of, modules


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The committed document."""
    found: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    return found


def test_the_modules_are_what_the_document_makes() -> None:
    made = modules()
    assert {path.name for path in FOLDER.glob("*.py")} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text("utf-8") == text, "run `./dev run python -m tests.house.api_structs`"


def test_a_folder_of_at_most_15_modules() -> None:
    assert len(MODULES) <= 15


def test_a_path_without_a_module_is_named(document: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="/api/v1/gadgets has no module"):
        module_of("/api/v1/gadgets")
    assert all(module_of(path) in {None, *MODULES} for path in document["paths"])


def test_two_schemas_of_one_name_are_named(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    changed["components"]["schemas"]["Rollout"] = changed["components"]["schemas"]["RolloutView"]
    answers = changed["paths"]["/api/v1/rollouts/{rollout_id}"]["get"]["responses"]["200"]["content"]
    answers["application/json"]["schema"] = {"$ref": "#/components/schemas/Rollout"}
    with pytest.raises(ValueError, match="Rollout"):
        Writer(changed)


def test_what_a_newer_server_says_is_ignored_and_what_an_older_one_lacks_is_empty() -> None:
    told = {"id": "cam-1", "status": "asleep", "hologram": {"a": 1}, "models": [{"model": "digits", "mood": "good"}]}
    device = struct_of(told, Device)
    assert (device.id, device.status, device.models[0].model) == ("cam-1", "asleep", "digits")
    assert (device.desired.gen, device.labels, device.last_seen, device.models[0].release) == (0, {}, None, None)


def test_an_object_is_kept_as_it_came() -> None:
    raw = {"zeta": 1, "id": "r-1", "alpha": [None]}
    reply = Reply(raw, Rollout)
    assert reply.value.id == "r-1"
    assert list(reply.raw) == ["zeta", "id", "alpha"]
    page = Page({"items": [raw], "next_cursor": None, "total": 1, "more": True}, Rollout)
    assert [rollout.id for rollout in page] == ["r-1"]
    assert page.raw["more"] is True
    assert Page.of(page.replies).raw == {"items": [raw], "next_cursor": None, "total": 1}


def test_an_answer_of_another_kind_is_refused_with_its_place() -> None:
    with pytest.raises(BadAnswerError) as refused:
        struct_of({"id": 7}, Device)
    assert refused.value.why == "Expected `str`, got `int` - at `$.id`"
    assert struct_of({"id": "\ud800"}, Device).id == "\ud800"


def test_every_struct_is_frozen_and_an_answer_can_be_made_of_nothing() -> None:
    for module in MODULES:
        namespace = vars(__import__(f"edgefleet_cli.core.api.{module}", fromlist=["_"]))
        for one in namespace.values():
            if isinstance(one, type) and issubclass(one, msgspec.Struct) and one is not msgspec.Struct:
                assert one.__struct_config__.frozen
                if not issubclass(one, Body):
                    assert msgspec.convert({}, one) == one()


def test_a_body_holds_what_was_given_and_nothing_else() -> None:
    assert json.loads(msgspec.json.encode(DeviceIn())) == {}
    assert json.loads(msgspec.json.encode(DeployIn(selector=None, dry_run=False))) == {
        "selector": None,
        "dry_run": False,
    }
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        msgspec.convert({"labels": {}, "colour": "red"}, DeviceIn)


def test_no_command_sends_a_mapping() -> None:
    found = []
    for file in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"post", "put", "patch"}
            ):
                found += [f"{file}:{node.lineno}" for one in node.args if isinstance(one, ast.Dict | ast.DictComp)]
    assert found == []


def test_what_no_command_names_is_left_out(document: dict[str, Any]) -> None:
    kept = Writer(document, dict.fromkeys(MODULES, frozenset()) | {"fleet": frozenset({"Group", "name"})}).module(
        "fleet"
    )
    assert kept.split("\n\n\n")[1:] == ['class Group(Struct, frozen=True):\n    name: str = ""\n']
    assert "selector: str" in Writer(document).module("fleet")
    bodies = Writer(document, dict.fromkeys(MODULES, frozenset()) | {"fleet": frozenset({"GroupIn"})}).module("fleet")
    assert bodies.endswith("(Body, frozen=True, kw_only=True):\n    name: str\n    selector: str\n")


def test_a_command_imports_the_structs_that_it_reads_alone() -> None:
    script = "import sys\nfrom edgefleet_cli.core.api import device\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("edgefleet_cli.core.api.")}
    assert loaded == {"edgefleet_cli.core.api.device"}
