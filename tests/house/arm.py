"""`./dev test --arm [--short] [PYTEST ARGS]`: the agent's tests with the device side on emulated aarch64 (qemu-user).

Two runs at once:
- *inside*: pytest itself is emulated, for what is computed in one process: runtimes, pre- and post-processing, protocol, records;
- *outside*: pytest runs here, with the real server side, broker and clients, and every process of the device (agentd, install
  children, workers, commands) is emulated, by `tests/support/device_python.py`; three tests at a time, for they wait a lot.
`--short` is what CI runs: a few tests of each kind, chosen so that install, swap, both runtimes and the HTTP surface are all in.

The root file system (Debian's Python, wheels for aarch64) is made once, into EDGEFLEET_ARM_CACHE or ~/.cache/edgefleet, and
named by what is in it. It needs root for mmdebstrap, a network, and no binfmt: `bin/python` in it is a script that names itself
with qemu's `-0`, so that `sys.executable` is the script and children come out emulated as well. Never gate speed or memory on it:
an emulator is 20 to 30 times slower, and its translator's memory is counted too.

The emulated processor is that of a Raspberry Pi 4. Code for it takes a quarter less time to emulate than for qemu's `max`, which signs
the return address of each call, and a wheel that needs a newer processor is found.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.device_python import PATIENCE_VARIABLE, PYTHON_VARIABLE

ROOT = Path(__file__).parents[2]
ARCH, TRIPLET, SUITE, PYTHON = "arm64", "aarch64-linux-gnu", "trixie", "3.13"
QEMU = "qemu-aarch64-static"
PROCESSOR_VARIABLE, PROCESSOR = "QEMU_CPU", "cortex-a72"
DEBIAN = "python3,libstdc++6,libssl3t64,libsqlite3-0,ca-certificates"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
FOR_TESTS = ("pytest", "pytest-timeout", "hypothesis", "onnx", "flatbuffers", "psutil")
RECIPE = "2"
PATIENCE = "20"
TEST_TIMEOUT_S = "1500"

INSIDE = (
    "tests/runtime",
    "tests/protocol",
    "tests/agent/test_machine.py",
    "tests/agent/test_wishes.py",
    "tests/agent/test_trial.py",
    "tests/agent/test_paths.py",
    "tests/agent/test_tasks.py",
    "tests/agent/test_outbox.py",
    "tests/agent/worker/test_wire.py",
)
OUTSIDE = (
    "tests/agent/test_whole_way.py",
    "tests/agent/test_install_child.py",
    "tests/agent/test_going_back.py",
    "tests/agent/test_replacing.py",
    "tests/agent/test_withdrawing.py",
    "tests/agent/worker/test_life.py",
    "tests/agent/worker/test_api.py",
    "tests/agent/worker/test_neighbours.py",
    "tests/journeys/test_care.py",
)
INSIDE_SHORT = ("tests/runtime/test_port.py", "tests/runtime/test_golden.py", "tests/protocol/test_golden.py")
OUTSIDE_SHORT = (
    "tests/agent/test_whole_way.py::test_a_bundle_is_pulled_verified_tried_and_served",
    "tests/agent/test_install_child.py::test_a_killed_fetch_goes_on_where_it_was",
    "tests/agent/worker/test_life.py::test_a_tflite_bundle_is_served[litert]",
    "tests/agent/worker/test_api.py::test_binary_tensors_both_ways_through_the_client",
)
_LIFE = "tests/agent/worker/test_life.py::"
LEFT_OUT = {
    f"{_LIFE}test_a_tflite_bundle_is_served[tflite]": f"tflite-runtime has no build for Python {PYTHON}",
    f"{_LIFE}test_a_native_crash_at_load_ends_only_its_own_process": f"tflite-runtime has no build for Python {PYTHON}",
    f"{_LIFE}test_a_model_beyond_its_memory_limit_fails_alone": "RLIMIT_DATA would limit the emulator's own memory",
}


def say(text: str) -> None:
    """Say something about the run itself."""
    sys.stderr.write(f"arm: {text}\n")


def cache() -> Path:
    """Return where root file systems are kept."""
    given = os.environ.get("EDGEFLEET_ARM_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefleet"


def wanted() -> list[str]:
    """Return what is installed: the agent's own dependencies with both runtimes, as on that Python and processor, in CI's versions."""
    project = tomllib.loads((ROOT / "agent" / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    given = [
        *project["dependencies"],
        *extras["infer"],
        *extras["image"],
        *extras["onnx"],
        *extras["litert"],
        *FOR_TESTS,
    ]
    here = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "platform_machine": "aarch64"}
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(here):
                pins[pin.name.lower()] = str(pin.specifier)
    found = {}
    for text in given:
        need = Requirement(text)
        if need.name != "edgefleet-agent" and (need.marker is None or need.marker.evaluate(here)):
            found[need.name.lower()] = f"{need.name}{pins.get(need.name.lower(), need.specifier)}"
    return sorted(found.values())


def root_file_system() -> Path:
    """Return the root file system, made when it is not there yet. Blocks on network and disk."""
    packages = wanted()
    key = hashlib.sha256("\n".join([RECIPE, SUITE, DEBIAN, PYTHON, *packages]).encode()).hexdigest()[:12]
    made = cache() / f"{ARCH}-{key}"
    if (made / "bin" / "python").exists():
        return made
    started = time.monotonic()
    new = made.with_name(f"{made.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    say(f"making {made}: Debian {SUITE} {ARCH} and {len(packages)} packages")
    root = new / "root"
    flags = ["--mode=root", "--variant=extract", f"--arch={ARCH}", f"--include={DEBIAN}", "--quiet"]
    subprocess.run(["mmdebstrap", *flags, SUITE, str(root), *sources(SUITE)], check=True)
    for name in ("lib", "bin", "sbin"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    _add_packages(packages, new)
    _add_python(new, made)
    new.rename(made)
    say(f"made in {time.monotonic() - started:.0f} s")
    return made


def sources(suite: str) -> list[str]:
    """Return the line of apt's own source for a suite, without updates, which may be half-way on a mirror; [] leaves it to mmdebstrap."""
    wanted = ("--format", "$(REPO_URI)", f"Codename: {suite}", "Component: main", "Created-By: Packages")
    try:
        found = subprocess.run(
            ["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
    return [f"deb {found[0]} {suite} main"] if found else []


def _add_packages(packages: Sequence[str], folder: Path) -> None:
    wheels = folder / "wheels"
    platforms = [flag for name in PLATFORMS for flag in ("--platform", name)]
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        pip = ["python3", "-m", "pip"]  # an environment that uv made has none of its own
    command = [*pip, "download", "-q", "--disable-pip-version-check", "--only-binary=:all:", *platforms]
    subprocess.run([*command, "--python-version", PYTHON, "-d", str(wheels), *packages], check=True)
    site = folder / "site"
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    shutil.rmtree(wheels)
    _compile(site, folder / "root" / "usr" / "lib" / f"python{PYTHON}")


def _compile(*folders: Path) -> None:
    """Compile what is not: the same byte code serves every processor, and here it takes seconds, under emulation minutes."""
    if compiler := shutil.which(f"python{PYTHON}"):
        for folder in folders:
            command = [compiler, "-m", "compileall", "-q", "-j", "2", str(folder)]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def _add_python(folder: Path, final: Path) -> None:
    root = final / "root"
    script = f"""#!/bin/sh
exec {QEMU} -0 {final}/bin/python -L {root} -E PYTHONHOME={root}/usr \\
  -E PYTHONPATH="${{EDGEFLEET_ARM_PATH:-}}:{final}/site" -E LD_LIBRARY_PATH={root}/usr/lib/{TRIPLET} \\
  {root}/usr/bin/python{PYTHON} "$@"
"""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(script, "ascii")
    (folder / "bin" / "python").chmod(0o755)


def main(arguments: list[str] | None = None) -> int:
    """Run both; returns 0 when both passed."""
    parser = argparse.ArgumentParser("./dev test --arm")
    parser.add_argument("--short", action="store_true", help="what CI runs")
    args, more = parser.parse_known_args(arguments)
    missing = [tool for tool in (QEMU, "mmdebstrap") if shutil.which(tool) is None]
    if missing:
        say(f"{' and '.join(missing)} missing; next: apt-get install -y qemu-user-static mmdebstrap (as root)")
        return 3
    try:
        python = root_file_system() / "bin" / "python"
    except (subprocess.CalledProcessError, OSError) as error:
        say(f"the root file system could not be made: {error}; next: run it as root, with a network")
        return 3
    started = time.monotonic()
    _compile(ROOT / "agent")
    paths = os.pathsep.join(map(str, (ROOT / "agent", ROOT)))
    environment = {**os.environ, "EDGEFLEET_ARM_PATH": paths, PATIENCE_VARIABLE: PATIENCE}
    environment[PROCESSOR_VARIABLE] = os.environ.get(PROCESSOR_VARIABLE, PROCESSOR)
    # read by the emulated side: what this side's environment says of Python is not for it
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        environment.pop(name, None)
    if not args.short:
        for node, why in LEFT_OUT.items():
            say(f"left out: {node}: {why}")
    flags = ["-q", "-p", "no:cacheprovider", "--timeout", TEST_TIMEOUT_S, "-m", "not network", *more]
    flags += [f"--deselect={node}" for node in LEFT_OUT]
    chosen = (INSIDE_SHORT, OUTSIDE_SHORT) if args.short else (INSIDE, OUTSIDE)
    runs = {
        # the fixtures of a server side are not inside; of all conftests the topmost is enough there
        "inside": (
            [str(python), "-m", "pytest", "--noconftest", "-p", "tests.conftest", *flags, *chosen[0]],
            environment,
        ),
        "outside": (
            # a device under emulation waits more than it works: two at once keep both cores busy
            [
                sys.executable,
                "-m",
                "pytest",
                *(["-n", "0"] if args.short else ["-n", "3", "--dist", "load"]),
                *flags,
                *chosen[1],
            ],
            {**environment, PYTHON_VARIABLE: str(python)},
        ),
    }
    processes = {name: subprocess.Popen(command, cwd=ROOT, env=env) for name, (command, env) in runs.items()}
    codes = {name: process.wait() for name, process in processes.items()}
    told = [f"{name} {'passed' if code == 0 else f'ended with {code}'}" for name, code in codes.items()]
    say(f"{', '.join(told)} after {time.monotonic() - started:.0f} s")
    return 0 if not any(codes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
