"""The page of every error code, made from the code: `python -m tests.house.error_page docs/reference/errors.md` writes it.

A code is the class attribute of a subclass of `EdgefleetError`; its cause is the class's docstring; what to do next is what the places
that raise it say (a word in capitals stands for what they fill in). A class that only groups others has no row.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgefleet_protocol.errors import EdgefleetError, cause_of
from edgefleet_server.web.problems import FRAMEWORK_CODES, status_of
from tests.house.tree import ROOT, python_sources

PACKAGES = {
    "edgefleet_server": "The server and its API",
    "edgefleet_protocol": "Names, messages and bundles, everywhere",
    "edgefleet_cli": "`edgectl`",
    "edgefleet_agent": "The device",
    "edgefleet_runtime": "Models on a device",
    "edgefleet_converters": "Conversions",
    "edgefleet_profiles": "Hardware profiles",
    "edgefleet_sim": "The simulation",
}
MOST_STEPS = 2
HEAD = """# Errors

Every error has a `code` that does not change, says what was expected and found, and what to do next. This page is made from the code
(`python -m tests.house.error_page docs/reference/errors.md`); capitals stand for what the error fills in. *HTTP* is the status of an
[answer of the API](rest.md); what `edgectl` makes of it: [exit codes](exit-codes.md). A refused profile has one of the
[codes of a conversion](conversion-errors.md), which are here too.
"""
STEPS = {
    "alert.bad_contact": "write a URL as in the wiki of Apprise, for example `mailtos://USER:PASSWORD@HOST?to=ops@example.org`",
    "form.nothing_selected": "go back and select something",
    "agent.folder_refused": "use another folder with `--state DIR`, or add this one to `.gitignore`",
    "convert.untrusted_type": "train with estimators of scikit-learn alone, or export the model to ONNX where its types are known",
    "fleet.device_unknown": "`edgectl device list` shows all devices",
    "broker.connect_refused": "see the server's log for who tried; a device whose certificate has expired must enrol again",
    "check.golden": "see what became of the failure: `edgectl rollout explain ID`",
    "check.not_here": "nothing: something else serves there, which says nothing of the release",
    "check.not_now": "nothing: the device tries again by itself until the task expires",
    "check.signature": "see what became of the failure: `edgectl rollout explain ID`",
    "cli.diff_failed": "read the line that names the file or the object, correct it, and run `edgectl diff` again",
    "cli.fixed_object": "`edgectl apply --replace` creates it again, with a new secret where it has one",
    "convert.refused": "see the code and next step of the profile in `report.json`",
    "conversion.refused": "see `edgectl release report`: the row of the profile has the converter's code and next step",
    "conversion.stopped": "nothing: the job goes back to the queue",
    "desired.not_found": "nothing: a device without a document runs what it has; deploy something to it",
    "enroll.pending": "compare the fingerprint, then `edgectl device approve FINGERPRINT`; the device keeps asking by itself",
    "form.refused": "do what the page says; it is the API's own next step",
    "enroll.bad_hardware": "name a profile in the claim token (`edgectl device enroll --profile`), or add one for the board",
    "rollout.active_exists": "wait for the other rollout, abort it, or set `supersede` in the spec",
    "signing.bad_csr": "make the request again: an EC P-256 key, signed by itself",
    "tuf.file_not_found": "check the name; a device asks for what timestamp and snapshot name",
    "bundle.bad": "publish the release again under a new version; never edit a bundle",
    "bundle.bad_name": "publish the release again under a new version; never edit a bundle",
    "bundle.bad_zip": "publish the release again under a new version; never pack a bundle by hand",
    "bundle.extra_member": "publish the release again under a new version; never edit a bundle",
    "bundle.manifest": "publish the release again under a new version; never edit a manifest",
    "bundle.member_digest": "download it again; when it stays, publish the release again under a new version",
    "bundle.missing_member": "publish the release again under a new version; never edit a bundle",
    "message.bad": "update agent and server to versions that work together",
    "verify.expired": "check the device's clock and that the server runs: it signs documents again by itself",
    "verify.old_generation": "nothing: the device keeps the newer document; after a restore of the server it raises the number",
    "verify.wrong_device": "enrol the device again if its state was copied from another one",
    "verify.wrong_type": "update agent and server to versions that work together",
    "cli.interrupted": "run the command again",
    "cli.tool": "see why in the error; `edgectl tool list` shows what is there",
    "demo.story": "see the log that it names; run it again with `--data DIR` to keep everything",
    "install.blob_gone": "publish or deploy again: the server does not offer these bytes to this device any more",
    "install.bundle_digest": "nothing: it is downloaded again; when it stays, check the device's memory and disk",
    "install.leaf_index": "nothing: it is asked for again; when it stays, see the server's log",
    "install.manifest_mismatch": "publish the release again under a new version, and inform the people who hold the signing keys",
    "install.network": "nothing: the device tries again; check its connection when it stays",
    "install.security_floor": "deploy a release at or above the floor",
    "install.target_mismatch": "deploy the release again: a new document is signed",
    "install.target_unknown": "deploy a release that the repository has, and inform the people who hold the signing keys",
    "task.refused": "see the reason in the task; ask the device again",
    "tuf.repository": "check the device's clock and the server; restore its `tuf` metadata from the backup when it stays",
    "verify.old_hold": "nothing: the device keeps the newer one",
    "worker.bad_frame": "nothing: the worker is started again; report it when it stays",
    "convert.backend_missing": "compile with the vendor's tool, or take a profile of the same board that needs none",
    "convert.out_of_memory": "raise `job_memory_bytes`, or make the model smaller",
    "profile.unknown": "see `edgectl profile list`",
}
"""What to do about codes that are raised where nobody reads a next step: on the wire, in a child, on the device."""


@dataclass
class Row:
    """One code: what it means, and what the places that raise it say to do."""

    code: str
    causes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def kinds() -> list[type[EdgefleetError]]:
    """Return every error class of our packages, by module and name; imports all modules that can be imported here."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if ".migrations." not in module.name and not module.name.endswith("__main__"):
                try:
                    importlib.import_module(module.name)
                except ImportError:  # of an extra that is not installed, such as a camera's library
                    continue
    found: list[type[EdgefleetError]] = [EdgefleetError]
    for kind in found:
        found += [one for one in kind.__subclasses__() if one not in found]
    ours = [one for one in found if one.__module__.partition(".")[0] in PACKAGES]
    # not the order in which they happened to be imported
    return sorted(ours, key=lambda one: (one.__module__, one.__qualname__))


