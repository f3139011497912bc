"""Starts a worker or an install child as agentd asks, with a runtime that does what the model tells it to do wrong.

The agent is the real one, and so is the worker; only the native runtime's `run` and `load` are wrapped, for models that carry a
fault: `EFFAULT{json}` anywhere in the file. Used through the setting `python_command`.

fault: {"do", "at": "load" | "run", "after": n, "amount": x, "id"}. after: runs of this process that are still good (the golden test
needs nine). id: names the file of its acts. do:
  segv            the process dies               hang      it never comes back         slow    it takes `amount` seconds more
  nan, wrong      the answers are so             leak      `amount` bytes stay         oom     `amount` bytes are asked for
  kill-agent      the whole agent is killed, as a device that restarts
"""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgefleet_runtime.port

MARK = b"EFFAULT"
_load = edgefleet_runtime.port.load
_kept: list[bytes] = []


class Misbehaving:
    """A runtime with a fault."""

    def __init__(self, inner: Any, fault: dict[str, Any]) -> None:
        self._inner = inner
        self._fault = fault
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, inputs: Any) -> Any:
        """Run, well for as long as the fault says."""
        self._runs += 1
        outputs = self._inner.run(inputs)
        if self._fault["at"] == "run" and self._runs > self._fault.get("after", 0):
            return act(self._fault, outputs)
        return outputs


def act(fault: dict[str, Any], outputs: Any = None) -> Any:
    """Do what the fault says; returns what becomes of the outputs."""
    amount = fault.get("amount", 0)
    with (Path(os.environ["MISBEHAVE_ACTS"]) / fault["id"]).open("a") as file:
        file.write(f"{time.time()}\n")
    match fault["do"]:
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            while True:
                time.sleep(3600)
        case "slow":
            time.sleep(amount)
        case "leak" | "oom":
            _kept.append(b"\1" * int(amount))
        case "kill-agent":
            os.kill(0, signal.SIGKILL)
        case "nan":
            return {name: np.full_like(value, np.nan) for name, value in outputs.items()}
        case "wrong":
            return {name: value[..., ::-1] + 1 for name, value in outputs.items()}
    return outputs


def load(name: str, model: bytes | memoryview, *args: Any, **kwargs: Any) -> Any:
    """Return the runtime's model, with its fault if it carries one."""
    at = bytes(model).find(MARK)
    if at < 0:
        return _load(name, model, *args, **kwargs)
    fault, _ = json.JSONDecoder().raw_decode(bytes(model)[at + len(MARK) :].decode("utf-8", "replace"))
    if fault["at"] == "load":
        act(fault)
    return Misbehaving(_load(name, model, *args, **kwargs), fault)


if __name__ == "__main__":
    edgefleet_runtime.port.load = load  # type: ignore[assignment]
    assert sys.argv[1] == "-m", sys.argv
    module = sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
