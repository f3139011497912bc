"""The soak `converter-fuzz`: uploads that are broken at random or made to do harm, through the whole conversion.

Each runs as on a server: `edgefleet_converters.job` behind the launcher, with its job folder and nothing else. It must end within
`LIMIT_S` in a refusal with a code of ours, or in a bundle; the process that started it lives, and nothing beside the job changes.
Where other work keeps the machine busy, the wall time is divided by the load of a core: what counts is the time on a machine of
its own. Both are reported.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

import edgefleet_profiles
from edgefleet_profiles.profile import profile_to_dict
from tests.converters.graphs import classifier, samples, save
from tests.converters.hostile import CRAFTED, OUTSIDE, Maker, Upload, skops_file
from tests.converters.tflite_graphs import classifier as tflite_classifier

LIMIT_S = 10.0
PATIENCE_S = 240.0
AT_ONCE = 2


def broken(data: bytes, draw: random.Random) -> bytes:
    """Return `data` with a few random changes: flipped, lost, doubled or foreign bytes, extreme numbers, a cut end."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        if not changed:
            break
        at, size = draw.randrange(len(changed)), draw.choice([1, 2, 4, 8, 32])
        way = draw.randrange(6)
        if way == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            changed[at : at + size] = draw.randbytes(size)
        elif way == 2:
            del changed[at : at + size]
        elif way == 3:
            changed[at:at] = changed[at : at + size * 4]
        elif way == 4:
            changed[at : at + 4] = draw.choice(
                [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x00\x00\x00\x80"]
            )
        elif len(changed) > 64 and draw.random() < 0.3:
            del changed[draw.randrange(16, len(changed)) :]
    return bytes(changed) or b"\0"


def _broken_onnx(folder: Path, draw: random.Random) -> Upload:
    model = classifier(seed=draw.randrange(9), opset=draw.choice([7, 13, 17, 21]))
    (folder / "model.onnx").write_bytes(broken(model.SerializeToString(), draw))
    return Upload(folder / "model.onnx")


def _broken_graph(folder: Path, draw: random.Random) -> Upload:
    """Change one field of a node, an attribute or a dimension: the file parses, and the graph is wrong."""
    model = classifier(seed=draw.randrange(9))
    node = draw.choice(list(model.graph.node))
    value = draw.choice([*model.graph.input, *model.graph.output])
    tensor = draw.choice(list(model.graph.initializer))
    changes: list[Callable[[], object]] = [
        node.input.pop, lambda: node.input.append("w1"), lambda: node.output.append("scores"),
        lambda: setattr(node, "op_type", draw.choice(["Conv", "Loop", "Gather", "LSTM", "Resize", "If"])),
        lambda: node.attribute.append(helper.make_attribute(draw.choice(["transB", "alpha", "axis"]), draw.choice([-1, 2**40]))),
        lambda: setattr(value.type.tensor_type, "elem_type", draw.randrange(30)),
        lambda: setattr(value.type.tensor_type.shape.dim[0], "dim_value", draw.choice([0, -1, 7, 2**33])),
        lambda: setattr(tensor, "data_type", draw.randrange(30)), lambda: setattr(tensor, "name", draw.choice(["x", "", "h"])),
        lambda: setattr(tensor, "raw_data", np.full(tensor.dims, draw.choice([np.nan, np.inf, 1e38]), np.float32).tobytes()),
    ]  # fmt: skip
    draw.choice(changes)()
    return Upload(save(model, folder))


def _broken_tflite(folder: Path, draw: random.Random) -> Upload:
    (folder / "model.tflite").write_bytes(broken(tflite_classifier(), draw))
    return Upload(folder / "model.tflite", profile="generic-x86_64-litert")


def _broken_skops(folder: Path, draw: random.Random) -> Upload:
    path = skops_file(folder / "model.skops")
    path.write_bytes(broken(path.read_bytes(), draw))
    return Upload(path)


def _broken_data(folder: Path, draw: random.Random) -> Upload:
    path = Path(samples(folder, x=np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)))
    path.write_bytes(broken(path.read_bytes(), draw))
    return Upload(save(classifier(), folder), {draw.choice(["calibration", "eval"]): str(path)})


def _broken_mlmodel(folder: Path, draw: random.Random) -> Upload:
    save(classifier(), folder, "m.onnx")
    text = b"artifact_path: model\nflavors:\n  onnx:\n    data: m.onnx\n    onnx_version: 1.20.0\n  python_function:\n    x: y\n"
    (folder / "MLmodel").write_bytes(broken(text, draw))
    return Upload(folder)


MUTATED: dict[str, Maker] = {
    "broken-onnx": _broken_onnx, "broken-graph": _broken_graph, "broken-tflite": _broken_tflite,
    "broken-skops": _broken_skops, "broken-data": _broken_data, "broken-mlmodel": _broken_mlmodel,
}  # fmt: skip


