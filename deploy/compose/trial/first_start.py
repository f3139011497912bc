"""Makes the server of a trial when its volume is empty, and writes the broker's files: what is good there is kept.

Waits for secrets and database: a failed command leaves nothing, so it is tried again. What `init` prints when it works is kept out of the
log, since the first token is in it; its errors are not. The image has no shell.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

TRIES, PAUSE_S = 90, 2.0


def tried(*command: str) -> None:
    """Run a command until it works. Exits with its last error when it never does."""
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(PAUSE_S)
    sys.exit(done.stderr)


data = Path(os.environ.get("EDGEFLEET_SERVER_DATA", "/var/lib/edgefleet-server"))
if not (data / "server.toml").exists():
    tried("edgectl", "server", "init", str(data))
folder = os.environ["EDGEFLEET_SERVER_BROKER_FOLDER"]
files = ["edgectl", "server", "broker-files", "--data", str(data), "--kind", "mosquitto", "--out", folder]
tried(*files, "--folder", "/mosquitto/config", *[part for name in sys.argv[1:] for part in ("--host", name)])