def is_group(kind: type[EdgefleetError], raised: frozenset[str]) -> bool:
    """Return whether a class only groups others: it is never raised itself, and has subclasses with codes of their own."""
    return kind.__name__ not in raised and bool(kind.__subclasses__())


@dataclass(frozen=True)
class Source:
    """What one module gives to errors."""

    path: Path
    texts: dict[str, str]
    """Its constants that are texts, by name."""
    calls: tuple[ast.Call, ...]
    """The places that make an error of ours."""


@cache
def sources() -> tuple[Source, ...]:
    """Return what each of our modules gives to errors: all of them are read once."""
    names = {kind.__name__ for kind in kinds()}
    found = []
    for path in python_sources():
        tree = ast.parse((ROOT / path).read_text())
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) in names)
        found.append(Source(path, dict(_named_texts(tree)), tuple(calls)))
    return tuple(found)


@cache
def said() -> tuple[dict[str, list[str]], frozenset[str]]:
    """Return the next steps that our sources give, by class name, and the names of all errors that are made somewhere."""
    everywhere = {name: text for source in sources() for name, text in source.texts.items()}
    steps: dict[str, list[str]] = defaultdict(list)
    made: set[str] = set()
    for source in sources():
        constants = ChainMap(source.texts, everywhere)  # a module's own name before the same one of another
        for call in source.calls:
            name = _name(call.func)
            made.add(name)
            for keyword in call.keywords:
                text = _text(keyword.value, constants) if keyword.arg == "next_step" else ""
                if text and text not in steps[name]:
                    steps[name].append(text)
    return steps, frozenset(made)


def sentences() -> Iterator[tuple[str, str]]:
    """Yield place and text of every message, cause and next step that our sources give to an error, as far as they are written there."""
    for source in sources():
        for call in source.calls:
            given = [one.value for one in call.keywords if one.arg in ("why", "next_step")]
            for value in (*call.args[:1], *given):
                for one in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                    starts = one.values[0] if isinstance(one, ast.JoinedStr) and one.values else one
                    text = _text(one, source.texts)
                    if text:  # what is filled in at the beginning is a name, in whatever letters
                        yield f"{source.path}:{call.lineno}", text if isinstance(starts, ast.Constant) else f"x{text}"


def rows() -> dict[str, dict[str, Row]]:
    """Return the rows by package, in order of code."""
    steps, made = said()
    found: dict[str, dict[str, Row]] = {name: {} for name in PACKAGES}
    for kind in kinds():
        if kind is EdgefleetError or is_group(kind, made):
            continue
        row = found[kind.__module__.partition(".")[0]].setdefault(kind.code, Row(kind.code))
        cause = cause_of(kind)
        if cause and cause not in row.causes:
            row.causes.append(cause)
        for step in [*steps.get(kind.__name__, []), kind.default_next_step]:
            if step and step not in row.steps:
                row.steps.append(step)
    for code, (_, cause, step) in FRAMEWORK_CODES.items():
        found["edgefleet_server"][code] = Row(code, [cause], [step])
    for some in found.values():
        for row in some.values():
            row.steps = row.steps or ([STEPS[row.code]] if row.code in STEPS else [])
    return {name: dict(sorted(some.items())) for name, some in found.items()}


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for package, some in rows().items():
        if some:
            parts.append(f"\n## {PACKAGES[package]}\n\n| code | HTTP | cause | next |\n| --- | --- | --- | --- |\n")
            parts += [_line(package, row) for row in some.values()]
    return "".join(parts)


def _line(package: str, row: Row) -> str:
    status = FRAMEWORK_CODES[row.code][0] if row.code in FRAMEWORK_CODES else status_of(row.code)
    has_status = package in ("edgefleet_server", "edgefleet_protocol", "edgefleet_profiles") and status is not None
    cells = (
        f"`{row.code}`",
        str(status) if has_status else "",
        " ".join(row.causes),
        "; or: ".join(row.steps[:MOST_STEPS]),
    )
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _text(node: Any, constants: Mapping[str, str]) -> str:
    """Return a text as a page shows it, "" when it is made at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_piece(one) for one in node.values)
    return constants.get(node.id, "") if isinstance(node, ast.Name) else ""


def _piece(node: Any) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    words = re.findall(r"[a-z][a-z0-9_]*", ast.unparse(node.value))
    return words[-1].upper() if words else "…"


def _named_texts(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        target, value = None, None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield target.id, value.value


def main() -> None:
    """Write the page to the path that is given."""
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
