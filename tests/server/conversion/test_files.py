"""The file rules of the conversion child: the kernel refuses foreign files, and a real conversion does not notice them."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgefleet_profiles
from edgefleet_server.clock import SystemClock
from edgefleet_server.conversion.model import SandboxLimits
from edgefleet_server.conversion.sandbox import Child, active_layers, converter_command

pytestmark = pytest.mark.skipif("files" not in active_layers(), reason="this kernel has no Landlock")
DIGITS = Path(__file__).parents[3] / "examples" / "digits"
LIMITS = SandboxLimits(memory_bytes=8 << 30, file_bytes=1 << 30, output_bytes=1 << 30, wall_s=300, cpu_s=600)
TRY = """
import json, os, subprocess, sys
if len(sys.argv) == 1:  # a grandchild tries, so that the rules are seen to be inherited
    tries = json.load(sys.stdin)["tries"]
    done = subprocess.run([sys.executable, __file__, json.dumps(tries)], capture_output=True, check=True)
    print(json.dumps({"type": "seen", "errors": json.loads(done.stdout)}))
    print(json.dumps({"type": "result"}))
else:
    errors = []
    for path, mode in json.loads(sys.argv[1]):
        try:
            os.listdir(path) if mode == "list" else open(path, mode).close()
            errors.append(0)
        except OSError as error:
            errors.append(error.errno)
    print(json.dumps(errors))
"""


def job_folder(base: Path) -> Path:
    """Return a job folder as the engine lays it out."""
    for name in ("source", "data", "cwd", "tmp", "out"):
        (base / name).mkdir(parents=True, mode=0o700)
    return base


def errors_of(tmp_path: Path, tries: list[tuple[Path, str]]) -> list[int]:
    """Run the tries in the child of a child and return their error numbers, 0 for what went well."""
    script = tmp_path / "script" / "try.py"
    script.parent.mkdir()
    script.write_text(TRY)
    seen: list[dict[str, Any]] = []
    request = {"tries": [(str(path), mode) for path, mode in tries]}
    child = Child([sys.executable, "-P", str(script)], tmp_path / "run" / "job", LIMITS, SystemClock())
    child.run(request, lambda line: seen.append(dict(line)), lambda: False)
    errors: list[int] = seen[0]["errors"]
    return errors


def test_keys_home_and_other_jobs_are_closed_and_its_own_folder_is_open(tmp_path: Path) -> None:
    job = job_folder(tmp_path / "run" / "job")
    secrets = [tmp_path / name for name in ("keys/root.pem", "home/.ssh/id", "edgefleet.db", "run/other/source/m")]
    for secret in secrets:
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("secret")
    (job / "source" / "m").write_text("model")
    closed = [
        *((secret, "rb") for secret in secrets),
        (tmp_path / "keys", "list"),
        (Path("/etc/hostname"), "rb"),
        (tmp_path / "keys" / "new", "wb"),
        (tmp_path / "edgefleet.db", "ab"),
        (job / "source" / "m", "ab"),
        (job / "cwd" / "new", "wb"),
        (job / "child.log", "rb"),
    ]
    opened = [
        (job / "source" / "m", "rb"),
        (job / "out" / "new", "wb"),
        (job / "tmp" / "new", "wb"),
        (Path("/dev/null"), "wb"),
    ]
    errors = errors_of(tmp_path, [*closed, *opened])
    # refused by the file rules, or not there at all in a root folder of its own
    assert set(errors[: len(closed)]) <= {errno.EACCES, errno.ENOENT, errno.EROFS}
    assert errors[len(closed) :] == [0] * len(opened)


def outcome(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Return the digest of each bundle and the code of each refusal, by profile."""
    return {
        line["profile"]: line["sha256"] if line["type"] == "bundle" else line["code"]
        for line in lines
        if line["type"] in {"bundle", "refused"}
    }


@pytest.mark.parametrize("third", range(3))
def test_a_real_conversion_gives_the_same_bundles_as_without_the_rules(tmp_path: Path, third: int) -> None:
    names = sorted(edgefleet_profiles.names())[third::3]
    job = job_folder(tmp_path / "job")
    source = job / "source" / "digits-1.0.0.onnx"
    source.write_bytes((DIGITS / source.name).read_bytes())
    data: dict[str, str | None] = dict.fromkeys(
        ("golden", "labels", "reference", "preprocess", "postprocess", "recipe")
    )
    for name in ("calibration", "eval"):
        path = job / "data" / f"{name}.npz"
        path.write_bytes((DIGITS / "data" / path.name).read_bytes())
        data[name] = str(path)
    request: dict[str, Any] = {
        "v": 1,
        "model": "digits",
        "version": "1.0.0",
        "source": {"path": str(source)},
        "profiles": [msgspec.to_builtins(edgefleet_profiles.load(name)) for name in names],
        "data": data,
        "options": {"precision": "auto", "metric": None, "max_drop": 0.01, "seed": 0},
        "out_dir": str(job / "out"),
    }
    command = converter_command(None)
    answer = Child(command, job, LIMITS, SystemClock()).run(request, lambda _line: None, lambda: False)
    ruled = outcome([dict(line) for line in (*answer.bundles.values(), *answer.refused.values())])
    free = tmp_path / "free"
    free.mkdir()
    text = json.dumps({**request, "out_dir": str(free)})
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=free)
    assert {str(line["runtime"]) for line in answer.bundles.values()} >= {"ort"}, ruled
    assert ruled == outcome([json.loads(line) for line in done.stdout.splitlines()])
