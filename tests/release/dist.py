"""`./dev dist [DIR]`: the wheels of this tree, the agent's Debian package where its tools are here, and their checksums."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.release import artefacts
from tests.release.refusal import RefusalError
from tests.release.signature import SUMS

PACKAGES = ("edgefleet-*.whl", "edgefleet_agent-*.whl", "edgefleet-agent_*_all.deb")


def build(root: Path, out: Path) -> list[Path]:
    """Build the tree as it stands, and return the packages. What an earlier call left in `out` goes. Raises RefusalError."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in PACKAGES:
        for old in out.glob(pattern):
            old.unlink()
    epoch = artefacts.epoch_of(root, "HEAD")
    artefacts.build_help(root, epoch)
    artefacts.build_python(root, out, epoch, ("wheel",))
    try:
        artefacts.build_debian(root, out, epoch)
    except RefusalError as refusal:
        sys.stderr.write(f"note: no Debian package: {refusal.why}\n")
    packages = [path for pattern in PACKAGES for path in sorted(out.glob(pattern))]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in packages]
    (out / SUMS).write_text("".join(sums))
    return packages


def main() -> int:
    """Build, and print the packages, one a line. Return the exit code."""
    root = Path(__file__).resolve().parents[2]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "dist"
    try:
        packages = build(root, out.resolve())
    except RefusalError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in packages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
