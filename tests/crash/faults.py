"""The preloaded shim (`shim/faults.c`) as tests use it: build it, give an agent its environment, choose what breaks.

Needs a C compiler (`cc`); without one `NoCompilerError` says so. The shim touches nothing but processes that are given its environment.
"""

import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).parent / "shim" / "faults.c"
COUNT, KILL, TEAR, FAIL = range(4)
FOREVER = (1 << 63) - 1
_FIELDS = ("points", "first", "last", "mode", "error", "fired", "clock_s", "writes")


class NoCompilerError(RuntimeError):
    """No C compiler: the shim cannot be built."""


def library() -> Path:
    """Return the built shim, kept in the temporary folder under the digest of its source."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompilerError("the fault shim needs a C compiler: apt-get install gcc libc6-dev")
    name = f"edgefleet-faults-{os.getuid()}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    path = Path(tempfile.gettempdir()) / name
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", part, SOURCE, "-ldl"], check=True, capture_output=True
        )
        part.replace(path)
    return path


class Faults:
    """What the shim in the processes of one agent shall do, changed while they run."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.root = root
        self.log = folder / "faults.log"
        self._path = folder / "faults.state"
        self._path.write_bytes(bytes(8 * len(_FIELDS)))
        with self._path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * len(_FIELDS))

    def environment(self, *, record: bool = False) -> dict[str, str]:
        """Return what a process needs in its environment. record: also write every point with its bytes to `log`."""
        found = {"LD_PRELOAD": str(library()), "FAULT_STATE": str(self._path), "FAULT_ROOT": str(self.root)}
        return found | ({"FAULT_LOG": str(self.log)} if record else {})

    def _get(self, name: str) -> int:
        return int(struct.unpack_from("=q", self._map, 8 * _FIELDS.index(name))[0])

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("=q", self._map, 8 * _FIELDS.index(name), value)

    @property
    def points(self) -> int:
        """How many points were passed since `arm`."""
        return self._get("points")

    @property
    def fired(self) -> int:
        """How many of them were broken."""
        return self._get("fired")

    @property
    def writes(self) -> int:
        """Successful write calls of all descriptors since `arm`."""
        return self._get("writes")

    def arm(self, mode: int, first: int = 0, last: int | None = None, error: int = 0) -> None:
        """Number the points anew and break those from `first` to `last` (None: that one only; first 0: none)."""
        self._set("last", 0)
        for name, value in (("points", 0), ("fired", 0), ("writes", 0), ("mode", mode), ("error", error)):
            self._set(name, value)
        self._set("first", first)
        self._set("last", first if last is None else last)

    def calm(self) -> None:
        """Break nothing from now on."""
        self._set("last", 0)

    def turn_clock(self, seconds: int) -> None:
        """Set the wall clock of the processes so many seconds ahead of the real one."""
        self._set("clock_s", seconds)


@contextmanager
def faults(root: Path) -> Iterator[Faults]:
    """Yield faults for the processes of an agent whose state folder is `root`."""
    with tempfile.TemporaryDirectory(prefix="ef-faults-") as name:
        yield Faults(Path(name), root)
