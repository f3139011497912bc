"""Makes the server's data folder in the first pod, and waits for it in all others: `first_start.py make | wait`.

`server.toml` is written last, so with it there are keys, root of trust and first token. What `init` prints is kept out of the log,
since the first token is in it; its errors are not. The image has no shell.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

data = Path(os.environ["EDGEFLEET_SERVER_DATA"])
is_maker = sys.argv[1] == "make" and os.environ["POD_NAME"].endswith("-0")
if is_maker and not (data / "server.toml").exists():
    command = ["edgectl", "server", "init", str(data)]
    sys.exit(subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode)
while not (data / "server.toml").exists():
    time.sleep(2)
