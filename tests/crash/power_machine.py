"""A virtual machine for `power_cuts.py`: Debian's kernel and Python, the agent, and a disk of its own for the agent's state.

The image of the system is made once into `EDGEFLEET_POWER_CACHE` or ~/.cache/edgefleet; that needs root and a network. The kernel boots
directly, its NVMe and ext4 drivers are built in. The processor is emulated, so that the soak runs anywhere; `EDGEFLEET_POWER_ACCEL=kvm` is
faster where a machine has it.
"""

import hashlib
import json
import lzma
import os
import random
import shutil
import struct
import subprocess
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from tests.crash import power_disk, power_guest
from tests.house import arm
from tests.house.tree import ROOT

QEMU: Final = "qemu-system-x86_64"
NEEDED: Final = (QEMU, "mmdebstrap", "mkfs.ext4", "e2fsck", "debugfs", "dpkg-deb", "apt-get", "chroot")
RECIPE: Final = "2"
PARTITION_AT, SIGNATURE = 1 << 20, "0e0f1ee7"
"""The kernel finds its root by the signature of a partition table: it numbers disks in any order."""
KERNEL: Final = "linux-image-cloud-amd64"
DEBIAN: Final = f"{arm.DEBIAN},busybox-static"
MODULES: Final = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
INIT: Final = """#!/usr/bin/busybox sh
b=/usr/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev 2>/dev/null
for d in /tmp /run /dev/shm; do $b mkdir -p $d; $b mount -t tmpfs tmpfs $d; done
for m in failover net_failover virtio_net; do $b insmod /modules/$m.ko; done
$b ip link set lo up; $b ip addr add 10.0.2.15/24 dev eth0; $b ip link set eth0 up
state() { for d in /dev/nvme0n1 /dev/nvme0n2; do [ -e $d ] && [ ! -e ${d}p1 ] && echo $d; done; }
for i in 1 2 3 4 5 6 7 8 9 10; do [ -n "$(state)" ] && break; $b sleep 1; done
$b mount -t ext4 $(state) /state || { echo "power-cuts: {\\"mount\\": false}"; exec $b sleep 1000; }
export PATH=/usr/bin PYTHONPATH=/opt/site:/opt/agent HOME=/tmp PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 /guest.py PORT
"""


def missing() -> list[str]:
    """Return what is not there: programs, and the rights to make a system's image."""
    return [name for name in NEEDED if shutil.which(name) is None] + (["root"] if os.geteuid() else [])


