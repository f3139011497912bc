"""A TPM 2.0 in software (Debian: swtpm), which tpm2-tools reach through their TCTI as they reach that of a board."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NEEDS = ("swtpm", "tpm2_unseal")
MISSING = [tool for tool in NEEDS if shutil.which(tool) is None]
WHY = "no software TPM here (Debian: swtpm tpm2-tools)"


class Tpm:
    """One TPM with a seed of its own: another board. Give `environment` to what shall find it."""

    def __init__(self) -> None:
        """Start it. Its folder has a short name: sockets lie there."""
        self._folder = tempfile.TemporaryDirectory(prefix="ef-tpm-")
        socket = Path(self._folder.name, "t")
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._folder.name}"),
                *("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"),
                *("--flags", "not-need-init,startup-clear"),
            ],
            stderr=subprocess.DEVNULL,
        )
        self.environment = {"TPM2TOOLS_TCTI": f"swtpm:path={socket}"}
        until = time.monotonic() + 60.0
        while not socket.exists():
            assert time.monotonic() < until, "swtpm does not start"
            time.sleep(0.01)

    def close(self) -> None:
        """End it; its seed is lost."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
