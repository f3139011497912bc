"""A conversion child for tests of the machinery: does what the first bytes of the source say. Real process, real protocol."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from edgefleet_protocol.bundle import write_bundle
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ModelName, ProfileName, Version, target_path
from edgefleet_protocol.manifest import Manifest, Recipe, RuntimeProof, TensorSpec, Tolerance

ME = os.urandom(8).hex()
"""Tells children apart: in a process namespace of its own each has the same process id."""


def say(**line: object) -> None:
    """Write one line of the protocol."""
    print(json.dumps(line), flush=True)


def write_report(request: dict[str, Any], row: dict[str, Any] | None, name: str | None = None) -> None:
    """Write the report of the whole conversion, as the converters do."""
    own = "other" if name == "liar" else request["profiles"][0]["name"]
    profile: dict[str, Any] = {"profile": own, "bundle": row, "candidates": []}
    document = {"v": 1, "model": request["model"], "version": request["version"], "source": {"sha256": "0" * 64}}
    data: dict[str, Any] = {"judged_on": "<b>data"}
    if name in {"nan", "surrogate"}:
        data["judged_on"] = float("nan") if name == "nan" else "\ud800"
    if name == "alias":
        document |= {"model": "other", "version": "9", "kept_from": "other@9"}
    text = json.dumps({**document, "data": data, "profiles": [profile], "key": "k"})
    odd = {
        "deep": "[" * 50_000 + "]" * 50_000,
        "nested": "[" * 100 + "]" * 100,
        "huge": '"' + "x" * (9 << 20) + '"',
        "infinite": "1e999",
    }
    if name in odd:
        text = text.replace('"<b>data"', odd[name])
    elif name == "list":
        text = text.replace('{"judged_on": "<b>data"}', "[1]")
    (Path(request["out_dir"]) / "report.json").write_text(text)


def bundle(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Write a bundle and return its report."""
    source = Path(request["source"]["path"])
    model = source.read_bytes()
    profile = request["profiles"][0]
    tensor = TensorSpec(name="x", dtype="float32", shape=[1])
    facts: dict[str, Any] = {
        "model": request["model"],
        "version": request["version"],
        "profile": profile["name"],
        "runtime": profile["runtime"]["name"],
        **changes,
    }
    manifest = Manifest(
        **facts,
        model_member="model.onnx",
        precision="fp32",
        format="onnx",
        inputs=[tensor],
        outputs=[tensor],
        runtimes=[RuntimeProof(name="ort", version="1")],
        tolerances={"x": Tolerance()},
        source_sha256=sha256_hex(model),
        recipe=Recipe(sha256="0" * 64, steps={}),
        operators={},
        licence=f"made by {ME}",
    )
    data = write_bundle({"model.onnx": model}, manifest)
    path = Path(request["out_dir"]) / f"{profile['name']}.bundle"
    path.write_bytes(data)
    return {
        "type": "bundle",
        "model": request["model"],
        "version": request["version"],
        "profile": profile["name"],
        "runtime": profile["runtime"]["name"],
        "precision": "fp32",
        "bytes": len(model),
        "fp32_bytes": len(model),
        "ratio": 1.0,
        "bundle_bytes": len(data),
        "sha256": sha256_hex(data),
        "target": target_path(ModelName(request["model"]), Version(request["version"]), ProfileName(profile["name"])),
        "path": str(path),
    }


def with_report(request: dict[str, Any], word: str, more: list[str]) -> None:
    """Answer as the converters do, with a report of the whole conversion beside the bundle."""
    if word == "known-refuse":
        write_report(request, None)
        name, reason = request["profiles"][0]["name"], f"by {ME}"
        say(type="refused", profile=name, code=more[1], reason=reason, next="retrain")
        return
    row = bundle(request)
    metric = {"name": "top1", "value": 1.0, "baseline": 1.0, "drop": 0.0, "n": 3, "data": "evaluation data"}
    facts: dict[str, Any] = {
        "metric": metric,
        "candidate": "fp32",
        "parity": {},
        "latency_ms": None,
        "peak_rss_bytes": 1,
        "runtimes": [],
    }
    whole = {name: value for name, value in row.items() if name != "type"}
    write_report(request, {**whole, **facts, "verdict": "passed"}, more[0])
    say(**row)


