"""The pages tell the truth: their shell blocks run, their links lead somewhere, their tables are those of the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from edgefleet_converters import errors
from edgefleet_protocol import bundle, desired, manifest, messages
from edgefleet_protocol.blocks import BlockErrorCode
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.access.rules import POLICY, role_of
from edgefleet_server.events.types import all_types
from edgefleet_server.rollout.spec.model import GateKind
from edgefleet_server.settings import ALL_ROLES, ServerRole
from edgefleet_server.web.problems import status_of
from tests.house.pages import (
    SERVER_DATA,
    SHELL_WORDS,
    anchors,
    blocks,
    links,
    needs_server,
    pages,
    script,
    shell_blocks,
    unmet,
)
from tests.house.soak import EACH_POINT, SOAKS
from tests.house.tree import ROOT
from tests.support.servers import copy_server, server_process

RUNNABLE = [page for page in pages() if any(block.kind in ("run", "background") for block in shell_blocks(page))]
STARTS_A_SERVER = [
    p
    for p in RUNNABLE
    if needs_server(p) or any(b.kind == "background" or "edgectl server up" in b.text for b in shell_blocks(p))
]
PAGE_S = 240
OF_PAGES = {
    "EDGEFLEET_AGENT_INFER_PORT": "0",
    "EDGEFLEET_SERVER_API_PORT": "0",
    "EDGEFLEET_SERVER_DEVICE_PORT": "0",
    "EDGEFLEET_SERVER_BROKER_PORT": "0",
}
"""Pages run side by side: no agent or server of one may want the port of another's."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has at most 107 bytes, and pytest's own folders use most of them."""
    with tempfile.TemporaryDirectory(prefix="ef-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def page_server(page: Path, folder: Path) -> Iterator[None]:
    """Run the server that a page needs, if it needs one, with its data where the page looks for them.

    How `edgectl server start` begins one is tried by the pages that start their own. A converter takes a second of processor time
    to start, and not every page publishes.
    """
    if not needs_server(page):
        yield
        return
    data = folder / ".server" / "data"
    token = copy_server(data)
    (folder / SERVER_DATA).symlink_to(data)
    is_to_convert = "publish" in script(page)
    roles = [role for role in ALL_ROLES if is_to_convert or role is not ServerRole.CONVERTER]
    with server_process(data, token, "--broker-port", "0", "--roles", ",".join(roles), timeout_s=PAGE_S):
        yield


def run_page(page: Path, folder: Path) -> None:
    """Run the page in `folder`, which has the clone's examples and a home of its own."""
    with page_server(page, folder):
        run_blocks(page, folder)


