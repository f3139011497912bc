"""`./dev packages`: server as .deb and .rpm, agent as .rpm, each with its SBOM, the same bytes each time. ADR 0162.

- The server's Python packages lie in /usr/lib/edgefleet-server, in the versions of constraints.txt: no distribution has all of them. They
  are compiled for one version of Python, so Debian's package is for Python 3.13 and the .rpm for 3.12, which Enterprise Linux 9 and 10 and
  Fedora have.
- The files of the agent are those of its Debian package (`deploy/debian/build`).
- Nothing of another processor is run: --arch arm64 needs no emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.release import artefacts, signature
from tests.release.checks import git, versions
from tests.release.image_papers import sbom_of_site, sign, statement_of
from tests.release.refusal import RefusalError

BUILDER = Path("/usr/bin/python3.13")
"""Reads the markers of requirements; what those of another version ask for is checked after it."""
PYTHONS = {"deb": "3.13", "rpm": "3.12"}
REQUIREMENT = "edgefleet[server,alerts,otel,hsm,vault,pdf]"
"""As in the image of the server."""
SERVER_UNITS = ("edge-server.service", "edge-signer.service", "edge-backup.service", "edge-backup.timer")
AGENT_UNITS = ("edge-agent.service", "edge-agent.socket")
LAUNCHER = """#!/bin/sh
# the server's children are started by the same Python with this environment
PYTHONPATH=/usr/lib/edgefleet-server PYTHONSAFEPATH=1 exec /usr/bin/python{} -m edgefleet_cli.main "$@"
"""
HERE = Path("deploy/packages")
CHANGELOG = """- semver: {}-1
  date: {}
  packager: edgefleet <packages@edgefleet.invalid>
  deb: {{urgency: medium, distributions: [stable]}}
  changes: [{{note: "https://github.com/edgefleet/edgefleet/blob/main/CHANGELOG.md says what changed"}}]
"""
"""For nfpm, which makes what dpkg and rpm each want of it."""
CONDITION = """# `edgectl server init` has not been run yet: there is nothing to start
ConditionPathExists=/var/lib/edgefleet-server/server.toml
"""


@dataclass(frozen=True)
class Package:
    """What was built. size: of the file, bytes; installed_kib: unpacked."""

    file: str
    sha256: str
    size: int
    installed_kib: int


def build_server(root: Path, wheels: Path, out: Path, *, kind: str, arch: str, python: str = "") -> Path:
    """Build the server's package and return its file. kind: deb or rpm; arch: amd64 or arm64; python: by default that of the kind.

    wheels: folder with both wheels of the tree. Raises RefusalError.
    """
    python = python or PYTHONS[kind]
    epoch = artefacts.epoch_of(root, "HEAD")
    with tempfile.TemporaryDirectory(prefix="edgefleet-package-") as name:
        stage = Path(name)
        site = stage / "tree/usr/lib/edgefleet-server"
        _unpack(root, wheels, site, arch, python)
        check_needs(site, python)
        lay_out(root, stage, python)
        minor = int(python.partition(".")[2])
        given = {"PYTHON": python, "NEXT_PYTHON": f"3.{minor + 1}"}
        file = pack(root, stage, out, "edgefleet-server", kind, {**given, "ARCH": arch}, epoch)
        _bill(root, file, site, "edgefleet-server", epoch)
    return file


def lay_out(root: Path, stage: Path, python: str) -> None:
    """Write all of the server's package but its Python packages: program, units, users, settings, and the scripts of dpkg and rpm."""
    _write(stage / "tree/usr/bin/edgectl", LAUNCHER.format(python), 0o755)
    for unit in SERVER_UNITS:
        text = (root / "deploy" / unit).read_text().replace("/opt/edgefleet/bin/edgectl", "/usr/bin/edgectl")
        if unit == "edge-server.service":
            text = text.replace(
                "[Service]\n", f"{CONDITION}\n[Service]\nEnvironmentFile=-/etc/edgefleet/server.env\n", 1
            )
        _write(stage / "tree/usr/lib/systemd/system" / unit, text)
    users = "".join(
        f'u {user} - "{about}" /var/lib/{user}\n'
        for user, about in (("edgefleet-server", "edgefleet server"), ("edgefleet-signer", "edgefleet signing process"))
    )
    _write(stage / "tree/usr/lib/sysusers.d/edgefleet-server.conf", users)
    shutil.copy(root / HERE / "server.env", stage)
    documents = stage / "tree/usr/share/doc/edgefleet-server"
    documents.mkdir(parents=True)
    shutil.copy(root / "LICENSE", documents / "copyright")
    of_server = ("/var/lib/edgefleet-server", "/var/backups/edgefleet")
    made = "\n".join(
        [
            *(f"hand_over edgefleet edgefleet-server {folder}" for folder in of_server),
            *(f"own edgefleet-server {folder}" for folder in of_server),
            "own edgefleet-signer /var/lib/edgefleet-signer",
        ]
    )
    write_scripts(root, stage, "edgefleet-server", made, SERVER_UNITS, f"/usr/bin/python{python}")


