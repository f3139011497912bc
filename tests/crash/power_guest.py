"""Runs in the virtual machine of `power_cuts.py`: starts the agent, relays its broker, and says each half second what it serves.

Started by /init with the broker's port. Standard output is the serial line; each report is one line of JSON behind `MARK`.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

MARK = "power-cuts: "
HOST = "10.0.2.2"
STATE = Path("/state/agent")
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 0, 0, 0]}]}


async def relay(port: int) -> None:
    """Take connections of this machine to the host: the server's certificate names 127.0.0.1."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs = await asyncio.open_connection(HOST, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, theirs[1]), copy(theirs[0], writer))

    server = await asyncio.start_server(taken, "127.0.0.1", port)
    await asyncio.gather(server.serve_forever(), asyncio.to_thread(watch))


def report() -> dict[str, object]:
    """Return what serves: version that answers, digests of the bytes in its slot and in the other one, and what the agent says of itself.

    fallback: "" without one, or when its slot does not hold what the agent says.
    """
    status = json.loads((STATE / "run" / "status.json").read_text())
    model = status["models"][0]
    slots = STATE / "models" / "digits"
    url = f"{status['infer_url']}/v2/models/digits/infer"
    asked = urllib.request.Request(url, json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        version = json.load(answer)["model_version"]
    other = slots / ("B" if model["slot"] == "A" else "A")
    fallback = _digest(other) if model.get("previous_sha256") else ""
    return {
        "version": version,
        "sha256": _digest(slots / model["slot"]),
        "active": model["active_sha256"],
        "phase": model["phase"],
        "fallback": fallback if fallback == model.get("previous_sha256") else "",
    }


def _digest(slot: Path) -> str:
    return hashlib.sha256((slot / "bundle").read_bytes()).hexdigest()


def watch() -> None:
    """Run the agent and report until the power goes."""
    environment = {**os.environ, **json.loads(Path("/environment.json").read_text())}
    with Path("/state/agent.log").open("ab") as log:
        command = [sys.executable, "-m", "edgefleet_agent", "run", "--state", str(STATE)]
        agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    while True:
        time.sleep(0.5)
        try:
            found = report()
        except (OSError, ValueError, KeyError, IndexError) as error:
            found = {"nothing": f"{type(error).__name__}: {error}"[:200], "agent": agent.poll()}
        print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1])))