def main() -> int:  # noqa: PLR0912 - one branch a word
    """Answer one request."""
    request = json.loads(sys.stdin.read())
    word, *more = Path(request["source"]["path"]).read_bytes().decode().split(" ")
    if word == "known-plant":
        name = f"{request['model']}-{request['version']}-{request['profiles'][0]['name']}.bundle"
        (Path(request["out_dir"]) / name).symlink_to(more[1])
    if word.startswith("known"):
        say(type="tools", digest=more[0])
    say(type="progress", profile=request["profiles"][0]["name"], stage="import", message="reading", pct=10)
    if word == "late":
        say(type="tools", digest="a" * 64)
    elif word in {"known", "known-plant", "known-refuse", "report"}:
        with_report(request, word, more)
    elif word == "refuse":
        say(
            type="refused",
            profile=request["profiles"][0]["name"],
            code="convert.gate",
            reason="too bad",
            next="retrain",
        )
    elif word in ("error", "tool"):
        install = f"edgectl tool install torch --tools {request['tools_dir']}"
        reason, next_step = ("not_a_model", "send a model") if word == "error" else ("tool_missing", install)
        say(type="error", code=f"convert.{reason}", message="no", next=next_step)
        return 2
    elif word == "killed":
        os.kill(os.getpid(), 9)
    elif word == "step":
        say(type="error", code="convert.killed", message="a step was killed", next="try again")
        return 2
    elif word == "crash":
        os.abort()
    elif word == "search":
        say(type="progress", stage="gate", message="best so far int8-static; int8-static: passed", pct=60)
        while not (Path(request["out_dir"]) / "end-search").exists():
            time.sleep(0.02)
        say(**bundle(request))
        say(type="result")
    elif word == "hang":
        (Path(request["out_dir"]) / "running").touch()
        time.sleep(600)
    elif word == "fill":
        with (Path(request["out_dir"]) / "big").open("wb") as file:
            for _ in range(10_000):
                file.write(b"x" * 100_000)
                file.flush()
                time.sleep(0.001)
    elif word == "memory":
        bytearray(1 << 40)
    elif word == "chatter":
        sys.stdout.write("x" * 5_000_000)
    elif word == "network":
        code = 0
        try:
            with socket.socket(type=socket.SOCK_DGRAM) as link:  # the file rules forbid TCP on their own
                link.connect(("127.0.0.1", int(os.environ.get("PORT", "9"))))
        except OSError as error:
            code = error.errno or 0
        say(type="refused", profile=request["profiles"][0]["name"], code="seen", reason=os.strerror(code), next="")
    elif word == "facts":
        facts = {
            "cwd": [path.name for path in Path().iterdir()],
            "env": sorted(os.environ),
            "out": oct(Path(request["out_dir"]).stat().st_mode),
        }
        say(type="refused", profile=request["profiles"][0]["name"], code="seen", reason=json.dumps(facts), next="")
    elif word == "liar":
        say(**bundle(request, profile="other-profile"))
    elif word == "row":
        say(type="progress", stage="import", message="half \ud800 and \0", pct=10**400)
        say(**(bundle(request) | json.loads(" ".join(more))))
    elif word == "digest":
        say(**(bundle(request) | {"sha256": "0" * 64}))
    elif word == "link":
        report = bundle(request)
        path = Path(report["path"])
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))
        say(**report)
    elif word == "tampered":
        report = bundle(request)
        data = bytearray(Path(report["path"]).read_bytes())
        data[len(data) // 2] ^= 1
        Path(report["path"]).write_bytes(data)
        say(**(report | {"sha256": sha256_hex(data)}))
    elif word != "silent":
        say(**bundle(request))
    say(type="result", bundles=[], refused=[], report_path="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