def choose(index: int, seed: int, draw: random.Random) -> tuple[str, Maker]:
    """Return the maker of case `index`: every third is a crafted one, in turn from one that the seed chooses; the others are broken at
    random.
    """
    if index % 3 == 0:
        names = sorted(CRAFTED)
        name = names[(index // 3 + seed) % len(names)]
        return name, CRAFTED[name]
    name = draw.choice(sorted(MUTATED))
    return name, MUTATED[name]


def run_case(index: int, seed: int, root: Path) -> dict[str, Any]:
    """Make case `index`, convert it and return `{case, outcome, seconds, wall_s, changed}`. Writes only below `root`."""
    draw = random.Random(f"{seed}:{index}")
    name, make = choose(index, seed, draw)
    folder = root / f"{index:04d}"
    for part in ("upload", OUTSIDE, "out", "tmp", "cwd"):
        (folder / part).mkdir(parents=True)
    (folder / OUTSIDE / "secret").write_bytes(bytes(4096))
    save(classifier(), folder / OUTSIDE)
    upload = make(folder / "upload", draw)
    before = tree(folder)
    started = time.monotonic()
    outcome = convert(upload, folder)
    seconds = time.monotonic() - started
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    after = tree(folder)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    shutil.rmtree(folder)
    return {
        "case": f"{index}:{name}",
        "outcome": outcome,
        "seconds": round(seconds / busy, 2),
        "wall_s": round(seconds, 2),
        "changed": changed,
    }


def convert(upload: Upload, folder: Path) -> str:
    """Run the conversion behind the launcher and return `converted`, the code of the refusal, or what went wrong."""
    request = {
        "v": 1, "model": "fuzz", "version": "1", "source": {"path": str(upload.source)}, "data": upload.data,
        "profiles": [profile_to_dict(edgefleet_profiles.load(upload.profile))], "out_dir": str(folder / "out"),
        "options": {"precision": "fp32"} | upload.options, "tools_dir": str(folder / "tools"),
    }  # fmt: skip
    plan = {
        "limits": {"memory_bytes": 8 * 1024**3}, "read": [str(folder / "upload"), str(folder / "cwd")],
        "write": [str(folder / "out"), str(folder / "tmp")],
    }  # fmt: skip
    launch = [sys.executable, "-P", "-m", "edgefleet_server.conversion.sandbox_entry", json.dumps(plan)]
    environment = {"PATH": os.defpath, "HOME": str(folder / "tmp"), "TMPDIR": str(folder / "tmp")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            [*launch, sys.executable, "-P", "-m", "edgefleet_converters.job"],
            input=json.dumps(request).encode(), capture_output=True, cwd=folder / "cwd", env=environment,
            timeout=PATIENCE_S, check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hang"
    try:
        last = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return f"death: exit code {done.returncode}: {done.stderr[-300:].decode(errors='replace')}"
    if last["type"] == "error":
        return str(last["code"]) if last["code"] != "convert.internal" else f"internal: {last['message']}"
    return str(last["refused"][0]["code"]) if last["refused"] else "converted"


def tree(folder: Path) -> dict[str, str]:
    """Return what lies below a job's folder but may not change: path -> kind, size and digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] in ("out", "tmp"):
            continue
        facts = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[name] = f"{facts.st_mode:o} {facts.st_size} {hashlib.sha256(data).hexdigest()}"
    return found


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run `n` cases, two at once. ok: no death, hang or bug, nothing changed outside, every refusal in time."""
    with tempfile.TemporaryDirectory(prefix="ef-fuzz-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        root = Path(folder)
        results = list(pool.map(lambda index: run_case(index, seed, root), range(n)))
        stray = sorted(path.name for path in root.iterdir())
    outcomes = Counter(result["outcome"].partition(":")[0] for result in results)
    bad = [r for r in results if not (r["outcome"] == "converted" or r["outcome"].startswith("convert."))]
    refused = [r for r in results if r["outcome"] != "converted"]
    slow = [r for r in refused if r["seconds"] > LIMIT_S]
    outside = [r for r in results if r["changed"]]
    return {
        "ok": not (bad or slow or outside or stray),
        "deaths": len(bad), "writes_outside": len(outside) + len(stray), "slower_than_10_s": len(slow),
        "converted": outcomes.get("converted", 0), "refused": len(refused),
        "slowest_refusal_s": max((r["seconds"] for r in refused), default=0.0),
        "slowest_refusal_wall_s": max((r["wall_s"] for r in refused), default=0.0),
        "outcomes": dict(sorted(outcomes.items())), "failures": (bad + slow + outside)[:20],
    }  # fmt: skip
