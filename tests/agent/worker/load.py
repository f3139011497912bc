"""A process that asks at a fixed rate and writes down every answer: `python -m tests.agent.worker.load PORT RATE FILE MODEL…`.

Apart from the one that swaps or kills, so that neither waits for the other's interpreter. One line of JSON an answer: model, version,
status (0: the connection failed), sent and received as CLOCK_MONOTONIC seconds, which all processes of a machine share, and tries. It says
`asking` once every lane has its first answer, and ends when its standard input ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TextIO

LANES = 8
_writing = threading.Lock()
_begun: set[int] = set()
"""Lanes that have an answer."""


def ask(connection: HTTPConnection, model: str, tries: int) -> tuple[str, int, int]:
    """Return version, status and how often it was sent. tries: 1 for a caller that never asks twice."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    for number in range(1, tries + 1):
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
            return answer.get("model_version", answer.get("error", "")), response.status, number
        except (OSError, HTTPException) as error:
            connection.close()
            reason = repr(error)
    return reason, 0, tries


def lane(
    number: int, port: int, rate: float, models: list[str], tries: int, out: TextIO, stop: threading.Event
) -> None:
    """Ask in turn for each model, at an equal share of the rate, on one kept-alive connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    step = LANES / rate
    due = time.monotonic() + number * step / LANES
    count = number
    while not stop.wait(max(0.0, due - time.monotonic())):
        model = models[count % len(models)]
        sent = time.monotonic()
        version, status, number_of_tries = ask(connection, model, tries)
        received = time.monotonic()
        line = json.dumps([model, version, status, sent, received, number_of_tries]) + "\n"
        with _writing:
            out.write(line)
            if number not in _begun:
                _begun.add(number)
                if len(_begun) == LANES:
                    print("asking", flush=True)
        count += 1
        due = max(due + step, received)  # a caller that was held up does not make up for it
    connection.close()


def main() -> None:
    """Ask until standard input ends."""
    port, rate, tries, path, *models = sys.argv[1:]
    stop = threading.Event()
    with Path(path).open("w") as out:
        threads = [
            threading.Thread(target=lane, args=(i, int(port), float(rate), models, int(tries), out, stop))
            for i in range(LANES)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
