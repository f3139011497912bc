"""`python -m tests.frozen.make REV`: freezes the version of a commit. See README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from tests.frozen import archive, drawn, fleet
from tests.house.tree import ROOT
from tests.release import artefacts
from tests.release.checks import git


def build_wheels(revision: str, scratch: Path) -> Path:
    """Build both wheels of a commit and return their folder. Raises RefusalError for a commit that is not in this clone."""
    tree = artefacts.export(ROOT, revision, scratch / "tree")
    wheels = scratch / "wheels"
    wheels.mkdir()
    artefacts.build_python(tree, wheels, artefacts.epoch_of(ROOT, revision), ("wheel",))
    return wheels


def install(scratch: Path, wheels: Path) -> Path:
    """Install both wheels in a new environment, with the exact versions of their commit and drawn keys; return it."""
    environment = scratch / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    extras = {"edgefleet_agent": "[onnx]", "edgefleet": "[server,embedded,convert]"}
    wanted = [f"{path}{extras[path.name.partition('-')[0]]}" for path in sorted(wheels.iterdir())]
    pip = (str(environment / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    subprocess.run(
        [*pip, "--find-links", str(wheels), "-c", str(scratch / "tree/constraints.txt"), *wanted], check=True
    )
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "edgefleet_drawn.py").write_bytes(Path(drawn.__file__).read_bytes())
    (packages / "edgefleet_drawn.pth").write_text("import edgefleet_drawn\n")
    return environment


def freeze(revision: str) -> str:
    """Freeze the version of a commit and return its number. An earlier freeze of the version is replaced."""
    commit = git(ROOT, "rev-parse", "--verify", f"{revision}^{{commit}}")  # once: a branch may move meanwhile
    with tempfile.TemporaryDirectory(prefix="ef-freeze-") as name:
        scratch = Path(name)
        wheels = build_wheels(commit, scratch)
        version = str(tomllib.loads((scratch / "tree/pyproject.toml").read_text())["project"]["version"])
        home = scratch / "home"
        home.mkdir()
        facts = fleet.make(install(scratch, wheels), home)
        target = archive.FOLDER / version
        target.mkdir(exist_ok=True)
        for part in archive.PARTS:
            archive.pack(home / "kept" / part, target / f"{part}.tar.xz", facts["draws"])
        packed = {name: digest for name, digest in artefacts.digests(target).items() if name.endswith(".tar.xz")}
        about = {
            "version": version,
            "commit": commit,
            "recipe": "python -m tests.frozen.make COMMIT",
            "python": ".".join(map(str, sys.version_info[:2])),
            "hatchling": metadata.version("hatchling"),
            "wheels": artefacts.digests(wheels),
            "archives": packed,
            "folders": {part: archive.folder_digest(home / "kept" / part) for part in archive.PARTS},
            **facts,
        }
        (target / "frozen.json").write_text(json.dumps(about, indent=2) + "\n")
    return version


def main(arguments: list[str] | None = None) -> int:
    """Freeze what the command line names and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.frozen.make", description="Freeze the version of a commit.")
    parser.add_argument("revision", help="a commit of this clone")
    version = freeze(parser.parse_args(arguments).revision)
    with tempfile.TemporaryDirectory() as folder:
        archive.unpack(version, Path(folder))
    sys.stdout.write(f"frozen: {(archive.FOLDER / version).relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
