"""Puts together the file system of a container image, for any processor and without running a program of that processor. ADR 0146.

    root_filesystem.py wheels OUT [server|agent]...                    wheels of the tree, with the hatchling of constraints.txt
    root_filesystem.py os ROOT --arch amd64|arm64 --data DIR PACKAGE...  files of Debian packages and of what they need
    root_filesystem.py packages ROOT --arch … --wheels DIR [-c constraints.txt] [--program NAME=MODULE:FUNCTION]
        [--bare [--python 3.12]] REQUIREMENT...                       Python packages for Debian's Python, and their programs

The last two compile what they put there, which a read-only root cannot do later. Runs in the first stages of the Dockerfiles next to
it, and on Debian 13 as it is. Needs apt and dpkg-deb for `os`, pip (the module, or Debian's python3-pip-whl) for `packages`. The same
input gives the same bytes.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
PROJECTS = {"server": ".", "agent": "agent"}
PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names of processors, and those of wheels."""
GLIBC = (
    "manylinux_2_39",
    "manylinux_2_34",
    "manylinux_2_31",
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_17",
    "manylinux2014",
)
PYTHON = "3.13"
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
STANDARD_LIBRARY = f"usr/lib/python{PYTHON}"
USER, UID = "edgefleet", 10001
INSTALLERS = frozenset({
    "adduser", "base-passwd", "debconf", "dpkg", "init-system-helpers", "libpam-modules", "libpam-modules-bin", "libpam0g", "login.defs",
    "mawk", "passwd", "sysvinit-utils", "tar",
})  # fmt: skip
"""Needed by scripts that run when a package is installed, which none does here; nothing that runs later asks for them."""
LEFT_OUT = (
    "usr/share/man",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/locale",
    "usr/share/doc-base",
)
WHEELS_OF_DEBIAN = Path("/usr/share/python-wheels")
SECRET_CA = Path("/run/secrets/ca.pem")
"""Certificates of a network that looks into TLS: a secret of the build, never a part of the image."""


def apt(architecture: str, cache: Path, *arguments: str) -> list[str]:
    """Return a command of apt-get for a system that has no package yet."""
    status = cache / "status"
    status.touch()
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State::status": str(status),
        "Dir::State::lists": str(cache / "lists"),
        "Dir::Cache": str(cache),
        "Dir::Cache::archives": str(cache / "archives"),
        "DPkg::Post-Invoke": "",
        "Acquire::Languages": "none",
    }
    return ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items()), *arguments]


def put_os(root: Path, architecture: str, packages: list[str]) -> None:
    """Unpack Debian packages and all that they need, without their scripts; then write what those would have made."""
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        (cache / "lists" / "partial").mkdir(parents=True)
        subprocess.run(apt(architecture, cache, "update"), check=True, env=environment)
        wanted = ["-y", "--download-only", "install", *packages]
        subprocess.run(apt(architecture, cache, *wanted), check=True, env=environment)
        for archive in sorted((cache / "archives").glob("*.deb")):
            unpack(archive, root)
    for folder in LEFT_OUT:
        shutil.rmtree(root / folder, ignore_errors=True)
    for document in (root / "usr/share/doc").glob("*/*"):
        if document.name != "copyright":
            shutil.rmtree(document) if document.is_dir() and not document.is_symlink() else document.unlink()
    finish(root)


def unpack(archive: Path, root: Path) -> None:
    """Unpack one package, and keep its description where scanners look for it: `var/lib/dpkg/status.d`."""
    control = subprocess.run(["dpkg-deb", "-f", archive], check=True, capture_output=True).stdout
    name = next(line for line in control.decode().splitlines() if line.startswith("Package: ")).removeprefix(
        "Package: "
    )
    if name in INSTALLERS:
        return
    root.mkdir(parents=True, exist_ok=True)
    for top in ("bin", "lib", "lib64", "sbin"):  # merged, as every Debian is
        if not (root / top).is_symlink():
            (root / "usr" / top).mkdir(parents=True, exist_ok=True)
            (root / top).symlink_to(f"usr/{top}")
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True).stdout
    subprocess.run(
        ["tar", "-x", "-C", root, "--keep-directory-symlink", "--no-same-owner", "-p"], input=packed, check=True
    )
    described = root / "var/lib/dpkg/status.d" / name
    described.parent.mkdir(parents=True, exist_ok=True)
    described.write_bytes(control)