def run_blocks(page: Path, folder: Path) -> None:
    """Run the page's blocks, and look at what they printed and left."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "agent").symlink_to(ROOT / "agent")
    (folder / ".home").mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGECTL_", "EDGEFLEET_", "XDG_", "PYTEST_"))}
    output = folder / ".output"
    with output.open("wb") as sink:
        shell = subprocess.Popen(
            ["bash", "-c", script(page, has_server=True)],
            cwd=folder,
            env={**clean, "PATH": path, "HOME": str(folder / ".home"), "NO_COLOR": "1", **OF_PAGES},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended: int | str = shell.wait(timeout=PAGE_S)
        except subprocess.TimeoutExpired:
            ended = f"not over after {PAGE_S} s"
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGTERM)  # its trap ends what the page started; a kill would leave that
                shell.wait(timeout=60)
            end_all(folder)
    assert ended == 0, f"{ended}\n{output.read_text(errors='replace')[-6000:]}"
    wrong = unmet(page, folder)
    made = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {"examples", "agent", page.name}
    assert not made, f"the page leaves in the clone: {sorted(made)}"
    assert not wrong, "\n".join([*wrong, output.read_text(errors="replace")[-6000:]])


def end_all(folder: Path) -> None:
    """End what runs with a folder below this one, as servers and agents in the background do."""
    left = [one for one in psutil.process_iter(["cmdline"]) if f"{folder}/" in " ".join(one.info["cmdline"] or ())]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(left, timeout=30)


@pytest.mark.parametrize("page", [p for p in RUNNABLE if p not in STARTS_A_SERVER], ids=str)
def test_shell_blocks_run(page: Path, scratch: Path) -> None:
    run_page(page, scratch)


@pytest.mark.slow
@pytest.mark.parametrize("page", STARTS_A_SERVER, ids=str)
def test_shell_blocks_with_a_server_run(page: Path, scratch: Path) -> None:
    run_page(page, scratch)


def test_every_shell_block_is_run_or_says_why_not() -> None:
    for page in pages():
        for block in blocks(page):
            assert block.language not in SHELL_WORDS - {"sh"}, f"{page}:{block.line} is not fenced as sh"
            assert block.kind == "run" or len(block.note) > 5, f"{page}:{block.line}"
            if block.kind == "elsewhere":
                assert f'"{page}"' in (ROOT / block.note).read_text(), f"{block.note} does not run {page}:{block.line}"
    skipped = [b for page in pages() for b in shell_blocks(page) if b.kind == "skip"]
    assert len(skipped) <= 12


def test_what_a_page_claims_of_a_block_is_compared_with_what_it_prints(scratch: Path) -> None:
    page = scratch / "page.md"
    true = "<!-- prints: ^1 of [0-9]$ -->\n<!-- prints: to stderr -->\n"
    block = "```sh\none=1\ncd /\necho '1 of 3'; echo to stderr >&2\n```\nThen:\n\n```sh\ntest $one = 1\n```\n"
    page.write_text(true + block)
    run_page(page, scratch)
    (scratch / "examples").unlink()
    (scratch / "agent").unlink()
    page.write_text("<!-- prints: ^2 of -->\n" + block)
    with pytest.raises(AssertionError, match=r"does not print '\^2 of'"):
        run_page(page, scratch)


def test_no_loop_of_a_page_runs_for_ever() -> None:
    endless = re.compile(r"\b(until|while)\b.*; *do\b")
    for page in pages():
        for block in shell_blocks(page):
            for line in block.text.splitlines():
                assert not endless.search(line), f"{page}:{block.line}: {line}"


def test_json_blocks_parse() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language == "json":
                json.loads(block.text)


def test_links_lead_somewhere() -> None:
    dead = []
    for page in pages():
        for link in links(page):
            if link.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            if not target.exists():
                dead.append(f"{page}: {link}")
            elif anchor and anchor not in anchors(target.resolve().relative_to(ROOT)):
                dead.append(f"{page}: no heading {anchor}")
    assert dead == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    left = [Path("README.md")]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in links(page):
            path = link.partition("#")[0]
            if path.endswith(".md") and "://" not in path:
                left.append(((ROOT / page).parent / path).resolve().relative_to(ROOT))
    assert set(pages()) - seen - {Path("CHANGELOG.md")} == set()


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def test_topics_page_is_complete() -> None:
    topics = Topics(TenantId("T"))
    device = DeviceId("D")
    known = {"b/{blob}", "stage/{rollout}"}  # reserved: access rules know them, nothing is published there
    for name, method in inspect.getmembers(topics, inspect.ismethod):
        if name.startswith("_") or name in {"device_subscriptions", "shard_subscriptions", "server_filters"}:
            continue
        wanted = list(inspect.signature(method).parameters)
        for leaf in ("head", "hold") if "leaf" in wanted else ("",):
            given = {"device": device, "account": "srv-a", "leaf": leaf, "shard": "xx"}
            topic = method(*(given[w] for w in wanted)).removeprefix("ef/1/T/")
            known.add(topic.replace("srv-a", "{account}"))
    told = set(re.findall(r"^\| `([^`]+)` \|", text("protocol/topics.md"), re.MULTILINE))
    assert told == known


def test_messages_page_has_every_field_in_order() -> None:
    page = text("protocol/messages.md")
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    structs = {
        name: kind
        for name, kind in vars(messages).items()
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct) and kind.__module__ == messages.__name__
    }
    for name, kind in structs.items():
        if name.startswith("_"):
            continue
        told = re.findall(r"`(\w+)`", sections[name].split("Fields:")[1].split("\n\n")[0])
        assert told == [field.name for field in msgspec.structs.fields(kind)], name
    for phase, state in messages.ASSIGNMENT_OF_PHASE.items():
        assert f"| `{phase}` | `{state}` |" in page
    for word in (*messages.ErrorClass, *messages.EventKind):
        assert f"`{word}`" in page


def test_blocks_page_names_every_error() -> None:
    told = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", text("protocol/blocks.md"), re.MULTILINE))
    assert told == {str(code.value): code.name for code in BlockErrorCode}


def test_manifest_page_names_every_field_and_refusal() -> None:
    page = text("protocol/manifest.md")
    told = {word for row in re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in msgspec.structs.fields(manifest.Manifest)} <= told
    codes = {
        kind.code for kind in vars(bundle).values() if inspect.isclass(kind) and issubclass(kind, bundle.BundleError)
    }
    for code in codes - {bundle.BundleError.code}:
        assert f"`{code}`" in page


def test_desired_page_shows_a_document_that_parses() -> None:
    example = next(b.text for b in blocks(Path("docs/protocol/desired.md")) if b.language == "json")
    document = desired.decode_desired(example.encode())
    assert set(json.loads(example)) == {field.name for field in msgspec.structs.fields(desired.Desired)}
    assert set(json.loads(example)["models"]["digits"]) == {
        f.name for f in msgspec.structs.fields(desired.ModelDesired)
    }
    assert document.models["digits"].active is not None


def test_error_page_has_every_code_of_a_conversion_with_the_server_s_status() -> None:
    page = text("reference/conversion-errors.md")
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.ConversionError)
    ]
    told = re.findall(r"^\| `(convert\.\w+)` \|", page, re.MULTILINE)
    assert len(told) == len(set(told))
    assert {*told, errors.ConversionError.code} == {kind.code for kind in kinds}
    statuses = re.findall(r"^\| `(\S+)` \| (\d+) \|", page, re.MULTILINE)
    assert len(statuses) == 6
    assert {code: status_of(code) for code, _ in statuses} == {code: int(status) for code, status in statuses}


def test_fault_page_names_every_fault_test_with_its_counts() -> None:
    row = r"^\| (F\d+)? ?\| `(\S+)` \| [^|]+ \| ([^|]+) \| (\d+) \|"
    told = re.findall(row, text("reference/fault-tests.md"), re.MULTILINE)
    faults = {
        name: soak
        for name, soak in SOAKS.items()
        if soak.module.startswith("tests.crash.")
        and name not in ("server-kill", "replicas", "disaster", "backup-kills", "rolling-restart")
    }
    assert "`./dev soak disaster`" in text("operate/disaster-recovery.md"), "a measurement has a page of its own"
    assert "`./dev soak rolling-restart " in text("operate/high-availability.md")
    for number, name, in_full, in_ci in told:
        soak = faults.pop(name)
        assert soak.about.startswith(f"{number}: " if number else ("a version", "a good update"))
        assert in_full == ("each, about 180" if soak.n == EACH_POINT else str(soak.n))
        assert int(in_ci) == soak.in_ci
    assert not faults


def test_rest_page_is_the_policy() -> None:
    told = re.findall(r"^\| `(\w+) (\S+)` \| (\w+) \|", text("reference/rest.md"), re.MULTILINE)
    assert set(told) == {(method, path, str(role_of(method, path))) for method, path in POLICY}


def test_events_page_names_every_type() -> None:
    assert set(re.findall(r"^\| `(edgefleet\.\S+)` \|", text("reference/events.md"), re.MULTILINE)) == set(all_types())


def test_rollout_spec_page_names_every_kind_of_gate() -> None:
    page = text("reference/rollout-spec.md")
    assert [kind for kind in GateKind if f"`{kind.value}`" not in page] == []


def test_architecture_picture_is_well_formed_and_loads_nothing() -> None:
    import xml.etree.ElementTree as ET

    picture = ROOT / "docs" / "explanation" / "architecture.svg"
    root = ET.fromstring(picture.read_text())
    assert root.tag.endswith("svg")
    assert "href" not in picture.read_text()
    assert root.find("{*}title") is not None