def build_agent(root: Path, out: Path) -> Path:
    """Build the agent's .rpm of the files of its .deb, and return it. Raises RefusalError."""
    epoch = artefacts.epoch_of(root, "HEAD")
    with tempfile.TemporaryDirectory(prefix="edgefleet-package-") as name:
        stage = Path(name)
        artefacts.build_debian(root, stage, epoch)
        (deb,) = stage.glob("edgefleet-agent_*.deb")
        subprocess.run(["dpkg-deb", "-x", deb, stage / "tree"], check=True)
        units = ("edge-agent.socket", "edge-agent.service")
        write_scripts(
            root, stage, "edgefleet-agent", "own edgefleet /var/lib/edgefleet-agent", units, "/usr/bin/python3"
        )
        file = pack(root, stage, out, "edgefleet-agent", "rpm", {"ARCH": "all"}, epoch)
        _bill(root, file, stage / "tree/usr/lib/edgefleet-agent", "edgefleet-agent", epoch)
    return file


def check_needs(site: Path, python: str) -> None:
    """Raise RefusalError when something in a folder needs, on that version of Python, what is not there."""
    here = {canonicalize_name(one.metadata["Name"]): one for one in metadata.distributions(path=[str(site)])}
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    environment |= {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }
    missing = {
        f"{canonicalize_name(wanted.name)} (of {name})"
        for name, one in here.items()
        for wanted in map(Requirement, one.requires or ())
        if (wanted.marker is None or wanted.marker.evaluate(environment)) and canonicalize_name(wanted.name) not in here
    }
    if missing:
        raise RefusalError(
            f"the package would lack what Python {python} needs", ", ".join(sorted(missing)), "name it in REQUIREMENT"
        )


def _unpack(root: Path, wheels: Path, site: Path, arch: str, python: str) -> None:
    if not BUILDER.is_file():
        raise RefusalError("the server's packages cannot be built", f"{BUILDER} is not here", "run this on Debian 13")
    command: list[str | Path] = [BUILDER, root / "deploy/docker/root_filesystem.py", "packages", site, "--arch", arch]
    command += ["--wheels", wheels.resolve(), "-c", root / "constraints.txt", "--bare", "--python", python, REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise RefusalError("the server's Python packages cannot be had", last, "see the lines above; check the network")
    for record in site.glob("*.dist-info/RECORD"):
        record.unlink()  # the list of files is dpkg's and rpm's; the order of pip's is not always the same
    for where in (*site.glob("*.dist-info/REQUESTED"), *site.rglob("*.pyi")):
        where.unlink()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def write_scripts(root: Path, stage: Path, name: str, folders: str, units: Sequence[str], python: str) -> None:
    """Write the scripts of a package. folders: lines that make them; units: those that an upgrade restarts and a removal stops."""
    wants = {"service": "multi-user", "timer": "timers", "socket": "sockets"}
    links = " ".join(f"{wants[unit.rpartition('.')[2]]}.target.wants/{unit}" for unit in units)
    services = [unit for unit in units if unit != "edge-backup.service" and not unit.endswith(".socket")]
    words = {
        "NAME": name,
        "FOLDERS": folders,
        "PYTHON": python,
        "LINKS": links,
        "STOPPED": " ".join(units),
        "UNITS": " ".join(services),
    }
    for script in ("postinstall.sh", "preremove.sh", "postremove.sh"):
        text = (root / HERE / script).read_text()
        for key, value in words.items():
            text = text.replace(f"@{key}@", value)
        _write(stage / script, text, 0o755)


def pack(root: Path, stage: Path, out: Path, name: str, kind: str, given: dict[str, str], epoch: int) -> Path:
    """Pack a laid out folder with nfpm and return the file. given: what the description takes; epoch: the time of all files.

    Raises RefusalError.
    """
    program = shutil.which("nfpm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        raise RefusalError(
            "no package can be built", "nfpm is not here", "./dev run true brings the environment up to date"
        )
    for folder, _, files in os.walk(stage):
        for one in (folder, *(f"{folder}/{file}" for file in files)):
            path = Path(one)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" or path.parent.name == "bin" else 0o644)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    version = versions(root)["pyproject.toml"]
    (stage / "changelog.yaml").write_text(CHANGELOG.format(version, datetime.fromtimestamp(epoch, UTC).isoformat()))
    environment = {**os.environ, **given, "VERSION": version, "SOURCE_DATE_EPOCH": str(epoch)}
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.iterdir())
    command = [program, "package", "-f", str(root / HERE / f"{name}.yaml"), "-p", kind, "-t", f"{out.resolve()}/"]
    done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusalError(
            f"{name} could not be packed",
            (done.stderr or done.stdout).strip().splitlines()[-1],
            "see nfpm.goreleaser.com",
        )
    arch = {"amd64": "x86_64", "arm64": "aarch64", "all": "noarch"}[given["ARCH"]] if kind == "rpm" else given["ARCH"]
    file = next((one for one in out.iterdir() if one not in before), None)
    return file or next(out.glob(f"{name}[-_]*{arch}.{kind}"))