def finish(root: Path) -> None:
    """Write users, certificates and the folders that must be there."""
    etc = root / "etc"
    etc.mkdir(exist_ok=True)
    # group 0: a cluster may start the image as any user of that group (OpenShift does)
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/root:/sbin/nologin\n{USER}:x:{UID}:0:{USER}:/tmp:/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
    )
    (etc / "group").write_text(f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if authorities:
        bundle = etc / "ssl/certs/ca-certificates.crt"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_text("".join(f"{file.read_text().strip()}\n" for file in authorities))
    if (root / f"usr/bin/python{PYTHON}").exists() and not (root / "usr/bin/python3").exists():
        (root / "usr/bin/python3").symlink_to(f"python{PYTHON}")
    for folder, mode in (
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("run", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("dev", 0o755),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)


def pip() -> list[str]:
    """Return the command that starts pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    (wheel,) = WHEELS_OF_DEBIAN.glob("pip-*.whl")
    return [sys.executable, f"{wheel}/pip"]


def environment_of_pip() -> dict[str, str]:
    """Return the environment that pip runs in."""
    environment = {
        **os.environ,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if SECRET_CA.is_file():
        environment["PIP_CERT"] = str(SECRET_CA)
    return environment


def build_wheels(out: Path, projects: list[str]) -> None:
    """Build the wheels of projects of the tree, by default of both."""
    environment = environment_of_pip()
    with tempfile.TemporaryDirectory() as tools:
        pinned = ["-c", str(TREE / "constraints.txt"), "hatchling"]
        subprocess.run(
            [*pip(), "install", "-q", "--only-binary=:all:", f"--target={tools}", *pinned], check=True, env=environment
        )
        environment["PYTHONPATH"] = tools
        for name in projects or list(PROJECTS):
            command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.absolute())]
            subprocess.run(command, check=True, env=environment, cwd=TREE / PROJECTS[name], stdout=sys.stderr)


def put_packages(site: Path, architecture: str, wheels: Path, requirements: list[str], python: str = PYTHON) -> None:
    """Unpack Python packages into a folder, for that processor and version of Python. Markers are read as on this one."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        sys.exit(
            f"root_filesystem.py: this is Python {sys.version.split()[0]}, and the image gets {PYTHON}: start it with that"
        )
    machine = PLATFORMS[architecture]
    platforms = [f"--platform={name}_{machine}" for name in GLIBC]
    site.mkdir(parents=True, exist_ok=True)
    chosen = ["--only-binary=:all:", "--no-compile", f"--python-version={python}", *platforms, f"--target={site}"]
    command = [*pip(), "install", "-q", *chosen, f"--find-links={wheels}", *requirements]
    subprocess.run(command, check=True, env=environment_of_pip())
    shutil.rmtree(site / "bin", ignore_errors=True)  # they name the Python of the build; see put_programs
    for tests in [*site.glob("numpy/**/tests"), *site.glob("pyarrow/tests")]:
        shutil.rmtree(tests)
    for where in site.glob("*.dist-info/direct_url.json"):
        where.unlink()  # a folder of the build


def put_programs(root: Path, programs: list[str]) -> None:
    """Write programs that call a function of a module, NAME=MODULE:FUNCTION each, and the health check."""
    folder = root / "usr/local/bin"
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        name, _, target = program.partition("=")
        module, _, function = target.partition(":")
        text = f"#!/usr/bin/python3\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        (folder / name).write_text(text)
    shutil.copyfile(Path(__file__).with_name("probe.py"), folder / "edgefleet-probe")
    for file in folder.iterdir():
        file.chmod(0o755)


def compile_all(root: Path, folder: str) -> None:
    """Compile modules to byte code that is never compared with its source, since the root is read-only."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    # one process, in order: what several would share in memory decides about references in the byte code
    compileall.compile_dir(
        root / folder, maxlevels=40, quiet=2, stripdir=root, prependdir="/", invalidation_mode=mode, workers=1
    )


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser("root_filesystem.py", description="Puts together the file system of an image.")
    commands = parser.add_subparsers(dest="command", required=True)
    built = commands.add_parser("wheels")
    built.add_argument("out", type=Path)
    built.add_argument("projects", nargs="*", metavar="server|agent")
    for name, what in (("os", "PACKAGE"), ("packages", "REQUIREMENT")):
        command = commands.add_parser(name)
        command.add_argument("root", type=Path)
        command.add_argument("--arch", choices=sorted(PLATFORMS), required=True)
        command.add_argument("wanted", nargs="+", metavar=what)
        if name == "os":
            command.add_argument(
                "--data", type=Path, required=True, help="folder of the volume: the user of the image writes there"
            )
        else:
            command.add_argument("--wheels", type=Path, required=True, help="folder of wheels that no index has")
            command.add_argument("-c", dest="constraints", type=Path, help="exact versions")
            command.add_argument("--program", action="append", default=[], metavar="NAME=MODULE:FUNCTION")
            command.add_argument(
                "--bare", action="store_true", help="ROOT itself gets the packages: no programs, nothing compiled"
            )
            command.add_argument("--python", default=PYTHON, help="version of Python that they are for, with --bare")
    args = parser.parse_args()
    if args.command == "wheels":
        build_wheels(args.out, args.projects)
        return 0
    if args.command == "os":
        put_os(args.root, args.arch, args.wanted)
        compile_all(args.root, STANDARD_LIBRARY)
        folder = args.root / args.data.relative_to("/")
        folder.mkdir(parents=True)
        os.chown(folder, UID, 0)
        folder.chmod(0o770)
        return 0
    versions = ["-c", str(args.constraints)] if args.constraints else []
    wanted = [*versions, *args.wanted]
    if args.bare:
        put_packages(args.root, args.arch, args.wheels, wanted, args.python)
        return 0
    put_packages(args.root / SITE, args.arch, args.wheels, wanted)
    put_programs(args.root, args.program)
    compile_all(args.root, SITE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