def system() -> tuple[Path, Path]:
    """Return the folder with the root file system and the kernel, made when they are not there yet. Blocks on network and disk."""
    wanted = [one for one in arm.wanted() if Requirement(one).name not in arm.FOR_TESTS]
    key = hashlib.sha256("\n".join([RECIPE, arm.SUITE, DEBIAN, *wanted]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("EDGEFLEET_POWER_CACHE") or arm.cache())
    made = cache / f"power-{key}"
    if not made.exists():
        new = made.with_name(f"{made.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _make(new, wanted)
        new.rename(made)
    return made / "root", made / "vmlinuz"


def _make(folder: Path, wanted: list[str]) -> None:
    root = folder / "root"
    flags = ["--mode=root", "--variant=extract", f"--include={DEBIAN}", "--quiet"]
    subprocess.run(["mmdebstrap", *flags, arm.SUITE, str(root), *arm.sources(arm.SUITE)], check=True)
    for name in ("lib", "lib64", "bin", "sbin"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    platforms = [flag for name in PLATFORMS for flag in ("--platform", name)]
    pip = ["python3", "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
    wheels = folder / "wheels"
    subprocess.run([*pip, *platforms, "--python-version", arm.PYTHON, "-d", str(wheels), *wanted], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "opt" / "site")
    shutil.rmtree(wheels)
    _compile(root, f"/usr/lib/python{arm.PYTHON}", "/opt/site")
    _add_kernel(folder, root)


def _compile(root: Path, *folders: str) -> None:
    """Compile Python files: an emulated processor would take seconds for that, at each start."""
    command = ["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", *folders]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def _add_kernel(folder: Path, root: Path) -> None:
    shown = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=True).stdout
    package = next(line.split()[-1] for line in shown.splitlines() if "Depends: linux-image" in line)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
    deb, tree = next(folder.glob("linux-image-*.deb")), folder / "kernel"
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
    shutil.copy(next((tree / "boot").glob("vmlinuz-*")), folder / "vmlinuz")
    (root / "modules").mkdir()
    for name in MODULES:
        found = next((tree / "usr/lib/modules").glob(f"*/kernel/{name}.ko.xz"))
        (root / "modules" / f"{Path(name).name}.ko").write_bytes(lzma.decompress(found.read_bytes()))
    shutil.rmtree(tree)
    deb.unlink()


def write_disks(folder: Path, state: Path, port: int, environment: Mapping[str, str]) -> None:
    """Write `system.img`, with this tree's agent, and `state.img`, an ext4 with the agent's state folder."""
    root, _ = system()
    (folder / "tree").mkdir()
    subprocess.run(["cp", "-a", f"{root}/.", str(folder / "tree")], check=True)
    tree = folder / "tree"
    for name in ("proc", "sys", "dev", "tmp", "run", "state"):
        (tree / name).mkdir(exist_ok=True)
    shutil.copytree(ROOT / "agent", tree / "opt" / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(power_guest.__file__, tree / "guest.py")
    (tree / "environment.json").write_text(json.dumps(dict(environment)))
    (tree / "init").write_text(INIT.replace("PORT", str(port)))
    (tree / "init").chmod(0o755)
    _compile(tree, "/opt/agent")
    _ext4(tree, folder / "system.img", "2G", partition=True)
    shutil.rmtree(tree)
    holder = folder / "holder"
    shutil.copytree(state, holder / "agent")
    _ext4(holder, folder / "state.img", "96M")


def _ext4(source: Path, image: Path, size: str, *, partition: bool = False) -> None:
    options = f"root_owner=0:0,offset={PARTITION_AT if partition else 0}"
    subprocess.run(["mkfs.ext4", "-q", "-E", options, "-d", str(source), str(image), size], check=True)
    if partition:
        sectors = (image.stat().st_size - PARTITION_AT) // 512
        table = struct.pack("<LHB3xB3xLL", int(SIGNATURE, 16), 0, 0, 0x83, PARTITION_AT // 512, sectors)
        with image.open("r+b") as disk:
            disk.seek(0x1B8)
            disk.write(table)
            disk.seek(0x1FE)
            disk.write(b"\x55\xaa")


class Machine:
    """One virtual machine that may lose its power and get it again. reports: what the guest said since it started.

    Its files: system.img, state.img, and of each run base.img (state.img as it was at the start) and log.img (all writes since).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kernel = system()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.reports: list[dict[str, Any]] = []
        self.console: list[str] = []

    def start(self) -> None:
        """Give it power."""
        disks = ["-device", "nvme,id=nvme,serial=power"]
        shutil.copyfile(self._folder / "state.img", self._folder / "base.img")
        (self._folder / "log.img").write_bytes(b"")
        logged = f"file.driver=file,file.filename={self._folder / 'state.img'}"
        log = f"log.driver=file,log.filename={self._folder / 'log.img'}"
        files = (
            f"driver=file,node-name=d1,filename={self._folder / 'system.img'},read-only=on",
            f"driver=blklogwrites,node-name=d2,{logged},{log}",
        )
        for number, file in enumerate(files, 1):
            disks += ["-blockdev", file, "-device", f"nvme-ns,drive=d{number},bus=nvme,nsid={number}"]
        words = f"console=ttyS0 root=PARTUUID={SIGNATURE}-01 rootwait ro init=/init panic=-1 quiet"
        boot = ["-kernel", str(self._kernel), "-append", words]
        net = ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]
        command = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio", "-m", "1024"]
        self.reports, self.console = [], []
        accelerator = ["-accel", os.environ.get("EDGEFLEET_POWER_ACCEL") or "tcg", "-cpu", "max"]
        self.process = subprocess.Popen(
            [*command, *accelerator, *disks, *boot, *net],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def cut(self, draw: random.Random) -> tuple[int, int]:
        """Take its power away: its memory is lost, and of what its disk had not flushed, a part. Returns what `power_disk.cut` does."""
        self.stop()
        return self.leave("state.img", draw)

    def leave(self, image: str, draw: random.Random, part: float = 1.0) -> tuple[int, int]:
        """Write what a cut of the run that ended may have left, after that part of its writes."""
        base, log = self._folder / "base.img", self._folder / "log.img"
        return power_disk.cut(base, log, self._folder / image, draw, part)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            self.console.append(line)
            _, mark, said = line.partition(power_guest.MARK)
            if mark and process is self.process:
                try:
                    self.reports.append(json.loads(said))
                except ValueError:
                    continue