def _bill(root: Path, file: Path, site: Path, name: str, epoch: int) -> None:
    digest = f"sha256:{artefacts.digest(file)}"
    text = sbom_of_site(site, name, versions(root)["pyproject.toml"], digest, epoch)
    file.with_name(f"{file.name}.cdx.json").write_text(text)


def make(root: Path, out: Path, arch: str, wheels: Path, key: Path | None = None) -> list[Package]:
    """Build all packages of a processor. key: signs the provenance of each. Raises RefusalError."""
    files = [build_server(root, wheels, out, kind=kind, arch=arch) for kind in PYTHONS]
    if arch == "amd64":  # it is for every processor
        files.append(build_agent(root, out))
    if key is not None:
        revision = git(root, "rev-parse", "HEAD")
        for file in files:
            file.with_name(f"{file.name}.intoto.jsonl").write_text(sign(provenance_of(root, file, revision), key))
    return [Package(str(file), artefacts.digest(file), file.stat().st_size, _installed_kib(file)) for file in files]


def recipe_of(root: Path, file: Path) -> str:
    """Return the description that a package was packed from, as a path in the repository. Raises ValueError for the file of none."""
    for recipe in sorted((root / HERE).glob("*.yaml")):
        if file.name.startswith((f"{recipe.stem}_", f"{recipe.stem}-")):  # .deb, .rpm
            return str(recipe.relative_to(root))
    raise ValueError(f"{file.name} is the package of no description in {HERE}")


def provenance_of(root: Path, file: Path, revision: str) -> dict[str, Any]:
    """Return the statement of what a package was built from. revision: the commit."""
    digest = f"sha256:{artefacts.digest(file)}"
    return statement_of(
        file.name,
        digest,
        revision,
        recipe_of(root, file),
        builder="tests/release/packages.py",
        decision="docs/adr/0162-system-packages.md",
    )


def _installed_kib(file: Path) -> int:
    if file.suffix == ".deb":
        listed = subprocess.run(["dpkg-deb", "-f", file, "Installed-Size"], check=True, capture_output=True, text=True)
        return int(listed.stdout)
    if shutil.which("rpm") is None:
        return 0
    listed = subprocess.run(["rpm", "-qp", "--qf", "%{SIZE}", file], check=True, capture_output=True, text=True)
    return int(listed.stdout) // 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and print a table or one JSON object. Return the exit code."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(
        prog="./dev packages", description="Build the system packages of server and agent."
    )
    parser.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    parser.add_argument("--out", default=str(root / "dist" / "packages"), help="folder (default: dist/packages)")
    parser.add_argument(
        "--wheels", help="folder with both wheels; by default they are built, without the documentation"
    )
    parser.add_argument(
        "--key", default=os.environ.get("EDGEFLEET_RELEASE_KEY", ""), help="SSH key file that signs the provenance"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    args = parser.parse_args(arguments)
    out = Path(args.out).resolve()
    try:
        with tempfile.TemporaryDirectory() as name:
            wheels = Path(args.wheels).resolve() if args.wheels else Path(name)
            if not args.wheels:
                artefacts.build_python(root, wheels, artefacts.epoch_of(root, "HEAD"), ("wheel",))
            made = make(root, out, args.arch, wheels, signature.checked_key(root, args.key) if args.key else None)
    except RefusalError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    if args.output == "json":
        sys.stdout.write(json.dumps({"packages": [asdict(one) for one in made]}, indent=2) + "\n")
        return 0
    for one in made:
        sys.stdout.write(
            f"{Path(one.file).name:44} {one.size / 1e6:6.1f} MB {one.installed_kib / 1024:7.0f} MiB installed\n"
        )
    sys.stdout.write(f"packages and SBOMs: {out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
